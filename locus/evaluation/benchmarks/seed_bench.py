"""SEED-Bench: its questions about single pictures, of nine dimensions."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from locus.errors import LocusError
from locus.evaluation.benchmark import Item
from locus.evaluation.benchmarks.choice import (
    VLMEVALKIT_COLUMNS,
    ChoiceBenchmark,
    letter_of,
    vlmevalkit_item,
    vlmevalkit_prompt,
)
from locus.evaluation.benchmarks.readers import Row
from locus.evaluation.statistics import Statistic, accuracy

DIMENSIONS = {
    "1": "Scene Understanding",
    "2": "Instance Identity",
    "3": "Instance Location",
    "4": "Instance Attributes",
    "5": "Instances Counting",
    "6": "Spatial Relation",
    "7": "Instance Interaction",
    "8": "Visual Reasoning",
    "9": "Text Understanding",
}
"""By ``question_type_id``; the authors' first list had 3 and 4 exchanged (AILab-CVC/SEED-Bench, issue 28)."""
CHOICES = ("choice_a", "choice_b", "choice_c", "choice_d")


@dataclass(frozen=True)
class SEEDBench(ChoiceBenchmark):
    """SEED-Bench (Li et al. 2023), questions about a picture: SEED-Bench.json, the parquet or VLMEvalKit's TSV.

    Questions about films, in the first two, are left out. Prompt: VLMEvalKit's default. The first published scores
    ranked the options by their likelihood instead of asking.
    """

    name: str = "seed_bench"
    rows: int | None = 14233

    columns: ClassVar = ("question_id", "question_type_id", "data_type", "question", *CHOICES, "answer")
    tsv_columns: ClassVar = (*VLMEVALKIT_COLUMNS, "category")

    def statistics(self) -> Mapping[str, Statistic]:
        """Over all rows, and of each dimension."""
        each = {name.lower().replace(" ", "_"): accuracy(dimension=name) for name in DIMENSIONS.values()}
        return {"accuracy": accuracy(), **each}

    def _rows(self) -> Iterator[Row]:
        rows = self._official() if self._file().suffix == ".json" else super()._rows()
        return (row for row in rows if row.optional("data_type", "image") == "image")

    def _file(self) -> Path:
        official = Path(self.path, "SEED-Bench.json")
        return official if official.is_file() else Path(self.path)

    def _official(self) -> Iterator[Row]:
        file = self._file()
        try:
            questions = json.loads(file.read_bytes())["questions"]
            rows = [dict(one) for one in questions]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise LocusError(f"{file}: has no questions ({error!r}); pass SEED-Bench.json of the authors") from None
        for number, cells in enumerate(rows, 1):
            yield Row(file, number, number - 1, cells, Path(self.images or file.parent))

    def _item(self, row: Row) -> Item:
        if row.file.suffix == ".tsv":
            return vlmevalkit_item(row, {"dimension": row.text("category")})
        kind = row.known("question_type_id", row.text("question_type_id"), DIMENSIONS)
        options = dict(zip("ABCD", (row.text(choice) for choice in CHOICES), strict=True))
        official = row.file.suffix == ".json"  # its pictures' names have no ending
        pictures = (row.picture_file(row.text("data_id")),) if official else row.pictures("image")
        prompt = vlmevalkit_prompt(row.text("question"), options)
        groups = {"dimension": DIMENSIONS[kind]}
        return Item(row.text("question_id"), prompt, letter_of(row, "answer"), pictures, options, groups)
