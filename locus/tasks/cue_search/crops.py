"""Which regions become crops: eligible regions by area bin, the mixture of bins, padding and scale.

The paper's Table 9 as configuration. What it leaves open is decided here so:
- The bin and the minimum side go by the region itself, before padding; the bin edges are [low, high).
- Padding is one draw per crop, uniform, the same share of the width (left, right) and of the height (top, bottom).
- The crop is then rounded outward to whole pixels, so that the target box is exactly what the cue shows.
- Scale is of the cue's picture, or by ``scale_of`` of the window around the object. The window is not the default: at
  2.0 it makes targets of up to 4 % of the image of tiny cues, at 0.8 it shows a part of the object; padding moves it
  anyway. Where pixels are limited from below (EasyR1's 512 x 512), the picture's scale is undone but for its blur.
- Regions are drawn without replacement. When a bin runs out, all bins get fewer: the mixture is kept.

Shapes: M images, N boxes of the table, R regions, K bins of the mixture. Boxes are xyxy in the file frame.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from locus.boxes import area, iou
from locus.errors import LocusError, number, whole
from locus.tasks.cue_search.cues import Range, whole_pixels
from locus.types import ImageTable

SCALED = {
    "cue": "the size of the cue's picture, as a multiple of the crop's",
    "window": "the sides of the crop around the object's centre",
}
"""The two readings of the paper's "scale 0.8-2.0"."""
MOST_RATIO = 150.0
"""Of a region's sides: processors refuse a picture above 200, and a cue's sides are rounded to whole pixels."""
_TOLERANCE = 1e-9  # shares like 0.7 are inexact in floats; counts must not be


@dataclass(frozen=True, slots=True, eq=False)
class Regions:
    """The eligible regions of a table as columns; a strategy draws crops from them."""

    image: np.ndarray
    """[R] int64: row of the image."""
    number: np.ndarray
    """[R] int64: the region's place among its image's proposals, before any was left out."""
    boxes: np.ndarray
    """[R, 4] float64."""
    area_ratio: np.ndarray
    """[R] share of the image's area, 0-1."""
    bin: np.ndarray
    """[R] int64: index into the strategy's ``bin_names``."""
    labels: np.ndarray
    """[R] str objects."""


@dataclass(frozen=True)
class CropStrategy:
    """Crops are object boxes.

    Example: ``CropStrategy({"tiny": (0, 0.01), "small": (0.01, 0.05)}, {"tiny": 0.7, "small": 0.3}, 16,
    {"tiny": (0, 0.1)}, {"tiny": (0.8, 2.0)})``. Raises LocusError for values that cannot be meant.
    """

    bins: Mapping[str, Range]
    """Name -> [low, high) share of the image's area; a high of 1 includes 1. Those in use do not overlap."""
    mixture: Mapping[str, float]
    """Name -> weight of the bin among the crops; weights need not add up to 1, a bin of weight 0 is not used."""
    min_side: float
    """Shortest side of a region in pixels of the file, before padding."""
    padding: Mapping[str, Range]
    """Name -> [low, high] share of the side added on each side; bins not named get none."""
    scale: Mapping[str, Range]
    """Name -> [low, high] factor of ``scale_of``; bins not named are shown as they are."""
    scale_of: str = field(default="cue", kw_only=True)
    """One of `SCALED`."""

    def __post_init__(self) -> None:
        if self.scale_of not in SCALED:
            raise LocusError(f"crop.scale_of={self.scale_of}: give one of {', '.join(SCALED)}")
        for key in ("mixture", "padding", "scale"):
            unknown = sorted(set(getattr(self, key)) - set(self.bins))
            if unknown:
                raise LocusError(f"crop.{key} names {', '.join(unknown)}; crop.bins has {', '.join(self.bins)}")
        if any(weight < 0 for weight in self.mixture.values()) or not sum(self.mixture.values()) > 0:
            raise LocusError(f"crop.mixture={dict(self.mixture)}: give at least one bin a weight above 0, none below")
        for key, least in (("bins", 0.0), ("padding", 0.0), ("scale", 1e-3)):
            for name, (low, high) in getattr(self, key).items():
                if not least <= low <= high:
                    raise LocusError(f"crop.{key}.{name}=[{low}, {high}]: give two ascending numbers from {least:g} on")
        for one, other in pairwise(dict.fromkeys(self.bin_names)):  # a subclass may name a bin twice
            if self.bins[other][0] < self.bins[one][1]:
                raise LocusError(f"crop.bins: {one} and {other} overlap: end one where the other begins")

    @property
    def bin_names(self) -> tuple[str, ...]:
        """The K bins in use, by ascending area, whatever the order in the configuration."""
        return tuple(sorted((name for name, w in self.mixture.items() if w > 0), key=lambda name: self.bins[name][0]))

    @property
    def ratios(self) -> np.ndarray:
        """[K] shares of the mixture, adding up to 1."""
        weights = np.array([self.mixture[name] for name in self.bin_names], dtype=np.float64)
        return weights / weights.sum()

    def bin_of(self, area_ratio: np.ndarray) -> np.ndarray:
        """[R] area ratios -> [R] indices into ``bin_names``; -1 where no bin in use holds the ratio."""
        index = np.full(area_ratio.shape, -1, dtype=np.int64)
        for k, name in enumerate(self.bin_names):
            low, high = self.bins[name]
            index[(area_ratio >= low) & ((area_ratio < high) | (high >= 1))] = k
        return index

    def regions(self, table: ImageTable, rng: np.random.Generator) -> Regions:
        """All eligible regions of the table: in a bin of the mixture, no side below ``min_side``, none too thin."""
        image, boxes, labels = self.propose(table, rng)
        first = np.searchsorted(image, image)  # image is ascending: where its run of proposals starts
        ratio = area(boxes) / (table.width * table.height)[image]
        bin_index = self.bin_of(ratio)
        sides = boxes[:, 2:] - boxes[:, :2]
        keep = (bin_index >= 0) & (sides >= self.min_side - _TOLERANCE).all(axis=1)
        keep &= sides.max(axis=1) <= MOST_RATIO * sides.min(axis=1) + _TOLERANCE
        number = np.arange(len(image)) - first
        return Regions(image[keep], number[keep], boxes[keep], ratio[keep], bin_index[keep], labels[keep])

    def propose(self, table: ImageTable, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Image rows [R] (ascending), boxes [R, 4] and labels [R], before bins and sides are looked at."""
        return table.box_image, table.boxes, np.array(table.labels, dtype=object)

    def audit(self, table: ImageTable) -> Mapping[str, Mapping[str, int]]:
        """Audit -> what is worth counting of the table's eligible regions; nothing here."""
        return {}

    def crops(self, regions: Regions, table: ImageTable, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Target boxes [R, 4], padded, scaled and in whole pixels inside the image, and cue scales [R]."""
        padding = self._uniform(self.padding, regions.bin, 0.0, rng)
        scale = self._uniform(self.scale, regions.bin, 1.0, rng)
        added = padding[:, None] * (regions.boxes[:, 2:] - regions.boxes[:, :2])  # [R, 2] pixels
        padded = np.concatenate([regions.boxes[:, :2] - added, regions.boxes[:, 2:] + added], axis=1)
        if self.scale_of == "window":
            grown = (scale[:, None] - 1) / 2 * (padded[:, 2:] - padded[:, :2])
            padded, scale = padded + np.concatenate([-grown, grown], axis=1), np.ones_like(scale)
        return whole_pixels(padded, table.width[regions.image], table.height[regions.image]), scale

    def _uniform(
        self, ranges: Mapping[str, Range], bins: np.ndarray, default: float, rng: np.random.Generator
    ) -> np.ndarray:
        """[R] draws from each region's range, by bin."""
        low, high = np.array([ranges.get(name, (default, default)) for name in self.bin_names], dtype=np.float64).T
        return low[bins] + (high - low)[bins] * rng.random(len(bins))


@dataclass(frozen=True)
class RandomCrops(CropStrategy):
    """Crops are random regions, not taken from objects, of the objects' areas and shapes.

    In images with object boxes, a region is an eligible object's box moved to a uniform place of the same image, so
    that area, aspect and image are distributed exactly as for objects and only the content differs; places where it
    overlaps an object box by more than ``max_object_iou`` are drawn anew, and after ``attempts`` the region is left
    out. A source without any boxes gets ``regions_per_image`` regions per image and bin, area log-uniform within the
    bin and the minimum side, aspect log-uniform in ``aspect``.
    """

    max_object_iou: float
    attempts: int
    regions_per_image: int
    aspect: Range
    """[low, high] width over height."""

    def __post_init__(self) -> None:
        super().__post_init__()
        number("crop.min_side", self.min_side, 0, above=True)
        number("crop.max_object_iou", self.max_object_iou, 0, 1)
        whole("crop.attempts", self.attempts)
        whole("crop.regions_per_image", self.regions_per_image)
        low, high = self.aspect
        if not 0 < low <= high:
            raise LocusError(f"crop.aspect=[{low}, {high}]: give two ascending numbers above 0")

    def propose(self, table: ImageTable, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        if len(table.boxes):
            image, boxes = self._moved(table, rng)
        else:
            image, boxes = self._within_bins(table, rng)
        return image, boxes, np.full(len(image), "", dtype=object)

    def _moved(self, table: ImageTable, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Objects' boxes at random places away from all objects of the image."""
        canvas = np.stack([table.width, table.height], axis=1)[table.box_image]  # [N, 2]
        sides = table.boxes[:, 2:] - table.boxes[:, :2]
        eligible = (self.bin_of(area(table.boxes) / canvas.prod(axis=1)) >= 0) & (sides >= self.min_side).all(axis=1)
        moved, pending = table.boxes.copy(), eligible.copy()
        for _ in range(self.attempts):
            corner = rng.random((int(pending.sum()), 2)) * (canvas - sides)[pending]
            moved[pending] = np.concatenate([corner, corner + sides[pending]], axis=1)
            pending &= self._overlaps(table, moved, pending)
            if not pending.any():
                break
        placed = eligible & ~pending
        return table.box_image[placed], moved[placed]

    def _overlaps(self, table: ImageTable, moved: np.ndarray, pending: np.ndarray) -> np.ndarray:
        """[N] whether a pending region overlaps an object of its image by too much."""
        overlaps = pending & (iou(moved, table.boxes) > self.max_object_iou)
        for i, j in pairs_within_images(table.box_image):
            for region, other in ((i, j), (j, i)):
                asked = pending[region]
                region, other = region[asked], other[asked]
                overlaps[region] |= iou(moved[region], table.boxes[other]) > self.max_object_iou
        return overlaps

    def _within_bins(self, table: ImageTable, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Regions for images without objects; those that do not fit their image have no side, and so are left out."""
        low, high = np.array([self.bins[name] for name in self.bin_names], dtype=np.float64).T  # [K]
        image = np.repeat(np.arange(len(table.width)), len(low) * self.regions_per_image)  # [R]
        k = np.tile(np.repeat(np.arange(len(low)), self.regions_per_image), len(table.width))
        size = np.stack([table.width, table.height], axis=1)[image].astype(np.float64)
        pixels = size.prod(axis=1)
        smallest = np.log(np.maximum(low[k] * pixels, self.min_side**2))
        largest = np.log(high[k] * pixels)
        region_area = np.exp(smallest + (largest - smallest) * rng.random(len(image)))
        tallest, broadest = np.log(np.array(self.aspect, dtype=np.float64))
        aspect = np.exp(rng.uniform(tallest, broadest, size=len(image)))
        # The widths at which both sides lie between the minimum and the image's; the area comes before the aspect.
        narrowest = np.maximum(self.min_side, region_area / size[:, 1])
        widest = np.minimum(size[:, 0], region_area / self.min_side)
        width = np.clip(np.sqrt(region_area * aspect), narrowest, np.maximum(narrowest, widest))
        width[narrowest > widest] = 0
        sides = np.stack([width, np.divide(region_area, width, out=np.zeros_like(width), where=width > 0)], axis=1)
        corner = rng.random((len(image), 2)) * (size - sides)
        return image, np.concatenate([corner, corner + sides], axis=1)


def pairs_within_images(box_image: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """All pairs i < j of boxes in one image, as index arrays, one batch for each j - i.

    ``box_image`` [N] is ascending. Memory stays at O(N) where a full list of pairs would not.
    """
    first, lag = np.arange(len(box_image)), 1
    while True:
        first = first[first + lag < len(box_image)]
        first = first[box_image[first] == box_image[first + lag]]  # who has no neighbour at lag - 1 has none at lag
        if not len(first):
            return
        yield first, first + lag
        lag += 1


def feasible(available: np.ndarray, ratios: np.ndarray, asked: int) -> int:
    """How many crops, at most ``asked``, can be drawn at these ratios [K] from this many regions [K]."""
    return min(asked, int(np.floor((available / ratios).min() + _TOLERANCE)))


def quotas(total: int, ratios: np.ndarray) -> np.ndarray:
    """[K] whole numbers that add up to ``total``, nearest to the ratios (largest remainder; ties to the first)."""
    exact = total * ratios
    counts = np.floor(exact + _TOLERANCE).astype(np.int64)
    rest = np.argsort(-np.round(exact - counts, 9), kind="stable")[: total - counts.sum()]
    counts[rest] += 1
    return counts


def draw(regions: Regions, among: np.ndarray, asked: int, ratios: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Indices of regions drawn without replacement ``among`` these, in random order: ``asked`` or what is feasible."""
    bins = regions.bin[among]
    counts = quotas(feasible(np.bincount(bins, minlength=len(ratios)), ratios, asked), ratios)
    picked = [rng.permutation(among[bins == k])[:count] for k, count in enumerate(counts)]
    return rng.permutation(np.concatenate(picked))
