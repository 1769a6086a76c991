"""ZoomBench: fine detail, asked of the whole picture and of the crop that shows it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from locus.evaluation.benchmark import Item
from locus.evaluation.benchmarks.choice import options_in
from locus.evaluation.benchmarks.free_answers import FreeAnswerBenchmark
from locus.evaluation.reading.extractors import LOCUS, Extractor
from locus.evaluation.reading.responses import Extracted
from locus.evaluation.reading.short import extract_same
from locus.evaluation.statistics import Statistic, accuracy, difference
from locus.types import Response

VIEWS = {"full": "image", "crop": "crop_image"}
"""View -> the column of its picture."""
_LETTER = re.compile(r"\(?([A-J])(?:[).:]|$)")
"""Of an answer such as ``C``, ``(C)`` or ``C. red``."""


@dataclass(frozen=True)
class ZoomBench(FreeAnswerBenchmark):
    """ZoomBench (Wei et al. 2026) from its parquet: 845 questions, each asked of two pictures.

    Prompt: the official one, the file's ``query`` with options in it. Officially a model judges what a rule does not
    find right; here the rule is ours, and named so, and a judge can be given.
    """

    name: str = "zoombench"
    rows: int | None = 1690

    columns: ClassVar = (("query", "prompt"), ("response", "answer"), *VIEWS.values())

    def _items(self) -> Iterator[Item]:
        for row in self._rows():
            name, prompt = row.item_id("id"), row.text("query", "prompt")
            options, answer = options_in(prompt), row.text("response", "answer").strip()
            letter = _LETTER.match(answer)
            choice = row.optional("question_type").lower() == "mcq" or bool(letter and letter[1] in options)
            if choice and letter is None:
                raise row.error(f"the answer {answer!r} begins with no letter; fetch the file again")
            gold, shown = (letter[1], options) if choice and letter else (answer, {})
            for view, column in VIEWS.items():
                if row.cells[column] is not None:
                    groups = {"view": view, "kind": "choice" if choice else "open", "row": name}
                    yield Item(f"{name}_{view}", prompt, gold, row.pictures(column), shown, groups)

    def unit(self) -> Sequence[str]:
        """The question: its two views belong together."""
        return ("row",)

    @property
    def headline(self) -> str:
        """The accuracy on whole pictures, by the judge where there is one."""
        return self._by_best("accuracy_full")

    def _read(self, item: Item, response: Response, extractor: Extractor) -> tuple[Extracted, bool]:
        """Ours for both extractors, since VLMEvalKit has no rule; words and numbers are equal once normalised."""
        if item.groups["kind"] == "choice":
            read = LOCUS.letter(response, item.options)
            return read, read.answer == item.answer
        read = extract_same(response, str(item.answer))
        truth = LOCUS.short(Response(str(item.answer))).answer or item.answer
        return read, read.answer == truth

    def _scores(self) -> Mapping[str, Statistic]:
        """Of both views, and how much the crop gains (the "zooming gap"); of choices and of open questions."""
        full, crop = accuracy(view="full"), accuracy(view="crop")
        kinds = {
            f"accuracy_{view}_{kind}": accuracy(view=view, kind=kind) for view in VIEWS for kind in ("choice", "open")
        }
        return {"accuracy_full": full, "accuracy_crop": crop, "zooming_gap": difference(crop, full), **kinds}
