"""Fingerprints: the same for one picture however it is stored, far apart for different ones."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from PIL import Image

from locus.images.fingerprints import BITS, DISTANCE, coco_id, fingerprint, nearest
from tests.support.paths import COCO128
from tests.support.photos import half, photo, stored

PHOTOS = range(8)


@pytest.mark.parametrize(
    "again",
    [
        lambda image: stored(image, quality=60),
        half,
        lambda image: stored(half(image), quality=60),
        lambda image: stored(half(image), "PNG"),
        lambda image: image.convert("L"),
    ],
)
def test_one_picture_stored_anew(again):
    """A hash of bytes or pixels, which another encoding or size changes."""
    prints = np.stack([fingerprint(stored(photo(seed), "PNG")) for seed in PHOTOS])
    others = np.stack([fingerprint(again(photo(seed))) for seed in PHOTOS])
    index, distance = nearest(others, prints)
    assert index.tolist() == list(PHOTOS) and distance.max() <= DISTANCE / 2


def test_different_pictures():
    """A threshold that pictures of different things pass: all 28 pairs of eight."""
    prints = np.stack([fingerprint(photo(seed)) for seed in PHOTOS])
    apart = [nearest(prints[[one]], np.delete(prints, one, axis=0))[1][0] for one in PHOTOS]
    assert min(apart) > 2 * DISTANCE


@pytest.mark.slow
@pytest.mark.skipif(not COCO128.exists(), reason="needs ../shared/coco128")
def test_photographs():
    """A distance that suits made-up pictures alone: of COCO128, all 8,128 pairs, and each fourth one stored anew."""
    files = sorted(COCO128.rglob("*.jpg"))
    prints = np.stack([fingerprint(Image.open(file)) for file in files])
    apart = [int(np.bitwise_count(prints[one] ^ prints[other]).sum()) for one, other in combinations(range(128), 2)]
    assert len(apart) == 8128 and min(apart) > 2 * DISTANCE
    for again in (lambda image: stored(image, quality=60), half, lambda image: stored(half(image), quality=60)):
        others = np.stack([fingerprint(again(Image.open(file).convert("RGB"))) for file in files[::4]])
        assert np.bitwise_count(prints[::4] ^ others).sum(axis=1).max() <= DISTANCE / 2


def test_distances_by_hand():
    """Words of the 256 bits left out, the first of equally near ones not taken, or an empty other side."""
    prints = np.array([[0, 0, 0, 0], [2**63, 1, 3, 0]], dtype=np.uint64)
    others = np.array([[0, 0, 0, 1], [1, 0, 0, 0], [2**63, 1, 0, 0]], dtype=np.uint64)
    index, distance = nearest(prints, others)
    assert index.tolist() == [0, 2] and distance.tolist() == [1, 2]
    assert nearest(prints, others[:0])[1].tolist() == [BITS + 1] * 2


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("COCO_train2014_000000581857.jpg", 581857),
        ("train2017/000000581857.jpg", 581857),
        ("/data/val2017/000000000139.JPG", 139),
        ("581857.jpg", None),
        ("1000000581857.jpg", None),
        ("COCO_train2014_000000581857_3.jpg", None),
    ],
)
def test_number_in_a_name(name, number):
    """Numbers of other data sets taken for COCO's."""
    assert coco_id(name) == number
