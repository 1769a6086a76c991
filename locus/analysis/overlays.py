"""Attention drawn over an image, several policies on one scale (paper, Fig. 5 and 10)."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib import colormaps
from PIL import Image, ImageDraw

from locus.analysis.pictures import INK, TRUE, outline
from locus.types import Box

WIDTH, MARGIN, LINE = 320, 12, 18
TRANSPARENT = 60
"""Percentile of all maps' cells up to which nothing is drawn."""
OPACITY = 0.75


def overlay_picture(
    image: Image.Image, maps: Mapping[str, np.ndarray], boxes: Sequence[Box], title: str
) -> Image.Image:
    """The image once for each policy, its attention over it.

    Args:
        image: RGB.
        maps: policy -> [rows, columns] attention, each normalised to sum 1 here.
        boxes: the evidence boxes, file frame.
        title: one line above.
    """
    scale = WIDTH / image.width
    base = image.resize((WIDTH, max(1, round(image.height * scale))))
    shares = {name: attention / attention.sum() for name, attention in maps.items()}
    cells = np.concatenate([share.ravel() for share in shares.values()])
    low, high = np.percentile(cells, TRANSPARENT), cells.max()
    sheet = Image.new("RGB", (len(maps) * (WIDTH + MARGIN) + MARGIN, base.height + 2 * LINE + 2 * MARGIN), "white")
    writer = ImageDraw.Draw(sheet)
    writer.text((MARGIN, 6), textwrap.shorten(title, 44 * len(maps), placeholder=" ..."), fill=INK, font_size=13)
    for index, (name, share) in enumerate(shares.items()):
        left, top = MARGIN + index * (WIDTH + MARGIN), 2 * LINE + MARGIN
        writer.text((left, top - LINE), name, fill=INK, font_size=13)
        shown = blend(base, (share - low) / max(high - low, 1e-12))
        for box in boxes:
            outline(ImageDraw.Draw(shown), box, scale, TRUE)
        sheet.paste(shown, (left, top))
    return sheet


def blend(image: Image.Image, strength: np.ndarray) -> Image.Image:
    """[rows, columns] strengths, drawn from 0 (transparent) to 1, upsampled bilinearly over the image."""
    values = Image.fromarray(strength.clip(0, 1).astype(np.float32)).resize(image.size, Image.Resampling.BILINEAR)
    shares = np.asarray(values)
    colours = colormaps["inferno"](shares)[..., :3] * 255
    opacity = OPACITY * np.minimum(1, 2 * shares)[..., None]
    mixed = (1 - opacity) * np.asarray(image, dtype=float) + opacity * colours
    return Image.fromarray(mixed.round().astype(np.uint8))
