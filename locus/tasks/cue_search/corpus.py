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
from locus.tasks.cue_search.crops import CropStrategy, Regions, draw, feasible, quotas
from locus.types import CueExample, ImageTable

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
            for row in examples.columns.drop_columns("image_path").to_pylist():
                digest.update(json.dumps([split, *row.values()]).encode() + b"\n")
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


def build_corpus(
    table: ImageTable,
    strategy: CropStrategy,
    train_examples: int,
    validation_examples: int,
    seed: int,
    validation_strategy: CropStrategy | None = None,
) -> Corpus:
    """Draws the examples of both splits; a function of its arguments alone.

    The mixture is met exactly in each split. When the regions do not suffice, there are as many examples as the
    mixture allows, and that is logged; validation then keeps its share of the total or a tenth of it, whichever is
    more, and never more than was asked for. The splits share no image: validation takes the first images of a
    random order, as many as its share of the examples, or as it needs.

    With a ``validation_strategy``, validation is drawn by it, whatever ``strategy`` is: runs that train on different
    crops of one table are then validated on the same examples.

    Raises:
        LocusError: no region is eligible, or the images do not suffice for two splits.
    """
    if train_examples < 1 or validation_examples < 0:
        raise LocusError(
            f"data.train_examples={train_examples}, data.validation_examples={validation_examples}: "
            "ask for at least 1 and at least 0"
        )
    validation = _Drawing.of(table, validation_strategy or strategy, seed)
    train = _Drawing.of(table, strategy, [seed, 1]) if validation_strategy else validation
    train.feasible(train_examples)
    asked = train_examples + validation_examples
    total, share = validation.feasible(asked), validation_examples / asked
    held_out_examples = min(validation_examples, max(round(total * share), total // 10))
    held_out = validation.hold_out(held_out_examples, share)
    rows = {"train": train.draw(~held_out, train_examples), "validation": validation.draw(held_out, held_out_examples)}
    if not len(rows["train"]) or (validation_examples and not len(rows["validation"])):
        raise LocusError(
            f"{total} crops in {len(np.unique(validation.regions.image))} images do not make a training and a "
            "validation set without a common image in this mixture; use more images, or ask for fewer examples"
        )
    splits = {
        "train": train.examples(rows["train"]),
        "validation": validation.examples(rows["validation"], "validation"),
    }
    sizes = {"train": train_examples, "validation": validation_examples}
    corpus = Corpus(splits["train"], splits["validation"], seed, sizes)
    if sum(map(len, splits.values())) < asked:
        log.warning(shortfall(corpus))
    return corpus


def shortfall(corpus: Corpus) -> str:
    """One line on how many examples there are of those asked for; empty when all are there."""
    short = [
        f"{len(examples)} of {corpus.asked[split]} {split}"
        for split, examples in corpus.splits.items()
        if len(examples) < corpus.asked[split]
    ]
    return f"too few boxes for the mixture: the corpus has {' and '.join(short)} examples asked for" if short else ""


@dataclass(frozen=True, eq=False)
class _Drawing:
    """A strategy's regions of a table, and the random numbers by which crops are drawn from them."""

    table: ImageTable
    strategy: CropStrategy
    regions: Regions
    rng: np.random.Generator

    @classmethod
    def of(cls, table: ImageTable, strategy: CropStrategy, seed: int | list[int]) -> _Drawing:
        rng = np.random.default_rng(seed)
        return cls(table, strategy, strategy.regions(table, rng), rng)

    def feasible(self, asked: int) -> int:
        """How many crops, at most ``asked``, the mixture allows; raises LocusError for none."""
        available = np.bincount(self.regions.bin, minlength=len(self.strategy.ratios))
        total = feasible(available, self.strategy.ratios, asked)
        if total == 0:
            raise LocusError(_nothing_eligible(self.table, self.strategy, self.regions))
        return total

    def hold_out(self, examples: int, share: float) -> np.ndarray:
        """[M] bool, the validation images, see `_hold_out`."""
        needed = quotas(examples, self.strategy.ratios)
        return _hold_out(self.regions, needed, share, len(self.table.width), self.rng)

    def draw(self, images: np.ndarray, asked: int) -> np.ndarray:
        """Indices of regions in these images [M] (bool): ``asked``, or what the mixture allows."""
        return draw(self.regions, np.flatnonzero(images[self.regions.image]), asked, self.strategy.ratios, self.rng)

    def examples(self, index: np.ndarray, split: str = "train") -> CueTable:
        """Rows for the regions at ``index`` [R]."""
        return CueTable(_examples(self.table, self.strategy, self.regions, index, self.rng), split)


def _hold_out(regions: Regions, needed: np.ndarray, share: float, images: int, rng: np.random.Generator) -> np.ndarray:
    """[M] bool, the validation images: the shortest start of a random order of the images with regions that holds
    the ``needed`` [K] regions of each bin and ``share`` of these images."""
    order = rng.permutation(np.unique(regions.image))
    held_out = np.zeros(images, dtype=bool)
    if not needed.sum():
        return held_out
    rank = np.empty(images, dtype=np.int64)
    rank[order] = np.arange(len(order))
    count = int(np.ceil(share * len(order)))
    for k, quota in enumerate(needed):
        reached = np.bincount(rank[regions.image[regions.bin == k]], minlength=len(order)).cumsum()
        count = max(count, int(np.searchsorted(reached, quota)) + 1)
    held_out[order[:count]] = True
    return held_out


def _examples(
    table: ImageTable, strategy: CropStrategy, regions: Regions, index: np.ndarray, rng: np.random.Generator
) -> pa.Table:
    """Rows for the regions at ``index`` [R], in that order; padding and scale are drawn here."""
    columns = ("image", "number", "boxes", "area_ratio", "bin", "labels")
    chosen = Regions(**{name: getattr(regions, name)[index] for name in columns})
    boxes, scale = strategy.crops(chosen, table, rng)
    image_ids = [table.image_id[row] for row in chosen.image]
    values = {
        "example_id": [f"{image_id}-{number}" for image_id, number in zip(image_ids, chosen.number, strict=True)],
        "image_id": image_ids,
        "image_path": [table.path[row] for row in chosen.image],
        "width": table.width[chosen.image],
        "height": table.height[chosen.image],
        "box": pa.FixedSizeListArray.from_arrays(pa.array(boxes.ravel()), 4),
        "area_ratio": chosen.area_ratio,
        "bin": [strategy.bin_names[k] for k in chosen.bin],
        "label": chosen.labels.tolist(),
        "cue_scale": scale,
    }
    return pa.table(values, schema=SCHEMA)


def _nothing_eligible(table: ImageTable, strategy: CropStrategy, regions: Regions) -> str:
    counts = np.bincount(regions.bin, minlength=len(strategy.bin_names))
    found = ", ".join(f"{name}: {count}" for name, count in zip(strategy.bin_names, counts, strict=True))
    remedy = "choose another crop= or lower crop.min_side"
    if not len(table.boxes):
        remedy = "give boxes as [x1, y1, x2, y2] in pixels of the file, or use crop=random for images without boxes"
    return (
        f"empty data set: {len(table.boxes)} boxes in {len(table.width)} images, of which eligible (no side below "
        f"{strategy.min_side:g} px) {found}; every bin of crop.mixture needs one: {remedy}"
    )
