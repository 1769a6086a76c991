"""MMVP: 150 pairs of pictures that CLIP takes for one, and one question about both."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from locus.evaluation.benchmark import Item
from locus.evaluation.benchmarks.choice import (
    VLMEVALKIT_COLUMNS,
    ChoiceBenchmark,
    vlmevalkit_item,
    vlmevalkit_prompt,
)
from locus.evaluation.benchmarks.readers import Row
from locus.evaluation.statistics import Statistic, accuracy, all_right

NUMBER = ("lndex", "Index")
"""The official file spells it with a small L."""


@dataclass(frozen=True)
class MMVP(ChoiceBenchmark):
    """MMVP (Tong et al. 2024) from its official folder (Questions.csv), the parquet or VLMEvalKit's TSV.

    Two rows that follow each other are a pair: one question, two pictures, the one answer and the other. Prompt:
    VLMEvalKit's default of all three; the official script shows question and options alone and has a model grade.
    """

    name: str = "mmvp"
    rows: int | None = 300

    headline: ClassVar[str] = "pairs"
    letters: ClassVar[str] = "AB"
    columns: ClassVar = (NUMBER, "Question", "Options", "Correct Answer")
    tsv_columns: ClassVar = VLMEVALKIT_COLUMNS

    def statistics(self) -> Mapping[str, Statistic]:
        """Share of pairs with both answers right, which is the published score, and of questions."""
        return {"pairs": all_right("pair"), "accuracy": accuracy()}

    def unit(self) -> Sequence[str]:
        """The pair."""
        return ("pair",)

    def _item(self, row: Row) -> Item:
        groups = {"pair": str(row.position // 2)}
        if row.file.suffix == ".tsv":
            return vlmevalkit_item(row, groups)
        number = row.text(*NUMBER)
        listed = re.fullmatch(r"\s*\(a\)\s*(.*?)\s*\(b\)\s*(.*?)\s*", row.text("Options"), re.IGNORECASE | re.DOTALL)
        if listed is None:
            raise row.error(f"Options {row.text('Options')!r} is not like '(a) Open (b) Closed'; fetch the file again")
        options = {"A": listed[1], "B": listed[2]}
        answer = row.known("Correct Answer", row.text("Correct Answer").strip().strip("()").upper(), options)
        if row.file.suffix == ".csv":  # it names no picture: they have the rows' numbers
            row = replace(row, cells={**row.cells, "image": f"{number}.jpg"})
        prompt = vlmevalkit_prompt(row.text("Question"), options)
        return Item(number, prompt, answer, row.pictures("image"), options, groups)
