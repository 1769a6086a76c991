"""RealWorldQA: 765 questions about everyday photos, answered by a letter, a word or a number."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

from locus.evaluation.benchmark import Item, Verdict
from locus.evaluation.benchmarks.choice import ChoiceBenchmark, options_in, vlmevalkit_item
from locus.evaluation.benchmarks.readers import Row
from locus.evaluation.reading.extractors import Extractor
from locus.evaluation.reading.responses import Extracted, Reading, final_span
from locus.evaluation.reading.vlmevalkit import bare
from locus.evaluation.statistics import Statistic, accuracy, by_column
from locus.types import Response, View

BROKEN = ("105", "633", "731")
"""Rows of the TSV that lost an option when it was made (VLMEvalKit, issue 677): their answer may be no longer right."""


@dataclass(frozen=True)
class RealWorldQA(ChoiceBenchmark):
    """RealWorldQA (xAI 2024) from the parquet, or from VLMEvalKit's TSV, where every row has lettered options.

    Prompt of the parquet: the official question as it is, which holds options and one of two instructions, so that none
    is added; of the TSV VLMEvalKit's default.
    """

    name: str = "realworldqa"
    rows: int | None = 765

    columns: ClassVar = ("image", "question", "answer")

    def judge(self, item: Item, response: Response, view: View, extractor: Extractor) -> Verdict:
        """Letters as of every choice; a word or number is right when it equals the answer once both are normalised.

        VLMEvalKit has no rule for words: there, and in the column ``strict``, the whole response must equal the answer
        but for case, outer blanks and a full stop at its end (lmms-eval's rule).
        """
        strict = float(bare(response.text) == bare(str(item.answer)))
        if item.groups["kind"] == "letter":
            verdict = super().judge(item, response, view, extractor)
            return replace(verdict, columns={**verdict.columns, "strict": strict})
        truth = extractor.short(Response(str(item.answer))).answer or item.answer
        read, asked, said = extractor.short(response), 0.0, final_span(response)
        if self.judge_model is not None and read.answer is None and response.finished and said.strip():
            asked = 1.0
            if self.judge_model.equal(item.prompt, str(item.answer), said):
                read = Extracted(str(truth), Reading.JUDGED)
        return self._verdict(replace(item, answer=truth), read, answerable=1.0, strict=strict, judged=asked)

    def statistics(self) -> Mapping[str, Statistic]:
        """Over all rows, as judged and by strict equality; of letters and of words; and without the broken rows."""
        kinds = {kind: accuracy(kind=kind) for kind in ("letter", "short")}
        scores = {"accuracy": accuracy(), "strict": by_column("strict", accuracy())}
        return {**scores, **kinds, "without_broken": accuracy(row="whole")}

    def _item(self, row: Row) -> Item:
        if row.file.suffix == ".tsv":
            item = vlmevalkit_item(row, {})
            broken = item.item_id in BROKEN or item.answer not in item.options
            return replace(item, groups={"kind": "letter", "row": "broken" if broken else "whole"})
        question, answer, pictures = row.text("question"), row.text("answer").strip(), row.pictures("image")
        options = options_in(question)
        letter = answer in options or (len(answer) == 1 and answer in self.letters)
        groups = {"kind": "letter" if letter else "short", "row": "whole"}
        return Item(row.item_id("index"), question, answer, pictures, options if letter else {}, groups)
