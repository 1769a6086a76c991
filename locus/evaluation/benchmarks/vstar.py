"""V*Bench: small objects in large photos; 115 questions of attributes and 76 of relations."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from locus.boxes import is_valid
from locus.errors import LocusError
from locus.evaluation.benchmark import Item, Picture
from locus.evaluation.benchmarks.choice import (
    VLMEVALKIT_COLUMNS,
    ChoiceBenchmark,
    letter_of,
    options_in,
    vlmevalkit_item,
)
from locus.evaluation.benchmarks.readers import Row
from locus.evaluation.statistics import Statistic, accuracy
from locus.types import Box, Frame

CATEGORIES = ("direct_attributes", "relative_position")


@dataclass(frozen=True)
class VStar(ChoiceBenchmark):
    """V*Bench (Wu and Xie 2023) from its official folder, the parquet or VLMEvalKit's TSV.

    The official folder asks ``test_questions.jsonl``, whose letters are shuffled (in the files beside the pictures the
    first option is always the right one), and takes the evidence boxes from the file beside each picture. The other
    two have no boxes. Prompt: the official text, which holds options and instruction; of a TSV VLMEvalKit's default.
    """

    name: str = "vstar"
    rows: int | None = 191

    tsv_columns: ClassVar = (*VLMEVALKIT_COLUMNS, "category")
    columns: ClassVar = ("question_id", "image", "text", "label", "category")

    def statistics(self) -> Mapping[str, Statistic]:
        """Over all 191 rows, which is not the mean of the two categories, and of each category."""
        return {"accuracy": accuracy(), **{name: accuracy(category=name) for name in CATEGORIES}}

    def _file(self) -> Path:
        questions = Path(self.path) / "test_questions.jsonl"
        return questions if questions.is_file() else Path(self.path)

    def _item(self, row: Row) -> Item:
        groups = {"category": row.text("category")}
        if row.file.suffix == ".tsv":
            return vlmevalkit_item(row, groups)
        text, pictures = row.text("text"), row.pictures("image")
        options, answer = options_in(text), letter_of(row, "label")
        names, evidence = _evidence(pictures[0]) if row.file.suffix == ".jsonl" else ((), ())
        return Item(row.item_id("question_id"), text, answer, pictures, options, groups, evidence=evidence, names=names)


def _evidence(picture: Picture) -> tuple[tuple[str, ...], tuple[Box, ...]]:
    """Names and boxes (x, y, width and height in pixels) of the JSON file beside an official picture."""
    file = Path(picture.key).with_suffix(".json")
    width, height = picture.size
    try:
        beside = json.loads(file.read_text(encoding="utf-8"))
        boxes = [[float(value) for value in box] for box in beside["bbox"]]
        corners = [(max(x, 0.0), max(y, 0.0), min(x + w, width), min(y + h, height)) for x, y, w, h in boxes]
        if not all(map(is_valid, corners)):
            raise ValueError(f"{boxes} are not all in {width} x {height} pixels")
        names = tuple(map(str, beside["target_object"]))
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise LocusError(
            f"{file}: no boxes can be read ({type(error).__name__}: {error}); fetch the whole folder again"
        ) from None
    return names, tuple(Box(*corner, Frame.FILE, width, height) for corner in corners)
