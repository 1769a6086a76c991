"""AI2D: 3088 questions about science diagrams."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from locus.evaluation.benchmark import Item
from locus.evaluation.benchmarks.choice import (
    ChoiceBenchmark,
    lettered,
    vlmevalkit_item,
    vlmevalkit_prompt,
)
from locus.evaluation.benchmarks.readers import Row


@dataclass(frozen=True)
class AI2D(ChoiceBenchmark):
    """AI2D's test split (Kembhavi et al. 2016) from VLMEvalKit's TSV or the parquet.

    Tables usually give the masked diagrams, whose labels are hidden under letters (AI2D_TEST); those without mask
    (AI2D_TEST_NO_MASK, ai2d-no-mask) score several points apart: give them another ``name``. Under the masks options
    are letters too, so that option A may read "C". Prompt: VLMEvalKit's default, of both files.
    """

    name: str = "ai2d"
    rows: int | None = 3088

    columns: ClassVar = ("image", "question", "options", "answer")

    def _item(self, row: Row) -> Item:
        if row.file.suffix == ".tsv":
            return vlmevalkit_item(row, {})
        options, pictures = lettered(row.listed("options")), row.pictures("image")
        prompt = vlmevalkit_prompt(row.text("question"), options)
        return Item(row.item_id("index"), prompt, row.indexed("answer", options), pictures, options, {})
