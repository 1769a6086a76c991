"""Pictures of rollouts with their boxes, and attention drawn over an image (paper, Fig. 5 and 10)."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from textwrap import wrap
from typing import Any

import numpy as np
from matplotlib import colormaps
from PIL import Image, ImageDraw

from locus.boxes import box_iou, edges
from locus.types import Box, Frame, Query, RolloutGroup

Colour = tuple[int, int, int]
# Colour-blind eyes can distinguish them.
TRUE, PREDICTED, BASE, INK = (
    (0, 158, 115),
    (213, 94, 0),
    (0, 114, 178),
    (32, 32, 32),
)
SHORT_SIDE, CUE_WIDTH, MARGIN = 448, 192, 12
CUE_CHARACTERS = 28
"""Of an expression, in a line of the cue's width."""


def rollout_picture(query: Query, row: Mapping[str, Any], group: RolloutGroup) -> Image.Image:
    """What was asked, with the true box and the rollouts' boxes where there are any, and the best reward in words.

    row: what the task says of the example (`Task.row`).
    """
    best = max((rollout.grade for rollout in group.rollouts), key=lambda grade: grade.total)
    answered = [_box(query, rollout.grade.columns.get("box")) for rollout in group.rollouts]
    target, words = _box(query, row.get("target")), []
    if target is not None:
        boxed = best.columns.get("box") is not None
        words = [("true box", TRUE), ("predicted box" if boxed else f"no box: {best.status}", PREDICTED)]
    iou = f"IoU {best.parts['iou']:.2f}  " if "iou" in best.parts else ""
    words.append((f"{iou}reward {best.total:.2f}", INK))
    return query_picture(query, row, [(target, TRUE), *((box, PREDICTED) for box in answered)], words)


def comparison_picture(
    query: Query, row: Mapping[str, Any], base: Sequence[float] | None, trained: Sequence[float] | None
) -> Image.Image:
    """What was asked, with the true box, the base's and the trained policy's (xyxy, file frame)."""
    target, words = _box(query, row.get("target")), [("true box", TRUE)]
    boxes = {"base": (_box(query, base), BASE), "trained": (_box(query, trained), PREDICTED)}
    for name, (box, colour) in boxes.items():
        iou = None if box is None or target is None else box_iou(box, target)
        words.append((f"{name}: no box" if iou is None else f"{name}: IoU {iou:.2f}", colour))
    return query_picture(query, row, [(target, TRUE), *boxes.values()], words)


def _box(query: Query, xyxy: Sequence[float] | None) -> Box | None:
    """A box of the first image."""
    return None if xyxy is None or not query.images else Box(*edges(xyxy), Frame.FILE, *query.images[0].size)


def query_picture(
    query: Query,
    row: Mapping[str, Any],
    boxes: Sequence[tuple[Box | None, Colour]],
    words: Sequence[tuple[str, Colour]],
) -> Image.Image:
    """The first image with boxes, the others or the expression beside it, and lines of text below."""
    first, *others = query.images
    scale = SHORT_SIDE / min(first.size)
    image = first.resize((round(first.width * scale), round(first.height * scale)))
    draw = ImageDraw.Draw(image)
    for box, colour in boxes:
        if box is not None:
            outline(draw, box, scale, colour)

    sheet = Image.new("RGB", (image.width + CUE_WIDTH + 3 * MARGIN, image.height + 2 * MARGIN), "white")
    sheet.paste(image, (MARGIN, MARGIN))
    left, top, lines = image.width + 2 * MARGIN, MARGIN, list(words)
    if "bin" in row:
        size = f", {100 * row['area_ratio']:.2f} % of the image" if "area_ratio" in row else ""
        lines.insert(0, (f"cue: {row['bin']}{size}", INK))
    if said := row.get("expression") or row.get("question"):
        lines = [*((line, INK) for line in wrap(f'"{said}"', CUE_CHARACTERS)), *lines]
    for other in others:
        ratio = min(CUE_WIDTH / other.width, image.height / 2 / len(others) / other.height)
        cue = other.resize((max(1, round(other.width * ratio)), max(1, round(other.height * ratio))))
        sheet.paste(cue, (left, top))
        top += cue.height + 10
    writer = ImageDraw.Draw(sheet)
    for line, (text, colour) in enumerate(lines):
        writer.text((left, top + 18 * line), text, fill=colour, font_size=13)
    return sheet


def outline(draw: ImageDraw.ImageDraw, box: Box, scale: float, colour: tuple[int, int, int]) -> None:
    """Draws a box just outside its region, cut to the picture; a tiny object stays visible inside."""
    width, height = draw.im.size
    x1, y1 = max(0.0, box.x1 * scale - 2), max(0.0, box.y1 * scale - 2)
    x2, y2 = min(width - 1.0, box.x2 * scale + 1), min(height - 1.0, box.y2 * scale + 1)
    if x2 > x1 and y2 > y1:
        draw.rectangle((x1, y1, x2, y2), outline=colour, width=2)


WIDTH, LINE = 320, 18
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
