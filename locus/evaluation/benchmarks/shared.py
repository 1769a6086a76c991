"""What benchmarks share: counting items, choosing an extractor, frames of boxes, a rule beside a judge. Layer 2."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import TypeVar

from locus.boxes import UNIT, frame_size
from locus.errors import LocusError
from locus.evaluation.benchmark import Extracted, Item, Reading, Verdict
from locus.evaluation.judge import Judge
from locus.evaluation.reading.responses import final_span
from locus.evaluation.statistics import Statistic
from locus.types import Box, Frame

Read = TypeVar("Read")
EXTRACTORS = ("locus", "vlmevalkit")


def counted(items: Iterable[Item], path: str, name: str, rows: int | None) -> Iterator[Item]:
    """The items, ids that come again with "#2", "#3". Raises LocusError, after the last, if they are not ``rows``."""
    seen: Counter[str] = Counter()
    for item in items:
        seen[item.item_id] += 1
        again = seen[item.item_id]
        yield item if again == 1 else replace(item, item_id=f"{item.item_id}#{again}")
    if rows is not None and seen.total() != rows:
        raise LocusError(
            f"{path}: {name} has {rows} items, found {seen.total()}; fetch the file again, pass benchmark.path= of "
            "the one file if there are others beside it, or benchmark.rows=null to score another selection"
        )


def read_by(extractor: str, locus: Callable[[], Read], vlmevalkit: Callable[[], Read]) -> Read:
    """What the extractor of this name reads; raises LocusError for another name."""
    match extractor:
        case "locus":
            return locus()
        case "vlmevalkit":
            return vlmevalkit()
    raise LocusError(f"unknown extractor {extractor!r}: pass {' or '.join(EXTRACTORS)}")


def written_size(item: Item, frame: Frame, truth: Box) -> tuple[float, float]:
    """Width and height of the frame that boxes in a response are written in."""
    if frame is Frame.PROCESSED and item.processed_size is None:
        raise LocusError(
            f"item {item.item_id}: boxes are written in the processed frame, whose size the predictions do not give: "
            "predict again, or pass backbone.frame=file or backbone.frame=unit1000 if the policy writes one of them"
        )
    return frame_size(frame, (truth.width, truth.height), item.processed_size or (UNIT, UNIT))


def whole(text: str) -> Extracted:
    """All of the text, if there is any."""
    return Extracted(text.strip(), Reading.OK) if text.strip() else Extracted(None, Reading.NONE)


def by_column(column: str, statistic: Statistic) -> Statistic:
    """The statistic with this column in the place of ``correct``."""
    return Statistic(lambda table, weights: statistic(table.assign(correct=table[column]), weights), statistic.rows)


def labelled(scores: Mapping[str, Statistic], judge: Judge | None) -> dict[str, Statistic]:
    """Each score as ``<name>_rule``; with a judge as ``<name>_judge`` too: the two are never taken for each other."""
    kinds = ("judge", "rule") if judge else ("rule",)
    return {f"{name}_{kind}": by_column(kind, score) for kind in kinds for name, score in scores.items()}


def marked(
    item: Item, response: str, finished: bool, extracted: Extracted, rule: bool, judge: Judge | None, question: str = ""
) -> Verdict:
    """A verdict with the columns that `labelled` reads; ``correct`` is the judge's mark where there is a judge.

    The judge sees the response from the end of its thoughts on; one that was cut off is wrong unasked.
    """
    columns: dict[str, str | float] = {**item.groups, "rule": float(rule and extracted.answer is not None)}
    if judge is not None:
        gold = str(item.answer)
        gold += f" ({item.options[gold]})" if gold in item.options else ""
        span = final_span(response, finished)
        columns["judge"] = float(finished and judge.equal(question or item.prompt, gold, span))
    return Verdict(item.item_id, extracted, float(columns["judge" if judge else "rule"]), columns)
