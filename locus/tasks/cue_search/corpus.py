"""The cue corpus: examples drawn from a table of boxes, split by image, hashed, saved and loaded.

Run files: ``corpus.parquet`` (one row per example, column ``split``) and ``corpus.json`` (counts, hash, audits).
Rows stay columnar (Arrow); `CueExample` objects are made one at a time, on access.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from locus.errors import LocusError
from locus.types import CueExample

log = logging.getLogger(__name__)

SCHEMA = pa.schema(
    {
        "example_id": pa.string(),
        "image_id": pa.string(),
        "image_path": pa.string(),
        "width": pa.int64(),
        "height": pa.int64(),
        "box": pa.list_(pa.float64(), 4),
        "area_ratio": pa.float64(),
        "bin": pa.string(),
        "label": pa.string(),
        "cue_scale": pa.float64(),
    }
)
"""The columns of `CueExample`, in its order, but for the split."""


class CueTable(Sequence[CueExample]):
    """Corpus rows as columns; an index gives a `CueExample`, a slice a table."""

    def __init__(self, columns: pa.Table, split: str = "train") -> None:
        self.columns, self.split = columns.combine_chunks(), split

    def __len__(self) -> int:
        return self.columns.num_rows

    @overload
    def __getitem__(self, index: int) -> CueExample: ...
    @overload
    def __getitem__(self, index: slice) -> CueTable: ...
    def __getitem__(self, index: int | slice) -> CueExample | CueTable:
        if isinstance(index, slice):
            return CueTable(self.columns.take(np.arange(len(self))[index]), self.split)
        if not -len(self) <= index < len(self):
            raise IndexError(f"example {index} of {len(self)}")
        row = self.columns.slice(index % len(self), 1).to_pylist()[0]
        return CueExample(**(row | {"box": tuple(row["box"])}), split=self.split)

    def counts(self, column: str) -> dict[str, int]:
        """Value -> number of rows, in the order of the values."""
        return dict(sorted(Counter(self.columns[column].to_pylist()).items()))


@dataclass(frozen=True, eq=False)
class Corpus:
    """A training and a validation set that share no image."""

    train: CueTable
    validation: CueTable
    seed: int
    asked: dict[str, int]
    """Split -> examples asked for; a split holds fewer when the boxes run out."""
    audits: dict[str, Any] = field(default_factory=dict)
    """What was found wrong, by audit."""

    @property
    def splits(self) -> dict[str, CueTable]:
        return {"train": self.train, "validation": self.validation}

    @property
    def all_examples(self) -> CueTable:
        """Both splits, training first."""
        return CueTable(pa.concat_tables([examples.columns for examples in self.splits.values()]))

    @cached_property
    def content_hash(self) -> str:
        """SHA-256 of the rows in order, without the image paths: those may differ between machines."""
        digest = hashlib.sha256()
        for split, examples in self.splits.items():
            columns = [column.to_pylist() for column in examples.columns.drop_columns("image_path").columns]
            for row in zip(*columns, strict=True):
                digest.update(json.dumps([split, *row]).encode() + b"\n")
        return digest.hexdigest()

    def summary(self) -> dict[str, Any]:
        """What ``corpus.json`` holds."""
        return {
            "hash": self.content_hash,
            "seed": self.seed,
            "asked": self.asked,
            "examples": {split: len(examples) for split, examples in self.splits.items()},
            "images": {split: len(examples.counts("image_id")) for split, examples in self.splits.items()},
            "bins": {split: examples.counts("bin") for split, examples in self.splits.items()},
            "audits": self.audits,
        }

    def save(self, folder: str | Path) -> None:
        """Writes both files, each whole or not at all; raises LocusError when the folder cannot be written."""
        folder = Path(folder)
        parts = [
            examples.columns.append_column("split", pa.array([split] * len(examples), pa.string()))
            for split, examples in self.splits.items()
        ]
        parquet, record = folder / "corpus.parquet", folder / "corpus.json"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            pq.write_table(pa.concat_tables(parts), f"{parquet}.part")
            Path(f"{record}.part").write_text(json.dumps(self.summary(), indent=2) + "\n", encoding="utf-8")
            for file in (parquet, record):
                os.replace(f"{file}.part", file)
        except OSError as error:
            raise LocusError(
                f"{folder}: the corpus cannot be written ({error}); make room or choose another hydra.run.dir"
            ) from error

    @classmethod
    def load(cls, folder: str | Path) -> Corpus:
        """Reads what `save` wrote; raises LocusError when a file is missing, broken, foreign, or was changed."""
        folder = Path(folder)
        remedy = "pass the run folder of a finished locus.prepare, or run it again"
        try:
            record = json.loads((folder / "corpus.json").read_text(encoding="utf-8"))
            columns = pq.read_table(folder / "corpus.parquet")
            columns = columns.cast(SCHEMA.append(pa.field("split", pa.string())))
            train, validation = (
                CueTable(columns.filter(pc.equal(columns["split"], split)).drop_columns("split"), split)
                for split in ("train", "validation")
            )
            corpus = cls(
                train,
                validation,
                seed=record["seed"],
                asked=record["asked"],
                audits=record["audits"],
            )
            same = corpus.content_hash == record["hash"]
        except (OSError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
            raise LocusError(f"{folder}: not a corpus ({type(error).__name__}: {error}); {remedy}") from error
        if not same:
            raise LocusError(f"{folder}: corpus.parquet is not the one that corpus.json was written for; {remedy}")
        return corpus


def shortfall(corpus: Corpus) -> str:
    """One line on how many examples there are of those asked for; empty when all are there."""
    short = [
        f"{len(examples)} of {corpus.asked[split]} {split}"
        for split, examples in corpus.splits.items()
        if len(examples) < corpus.asked[split]
    ]
    return f"too few boxes for the mixture: the corpus has {' and '.join(short)} examples asked for" if short else ""
