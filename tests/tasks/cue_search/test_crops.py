"""Crop sampling: bins, mixture, minimum side, padding and scale of the shipped strategies, on random tables."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from locus.errors import LocusError
from locus.tasks.cue_search.crops import CropStrategy, draw, feasible, pairs_within_images, quotas
from locus.types import ImageTable
from tests.support.paths import CONF


@lru_cache
def strategy(name: str) -> CropStrategy:
    """A shipped crop strategy."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return instantiate(compose("prepare", ["data=coco", f"crop={name}"]).crop, _convert_="all")


def random_table(images: int = 200, boxes: int = 3000, seed: int = 0) -> ImageTable:
    """Fractional boxes of all sizes in 640x480 and 333x500 images."""
    rng = np.random.default_rng(seed)
    size = np.array([(640, 480), (333, 500)])[rng.integers(2, size=images)]
    row = np.sort(rng.integers(images, size=boxes))
    ratio = np.minimum(np.exp(rng.normal(np.log(0.01), 1.5, boxes)), 0.8)
    aspect = np.exp(rng.normal(0, 0.4, boxes))
    sides = np.minimum(np.sqrt(np.stack([ratio * aspect, ratio / aspect], 1)), 1) * size[row]
    low = rng.random((boxes, 2)) * (size[row] - sides)
    ids = tuple(f"image-{i}" for i in range(images))
    return ImageTable(ids, ids, size[:, 0], size[:, 1], row, np.hstack([low, low + sides]), ("thing",) * boxes)


def all_iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """[A, 4] x [B, 4] -> [A, B], written out."""
    low, high = np.maximum(a[:, None, :2], b[None, :, :2]), np.minimum(a[:, None, 2:], b[None, :, 2:])
    inter = np.clip(high - low, 0, None).prod(axis=2)
    sizes = [(x[:, 2:] - x[:, :2]).prod(axis=1) for x in (a, b)]
    return inter / (sizes[0][:, None] + sizes[1][None] - inter)


@pytest.mark.parametrize(
    ("name", "mixture"),
    [
        ("object", {"tiny": 0.7, "small": 0.3}),
        ("random", {"tiny": 0.7, "small": 0.3}),
        ("tiny", {"tiny": 1.0}),
        ("large", {"large": 1.0}),
        ("mix_60_40", {"tiny": 0.6, "small": 0.4}),
        ("mix_80_20", {"tiny": 0.8, "small": 0.2}),
        ("mix_90_10", {"tiny": 0.9, "small": 0.1}),
    ],
)
def test_shipped_mixtures(name, mixture):
    """A config that inherits a weight of the paper's mixture it should have replaced."""
    shipped = strategy(name)
    assert dict(zip(shipped.bin_names, shipped.ratios, strict=True)) == pytest.approx(mixture)
    assert shipped.min_side == 16 and set(shipped.padding) == set(shipped.scale) == {"tiny"}


def test_bins_are_half_open():
    """A region at an edge in two bins, or in none: 1 % is small, 5 % is not, the whole image is large."""
    ratios = np.array([0.0, 0.00999, 0.01, 0.04999, 0.05, 0.0999, 0.1, 1.0])
    assert strategy("object").bin_of(ratios).tolist() == [0, 0, 1, 1, -1, -1, -1, -1]
    assert strategy("large").bin_of(ratios).tolist() == [-1, -1, -1, -1, -1, -1, 0, 0]


def test_regions_are_all_eligible_objects_and_no_other():
    """Regions below 16 px or outside the bins, against a loop over all boxes."""
    table = random_table()
    regions = strategy("object").regions(table, np.random.default_rng(0))
    expected = []
    for row, (x1, y1, x2, y2), number in zip(table.box_image, table.boxes, range(len(table.boxes)), strict=True):
        ratio = (x2 - x1) * (y2 - y1) / (table.width[row] * table.height[row])
        if min(x2 - x1, y2 - y1) >= 16 and ratio < 0.05:
            expected.append((row, number - int((table.box_image < row).sum()), ratio < 0.01))
    found = list(zip(regions.image, regions.number, regions.bin == 0, strict=True))
    assert found == expected and 500 < len(found) < 3000


@pytest.mark.parametrize("name", ["object", "random"])
def test_a_box_too_thin_for_a_processor_is_no_region(name):
    """A run that ends in the middle, at each resume: processors refuse a picture of sides of ratio over 200."""
    boxes = np.array([[0.0, 100, 3840, 117], [10, 200, 2410, 216], [10, 300, 60, 350]])
    table = ImageTable(("a",), ("a",), np.array([3840]), np.array([2160]), np.zeros(3, np.int64), boxes, ("x",) * 3)
    regions = strategy(name).regions(table, np.random.default_rng(0))
    sides = regions.boxes[:, 2:] - regions.boxes[:, :2]
    assert sides.round(6).tolist() == [[2400, 16], [50, 50]] and regions.bin.tolist() == [0, 0]


def test_quotas_by_hand():
    """Rounding that loses an example, or float error (0.7 x 10 is 7.000000000000001) that invents one."""
    assert quotas(10, np.array([0.7, 0.3])).tolist() == [7, 3]
    assert quotas(500, np.array([0.7, 0.3])).tolist() == [350, 150]
    assert quotas(328, np.array([0.7, 0.3])).tolist() == [230, 98]  # 229.6, 98.4
    assert quotas(2, np.array([1, 1, 1]) / 3).tolist() == [1, 1, 0]
    assert quotas(0, np.array([0.7, 0.3])).tolist() == [0, 0]


def test_feasible_keeps_the_mixture_when_a_bin_runs_out():
    """230 tiny and 214 small regions carry 328 at 70:30; plenty carries what was asked."""
    assert feasible(np.array([230, 214]), np.array([0.7, 0.3]), 100_000) == 328
    assert feasible(np.array([70, 30]), np.array([0.7, 0.3]), 100) == 100
    assert feasible(np.array([0, 30]), np.array([0.7, 0.3]), 100) == 0


def test_draw_is_without_replacement_and_exact():
    """A crop drawn twice or from an image that was not offered, or a mixture that is met only on average."""
    table = random_table()
    regions = strategy("object").regions(table, np.random.default_rng(0))
    among = np.arange(0, len(regions.bin), 2)
    picked = draw(regions, among, 200, strategy("object").ratios, np.random.default_rng(1))
    assert len(set(picked)) == 200 and set(picked) <= set(among)
    assert np.bincount(regions.bin[picked]).tolist() == [140, 60]


def test_padding_and_scale_are_of_the_tiny_only_and_inside_the_image():
    """Padding beyond the image, beyond 10 %, or on crops that get none; a box that is not what the cue shows."""
    table, shipped = random_table(), strategy("object")
    regions = shipped.regions(table, np.random.default_rng(0))
    boxes, scale = shipped.crops(regions, table, np.random.default_rng(1))
    sides = np.tile(regions.boxes[:, 2:] - regions.boxes[:, :2], 2)
    added = np.abs(boxes - regions.boxes)
    size = np.stack([table.width, table.height], 1)[regions.image]
    tiny = regions.bin == 0
    assert (boxes == np.round(boxes)).all() and (boxes[:, :2] >= 0).all() and (boxes[:, 2:] <= size).all()
    assert (boxes[:, :2] <= regions.boxes[:, :2]).all() and (boxes[:, 2:] >= regions.boxes[:, 2:]).all()
    assert (added[~tiny] < 1).all() and (added[tiny] < 0.1 * sides[tiny] + 1).all()
    assert (added[tiny] > 0.09 * sides[tiny]).any(axis=0).all()  # 10 % is reached on all four sides
    assert (scale[~tiny] == 1).all() and 0.8 <= scale[tiny].min() < 0.85 and 1.95 < scale[tiny].max() < 2


def test_the_window_is_scaled_around_the_object():
    """The other reading of the paper's scale: another centre, another padding, or the picture scaled, too."""
    table, shipped = random_table(), strategy("object")
    regions = shipped.regions(table, np.random.default_rng(0))
    of_cue, of_window = (replace(shipped, scale_of=name) for name in ("cue", "window"))
    padded, scale = of_cue.crops(regions, table, np.random.default_rng(1))
    boxes, picture = of_window.crops(regions, table, np.random.default_rng(1))
    assert (picture == 1).all() and (boxes[regions.bin == 1] == padded[regions.bin == 1]).all()
    size = np.stack([table.width, table.height], 1)[regions.image]
    whole = (boxes[:, :2] > 0).all(1) & (boxes[:, 2:] < size).all(1) & (padded[:, :2] > 0).all(1)
    whole &= (padded[:, 2:] < size).all(1) & (regions.bin == 0)
    for x, y in ((0, 2), (1, 3)):
        ratio = (boxes[whole, y] - boxes[whole, x]) / (padded[whole, y] - padded[whole, x])
        assert np.abs(ratio - scale[whole]).max() < 0.25 and np.abs(ratio - scale[whole]).mean() < 0.06
        centres = [(one[whole, x] + one[whole, y]) / 2 for one in (boxes, padded)]
        assert np.abs(centres[0] - centres[1]).max() <= 1
    assert ((boxes == np.round(boxes)).all(1) & (boxes[:, :2] >= 0).all(1) & (boxes[:, 2:] <= size).all(1)).all()
    with pytest.raises(LocusError, match=r"crop\.scale_of=object: give one of cue, window"):
        replace(shipped, scale_of="object")


def test_order_of_the_configuration_does_not_matter():
    """Other crops from the same seed because a mapping was written in another order."""
    shipped, table = strategy("object"), random_table()
    turned = replace(
        shipped,
        bins=dict(reversed(shipped.bins.items())),
        mixture=dict(reversed(shipped.mixture.items())),
    )
    assert turned.bin_names == shipped.bin_names == ("tiny", "small")
    a, b = (s.regions(table, np.random.default_rng(0)) for s in (shipped, turned))
    assert np.array_equal(a.bin, b.bin)


def test_random_regions_are_area_matched_and_not_objects():
    """The ablation 'random crop' that differs from 'object crop' by more than the content: same images, same sizes,
    but no more than IoU 0.1 with any object, by brute force."""
    table = random_table()
    objects = strategy("object").regions(table, np.random.default_rng(0))
    regions = strategy("random").regions(table, np.random.default_rng(0))

    def shapes(of):
        sides = (of.boxes[:, 2:] - of.boxes[:, :2]).round(6)
        return {(int(image), *side) for image, side in zip(of.image, sides.tolist(), strict=True)}

    assert shapes(regions) <= shapes(objects) and len(regions.image) > 0.99 * len(objects.image)
    assert set(regions.labels) == {""}
    size = np.stack([table.width, table.height], 1)[regions.image]
    assert (regions.boxes >= 0).all() and (regions.boxes[:, 2:] <= size).all()
    for image in np.unique(regions.image):
        overlap = all_iou(regions.boxes[regions.image == image], table.boxes[table.box_image == image])
        assert overlap.max() <= 0.1
    where = regions.boxes[:, 0] / (size[:, 0] - (regions.boxes[:, 2] - regions.boxes[:, 0]))
    assert np.histogram(where, 4, (0, 1))[0].min() > 0.2 * len(where)  # not at one side


def test_random_regions_that_find_no_place_are_left_out():
    """A region kept on top of the object after the last try: an object that fills its image has no other place."""
    table = ImageTable(("a",), ("a",), np.array([100]), np.array([100]), np.zeros(1, np.int64),
                       np.array([[0.0, 0, 95, 95]]), ("wall",))  # fmt: skip
    everything = replace(strategy("random"), mixture={"large": 1.0})
    assert len(everything.regions(table, np.random.default_rng(0)).image) == 0


def test_random_regions_without_objects_fill_the_bins():
    """For a folder of images: inside the image, the bin and the minimum side, areas log-uniform; none in an image
    that has no room for the bin."""
    size = np.array([(640, 480)] * 300 + [(15, 400), (40, 40)])
    ids = tuple(map(str, range(len(size))))
    table = ImageTable(ids, ids, size[:, 0], size[:, 1], np.empty(0, np.int64), np.empty((0, 4)), ())
    regions = strategy("random").regions(table, np.random.default_rng(0))
    sides = regions.boxes[:, 2:] - regions.boxes[:, :2]
    assert np.bincount(regions.image, minlength=302)[:300].tolist() == [16] * 300 and regions.image.max() < 300
    assert (sides >= 16 - 1e-6).all() and (regions.boxes >= 0).all()
    assert (regions.boxes[:, 2:] <= size[regions.image] + 1e-9).all()
    small = np.log(regions.area_ratio[regions.bin == 1] / 0.01) / np.log(5)  # 0-1 within the bin
    assert np.histogram(small, 4, (0, 1))[0].min() > 0.2 * len(small)
    tiny_pixels = sides[regions.bin == 0].prod(axis=1)
    assert tiny_pixels.min() < 300 and tiny_pixels.max() > 2900  # 256 to 3072 px


def test_pairs_within_images_are_all_pairs():
    """A pair of boxes that is never compared, against two loops."""
    box_image = np.array([0, 0, 0, 2, 3, 3])
    found = {(int(i), int(j)) for a, b in pairs_within_images(box_image) for i, j in zip(a, b, strict=True)}
    assert found == {(0, 1), (0, 2), (1, 2), (4, 5)}
    assert list(pairs_within_images(np.empty(0, np.int64))) == []


BINS = {"tiny": (0.0, 0.01), "small": (0.01, 0.05), "medium": (0.05, 0.1), "large": (0.1, 1.0)}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"mixture": {"tiny": 0.7, "huge": 0.3}}, r"crop\.mixture names huge"),
        ({"mixture": {"tiny": 0.0}}, r"crop\.mixture"),
        ({"mixture": {"tiny": -1, "small": 2}}, r"crop\.mixture"),
        ({"padding": {"tiny": (-0.5, 0.1)}}, r"crop\.padding\.tiny"),
        ({"scale": {"tiny": (2.0, 0.8)}}, r"crop\.scale\.tiny"),
        ({"scale": {"tiny": (0.0, 0.8)}}, r"crop\.scale\.tiny"),
        ({"bins": BINS | {"tiny": (0.0, 0.02)}}, r"crop\.bins: tiny and small overlap: end one where the other begins"),
        ({"bins": BINS | {"small": (0.0, 0.05)}}, r"crop\.bins: tiny and small overlap"),
    ],
)
def test_values_that_cannot_be_meant_are_refused(change, says):
    """Bins that do not exist, negative shares, and ranges that are empty are refused, and bins that share regions, of
    which one would get them without a word; the error names the key."""
    for name in ("object", "hard_negatives"):
        with pytest.raises(LocusError, match=says):
            replace(strategy(name), **change)


def test_a_bin_that_is_not_used_may_overlap():
    """A configuration that is refused for a bin of weight 0."""
    wide = replace(strategy("object"), bins=BINS | {"medium": (0.0, 0.5), "large": (0.02, 1.0)})
    assert wide.bin_of(np.array([0.005, 0.03, 0.3])).tolist() == [0, 1, -1]


@pytest.mark.parametrize(
    "change",
    [{"aspect": (2.0, 0.5)}, {"aspect": (0.0, 2.0)}, {"regions_per_image": -1}, {"regions_per_image": 0},
     {"regions_per_image": 1.5}, {"attempts": 0}, {"min_side": 0}, {"max_object_iou": -0.1}, {"max_object_iou": 10}],
    ids=str,
)  # fmt: skip
def test_settings_of_random_crops_that_cannot_be_meant_are_refused(change):
    """NumPy's errors of negative sizes and logarithms of 0, or "empty data set" and advice to take other data."""
    (key,) = change
    with pytest.raises(LocusError, match=rf"^crop\.{key}="):
        replace(strategy("random"), **change)
