"""Draws a corpus from a table of boxes: the mixture met exactly, no image in both splits."""

from __future__ import annotations

import logging
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from locus.errors import LocusError
from locus.tasks.cue_search.corpus import SCHEMA, Corpus, CueTable, shortfall
from locus.tasks.cue_search.crops import CropStrategy, Regions, draw, feasible, quotas
from locus.types import ImageTable

log = logging.getLogger(__name__)


def build_corpus(
    table: ImageTable,
    strategy: CropStrategy,
    train_examples: int,
    validation_examples: int,
    seed: int,
    validation_strategy: CropStrategy | None = None,
    without: Collection[str] = (),
) -> Corpus:
    """Draws the examples of both splits; a function of its arguments alone.

    The mixture is met exactly in each split. When the regions do not suffice, there are as many examples as the
    mixture allows, and that is logged; validation then keeps its share of the total or a tenth of it, whichever is
    more, and never more than was asked for. The splits share no image: validation takes the first images of a
    random order, as many as its share of the examples, or as it needs.

    With a ``validation_strategy``, validation is drawn by it, whatever ``strategy`` is: runs that train on different
    crops of one table are then validated on the same examples. ``without`` are ids of images that are not trained on;
    validation does not depend on them.

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
    trained = ~held_out & ~np.isin(np.array(table.image_id, dtype=object), list(without))
    rows = {"train": train.draw(trained, train_examples), "validation": validation.draw(held_out, held_out_examples)}
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
