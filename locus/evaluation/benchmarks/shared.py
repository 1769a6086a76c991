"""What benchmarks share: counting items, a rule beside a judge."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

from locus.errors import LocusError
from locus.evaluation.benchmark import Item, Verdict
from locus.evaluation.judge import Judge
from locus.evaluation.reading.responses import Extracted, final_span
from locus.evaluation.statistics import Statistic, by_column
from locus.types import Response


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


def labelled(scores: Mapping[str, Statistic], judge: Judge | None) -> dict[str, Statistic]:
    """Each score as ``<name>_rule``; with a judge as ``<name>_judge`` too: the two are never taken for each other."""
    kinds = ("judge", "rule") if judge else ("rule",)
    return {f"{name}_{kind}": by_column(kind, score) for kind in kinds for name, score in scores.items()}


def marked(
    item: Item, response: Response, extracted: Extracted, rule: bool, judge: Judge | None, question: str = ""
) -> Verdict:
    """A verdict with the columns that `labelled` reads; ``correct`` is the judge's mark where there is a judge.

    The judge sees the response from the end of its thoughts on; one that was cut off is wrong unasked.
    """
    columns: dict[str, str | float] = {**item.groups, "rule": float(rule and extracted.answer is not None)}
    if judge is not None:
        gold = str(item.answer)
        gold += f" ({item.options[gold]})" if gold in item.options else ""
        span = final_span(response)
        columns["judge"] = float(response.finished and judge.equal(question or item.prompt, gold, span))
    return Verdict(item.item_id, extracted, float(columns["judge" if judge else "rule"]), columns)
