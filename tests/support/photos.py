"""Pictures with structure at several sizes, as photographs have it, and the same ones stored anew."""

from __future__ import annotations

import io
from functools import cache

import numpy as np
from PIL import Image


@cache
def photo(seed: int, size: tuple[int, int] = (320, 240)) -> Image.Image:
    """Coarse blots under finer ones."""
    rng = np.random.default_rng(seed)
    layers = [Image.fromarray(rng.integers(0, 256, (n, n, 3), dtype=np.uint8)).resize(size, 3) for n in (5, 17)]
    return Image.blend(*layers, 0.4)


def stored(image: Image.Image, kind: str = "JPEG", **how: int) -> Image.Image:
    """The picture, encoded and read again."""
    image.save(file := io.BytesIO(), kind, **how)
    return Image.open(file)


def half(image: Image.Image) -> Image.Image:
    """At half its sides."""
    return image.resize((image.width // 2, image.height // 2), Image.Resampling.BILINEAR)
