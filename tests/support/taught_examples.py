"""One grey picture with a texture, and what a teacher is shown of it."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
from PIL import Image

from locus.types import CueExample

SIZE, BOX = (120, 90), (30.0, 20.0, 60.0, 50.0)


class Noise:
    """A source of one grey picture with a texture in the box."""

    def open(self, path: str) -> Image.Image:
        pixels = np.full((SIZE[1], SIZE[0], 3), 128, dtype=np.uint8)
        pixels[20:50, 30:60] = np.random.default_rng(0).integers(0, 256, (30, 30, 3))
        return Image.fromarray(pixels)


def examples(count: int) -> list[CueExample]:
    """Boxes of different widths: no two requests are alike."""
    return [
        CueExample(f"e-{number}", "i", "i.png", *SIZE, (BOX[0], BOX[1], BOX[2] - number, BOX[3]), 0.1, "large")
        for number in range(count)
    ]


def picture(part: dict[str, Any], kind: str) -> Image.Image:
    """The picture of an ``image_url`` part."""
    head, data = part["image_url"]["url"].split(",")
    assert head == f"data:image/{kind};base64"
    return Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB")
