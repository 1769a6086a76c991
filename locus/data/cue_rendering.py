"""Crop -> cue: the picture of a box region, in whole pixels of the file, resized by a factor."""

from __future__ import annotations

import numpy as np
from PIL import Image

from locus.errors import LocusError

_ROUNDING = 1e-6  # a side that is whole but for float rounding stays whole


def whole_pixels(boxes: np.ndarray, width: np.ndarray | int, height: np.ndarray | int) -> np.ndarray:
    """[..., 4] xyxy boxes in the file frame, rounded outward to whole pixels and clipped to the image.

    A cue is made of whole pixels, so this is the smallest region that shows all of the box.
    """
    low, high = np.floor(boxes[..., :2] + _ROUNDING), np.ceil(boxes[..., 2:] - _ROUNDING)
    size = np.stack(np.broadcast_arrays(width, height), axis=-1)
    return np.concatenate([np.clip(low, 0, size), np.clip(high, 0, size)], axis=-1)


def render_cue(image: Image.Image, box: tuple[float, float, float, float], scale: float = 1.0) -> Image.Image:
    """The cue of a box.

    Args:
        image: the full image as stored.
        box: xyxy, file frame; fractional sides are rounded outward.
        scale: the cue's size is this multiple of the crop's (bicubic, aspect kept to the pixel), at least 1 px.

    Raises:
        LocusError: the box has no pixel in the image.
    """
    x1, y1, x2, y2 = (int(value) for value in whole_pixels(np.array(box), *image.size))
    if x2 <= x1 or y2 <= y1:
        raise LocusError(f"box {list(box)} has no pixel in an image of {image.width}x{image.height}; mend the corpus")
    crop = image.crop((x1, y1, x2, y2))
    size = (max(1, round(crop.width * scale)), max(1, round(crop.height * scale)))
    return crop if size == crop.size else crop.resize(size, Image.Resampling.BICUBIC)
