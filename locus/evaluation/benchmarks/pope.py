"""POPE: is an object in a COCO photo, asked in three settings."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd

from locus.errors import LocusError
from locus.evaluation.benchmark import Item
from locus.evaluation.benchmarks.file_benchmark import YesNoBenchmark
from locus.evaluation.benchmarks.readers import Row
from locus.evaluation.statistics import Statistic, accuracy, mean_of, rows_of

SETTINGS = ("random", "popular", "adversarial")
RATES = ("f1", "precision", "recall", "yes_ratio")
"""F1, precision and recall of "yes", and the share of "yes" in all answers (not in the truth, where it is a half)."""


@dataclass(frozen=True)
class POPE(YesNoBenchmark):
    """9,000 questions, 3,000 a setting; the yes questions recur in all three.

    ``path`` is VLMEvalKit's TSV (5,127 rows, each read once for every setting in its category), Hugging Face parquet,
    or the official folder of ``coco_pope_<setting>.json``, which needs ``images``, the folder of COCO val2014.
    """

    name: str = "pope"
    rows: int | None = 9000

    headline: ClassVar[str] = "f1"
    columns: ClassVar = (("image", "image_path"), "question", "answer", "category")

    def _items(self) -> Iterator[Item]:
        for row in self._official() if Path(self.path).is_dir() and self._files() else self._rows():
            answer = row.known("the answer", row.text("answer", "label").strip().lower(), ("yes", "no"))
            pictures = row.pictures("image", "image_path")
            for setting in row.text("category").split(","):
                setting = row.known("category", setting.strip(), SETTINGS)
                yield Item(  # question ids begin anew in every setting
                    f"{setting}_{row.optional('index') or row.item_id('question_id')}",
                    row.text("question", "text") + self.suffix,
                    answer,
                    pictures,
                    groups={"setting": setting, "picture": pictures[0].key},
                )

    def _files(self) -> list[Path]:
        return [file for name in SETTINGS if (file := Path(self.path, f"coco_pope_{name}.json")).is_file()]

    def _official(self) -> Iterator[Row]:
        """The official files are JSON lines whatever their name says, and name their setting only in it."""
        position = 0
        for file in self._files():
            for number, line in enumerate(_lines(file), 1):
                try:
                    cells = {**json.loads(line), "category": file.stem.removeprefix("coco_pope_")}
                except (ValueError, TypeError):
                    raise LocusError(f"{file}, line {number}: not a JSON object; fetch the file again") from None
                yield Row(file, number, position, cells, Path(self.images or self.path))
                position += 1

    def statistics(self) -> Mapping[str, Statistic]:
        """Pooled over the settings unless named after one; ``f1_mean`` is the mean of the settings' F1 (LLaVA)."""
        each = {f"{name}_{one}": found for one in SETTINGS for name, found in measures(setting=one).items()}
        return {**measures(), "f1_mean": mean_of(*(each[f"f1_{setting}"] for setting in SETTINGS)), **each}

    def unit(self) -> Sequence[str]:
        """The questions about one photo: six a setting, and half of them the same in all."""
        return ("picture",)


def _lines(file: Path) -> list[str]:
    """Raises LocusError for a file that is not text."""
    try:
        return file.read_text(encoding="utf-8").rstrip().split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise LocusError(f"{file}: cannot be read ({error}); fetch the file again") from None


def measures(**where: str) -> dict[str, Statistic]:
    """Accuracy and `RATES` among the rows whose columns have these values."""
    return {"accuracy": accuracy(**where), **{name: rates(name, **where) for name in RATES}}


def rates(name: str, **where: str) -> Statistic:
    """One of `RATES` among the rows whose columns have these values; NaN where undefined."""

    def value(table: pd.DataFrame, weights: np.ndarray) -> np.ndarray:
        chosen = rows_of(table, where)
        said, true = (table["said"] == "yes").to_numpy() & chosen, (table["truth"] == "yes").to_numpy() & chosen
        hits, claimed, there = (weights @ one.astype(float) for one in (said & true, said, true))
        above, below = {
            "f1": (2 * hits, claimed + there),
            "precision": (hits, claimed),
            "recall": (hits, there),
            "yes_ratio": (claimed, weights @ chosen.astype(float)),
        }[name]
        return 100 * np.divide(above, below, out=np.full(len(weights), np.nan), where=below > 0)

    return Statistic(value, lambda table: rows_of(table, where), frozenset({"said", "truth", *where}))
