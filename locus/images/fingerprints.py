"""Whether two files show one picture: by COCO's number in their names, and by what they show.

A fingerprint survives other encodings and sizes, not crops, mirror images or rotations.
"""

from __future__ import annotations

import re
from functools import cache

import numpy as np
from PIL import Image

SIDE = 64
"""Pixels of the reduced picture."""
KEPT = 16
"""Its lowest frequencies along each side: 256 bits."""
BITS = KEPT * KEPT
DISTANCE = 32
"""Bits by which fingerprints of one picture may differ. Measured on COCO128 (`perf.fingerprints`): as JPEG of quality
60 at most 4, at half the size 12, at a third as JPEG of quality 30 14; the 8,128 pairs of different pictures at least
96, 127 on average with a standard deviation of 8."""
BLOCK = 2**17
"""Pairs compared at a time, so that they stay in a processor's cache: 4 ns a pair in place of 18."""
_COCO = re.compile(r"(?:^|[/_])(\d{12})\.(?:jpe?g|png)$", re.IGNORECASE)


def coco_id(name: str) -> int | None:
    """The number in ``COCO_train2014_000000123456.jpg`` or ``000000123456.jpg``: the same in all of COCO's splits."""
    match = _COCO.search(name)
    return int(match[1]) if match else None


def fingerprint(image: Image.Image) -> np.ndarray:
    """[4] uint64, 256 bits: which low frequencies of the grey picture are above their median.

    Source: the DCT hash of C. Zauner, "Implementation and Benchmarking of Perceptual Image Hash Functions", 2010, with
    16 by 16 frequencies in place of 8 by 8, so that millions of pairs give no chance match.
    """
    image.draft("L", (2 * SIDE, 2 * SIDE))  # JPEG is decoded at a fraction of its size, other files as they are
    grey = np.asarray(image.convert("L").resize((SIDE, SIDE), Image.Resampling.LANCZOS), dtype=np.float64)
    waves = _waves()
    frequencies = (waves @ grey @ waves.T).flatten()
    return np.packbits(frequencies > np.median(frequencies[1:])).view(np.uint64)


def nearest(prints: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each of [N, 4] fingerprints which of [M, 4] others is nearest, [N], and in how many bits it differs, [N]."""
    index, distance = np.zeros(len(prints), dtype=np.int64), np.full(len(prints), BITS + 1)
    if not len(others):
        return index, distance
    rows = max(1, BLOCK // len(others))
    for start in range(0, len(prints), rows):
        part = slice(start, start + rows)
        differ = sum(
            np.bitwise_count(prints[part, None, word] ^ others[None, :, word]).astype(np.int16) for word in range(4)
        )
        index[part] = np.argmin(differ, axis=1)
        distance[part] = np.min(differ, axis=1)
    return index, distance


@cache
def _waves() -> np.ndarray:
    """[KEPT, SIDE], the cosines of the discrete cosine transform (type II) of the lowest frequencies."""
    frequency, place = np.arange(KEPT)[:, None], np.arange(SIDE)[None]
    return np.cos(np.pi * frequency * (2 * place + 1) / (2 * SIDE))
