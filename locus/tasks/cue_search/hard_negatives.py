"""Crops with a look-alike: regions whose image holds another object of their label and about their size.

Labels are alike when they are equal or, from three words on, differ in one word alone: two ``cow`` of a photograph, or
a ``dotted red star`` and a ``dotted blue star`` of a scene. Pixels are not looked at; `audits.ambiguity` does that.

Shapes: N boxes of the table, R regions, W words of the longest label.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from locus.boxes import area
from locus.errors import LocusError
from locus.tasks.cue_search.crops import CropStrategy, Regions, pairs_within_images
from locus.tasks.cue_search.cues import Range
from locus.types import ImageTable

LEAST_WORDS = 3
"""Words of a label from which one may differ: ``baseball bat`` and ``baseball glove`` look different."""


@dataclass(frozen=True)
class HardNegatives(CropStrategy):
    """Crops are object boxes, by a share of which their image holds a look-alike elsewhere.

    The share is met in each bin and split as the mixture is, to whole numbers, by strata: each bin of the mixture
    stands twice in ``bin_names``, for its regions with and without a look-alike, or once when ``share`` is 1.
    """

    share: float
    """Of the crops, above 0 and at most 1."""
    size_ratio: Range
    """[low, high] area of the look-alike over the region's."""

    def __post_init__(self) -> None:
        super().__post_init__()
        low, high = self.size_ratio
        if not 0 < self.share <= 1:
            raise LocusError(f"crop.share={self.share}: give a number above 0 and at most 1")
        if not 0 <= low <= high:
            raise LocusError(f"crop.size_ratio=[{low}, {high}]: give two ascending numbers from 0 on")

    @property
    def _parts(self) -> np.ndarray:
        """Shares of a bin's regions with and, if any are wanted, without a look-alike."""
        return np.array([self.share, 1 - self.share]) if self.share < 1 else np.ones(1)

    @property
    def bin_names(self) -> tuple[str, ...]:
        """The bin's name of each stratum."""
        return tuple(name for name in super().bin_names for _ in self._parts)

    @property
    def ratios(self) -> np.ndarray:
        """Share of each stratum, adding up to 1."""
        of_bins = super().ratios  # each bin's weight once for each of its strata
        ratios = of_bins * np.resize(self._parts, len(of_bins))
        return ratios / ratios.sum()

    def regions(self, table: ImageTable, rng: np.random.Generator) -> Regions:
        """All eligible regions, by stratum; raises LocusError when none has a look-alike."""
        regions = super().regions(table, rng)
        hard = self._hard(regions, table)
        if len(hard) and not hard.any():
            raise LocusError(
                f"crop=hard_negatives: none of {len(hard)} eligible objects has a look-alike in its image; labels are "
                f"needed for it (here: {len(set(table.labels))} different ones), or a wider crop.size_ratio"
            )
        keep = hard | (self.share < 1)
        # A bin's last stratum is the one that `bin_of` has found.
        stratum = regions.bin - hard * (len(self._parts) - 1)
        columns = (regions.image, regions.number, regions.boxes, regions.area_ratio, stratum, regions.labels)
        return Regions(*(column[keep] for column in columns))

    def audit(self, table: ImageTable) -> Mapping[str, Mapping[str, int]]:
        """How many of the eligible regions have a look-alike."""
        regions = super().regions(table, np.random.default_rng(0))
        hard = self._hard(regions, table)
        return {"look_alikes": {"eligible": len(hard), "with_look_alike": int(hard.sum())}}

    def _hard(self, regions: Regions, table: ImageTable) -> np.ndarray:
        """[R] whether a region has a look-alike."""
        box = np.searchsorted(table.box_image, regions.image) + regions.number  # regions are boxes of the table
        return has_look_alike(table, self.size_ratio)[box]


def has_look_alike(table: ImageTable, size_ratio: Range) -> np.ndarray:
    """[N] bool: the image has another object of an alike label, of ``size_ratio`` [low, high] times the box's area."""
    words, areas = _words(table.labels), area(table.boxes)
    found = np.zeros(len(areas), dtype=bool)
    for i, j in pairs_within_images(table.box_image):
        alike = _alike(words[i], words[j])
        i, j = i[alike], j[alike]
        for box, other in ((i, j), (j, i)):
            ratio = areas[other] / areas[box]
            found[box] |= (size_ratio[0] <= ratio) & (ratio <= size_ratio[1])
    return found


def _words(labels: tuple[str, ...]) -> np.ndarray:
    """[N, W] a number for each word, from 1 on, and 0 behind the last."""
    vocabulary: dict[str, int] = {}
    rows = [[vocabulary.setdefault(word, len(vocabulary) + 1) for word in label.split()] for label in labels]
    words = np.zeros((len(rows), max(map(len, rows), default=0)), dtype=np.int64)
    for row, numbers in zip(words, rows, strict=True):
        row[: len(numbers)] = numbers
    return words


def _alike(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Whether the labels of each row, [P, W] words each, are alike; a label without words is like no other."""
    count = (a > 0).sum(axis=1)
    allowed = np.where(count >= LEAST_WORDS, 1, 0)
    return (count > 0) & (count == (b > 0).sum(axis=1)) & ((a != b).sum(axis=1) <= allowed)
