"""Draws a generated scene: textured clutter, then every object anti-aliased.

The vocabulary of scenes lives here too, since a word is what is drawn for it: `SHAPES`, `COLOURS`, `PATTERNS`.
An object is drawn in a patch of exactly its box, `SUPERSAMPLING` times as large, and averaged down; its outline touches
all four sides of the patch, so that the box is the tight box of the drawn pixels. Coordinates: pixels of the scene,
x to the right, y down; outlines are [K, 2] arrays of (x, y) in the unit square.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image, ImageChops, ImageDraw

from locus.scenes.scene import Scene, SceneObject
from locus.types import Box

SUPERSAMPLING = 4
NEUTRAL = 128
"""The value of a relief image that leaves the canvas as it is."""
RELIEF_LIMIT = 48
"""Largest change of brightness by clutter, of 255: keeps black and white objects apart from any background."""
RIM = 0.06
"""Width of the rim free of ink, as a share of the object's side."""

Colour = tuple[int, int, int]


# --- words -----------------------------------------------------------------------------------------------------------

COLOURS: dict[str, tuple[Colour, Colour]] = {
    "red": ((222, 30, 38), (108, 8, 14)),
    "orange": ((255, 140, 0), (138, 62, 0)),
    "yellow": ((255, 232, 40), (146, 122, 0)),
    "green": ((24, 168, 52), (4, 74, 18)),
    "cyan": ((60, 226, 236), (0, 112, 124)),
    "blue": ((28, 66, 226), (140, 164, 255)),
    "purple": ((132, 28, 180), (214, 150, 244)),
    "pink": ((255, 138, 200), (150, 40, 98)),
    "black": ((14, 14, 16), (118, 118, 122)),
    "white": ((252, 252, 250), (136, 136, 140)),
}
"""Name -> (fill, ink): the object's own colour, and the shade of it in which its pattern is drawn."""


def _fill_unit(points: np.ndarray) -> np.ndarray:
    """[K, 2] points moved and stretched so that they touch all four sides of the unit square."""
    low, high = points.min(axis=0), points.max(axis=0)
    return (points - low) / (high - low)


def _polar(turns: np.ndarray, radius: np.ndarray | float = 1.0) -> np.ndarray:
    """Points at these angles, in turns clockwise from straight up, and radii -> [K, 2]."""
    return np.stack([radius * np.sin(2 * np.pi * turns), -radius * np.cos(2 * np.pi * turns)], axis=1)


def _outlines() -> dict[str, tuple[np.ndarray, ...]]:
    """Name -> outlines in the unit square: the first is filled, the others are holes in it."""
    round_turns = np.arange(48) / 48
    circle = _fill_unit(_polar(round_turns))
    angle = 2 * np.pi * round_turns
    lobes = 13 * np.cos(angle) - 5 * np.cos(2 * angle) - 2 * np.cos(3 * angle) - np.cos(4 * angle)
    heart = np.stack([16 * np.sin(angle) ** 3, -lobes], axis=1)
    # The bite of the crescent is a circle through both tips, at 1/12 and 5/12 of a turn.
    outer = _polar(np.linspace(5 / 12, 13 / 12, 32))
    inner = _polar(np.linspace(1 / 12, 5 / 12, 24)) * (-0.86, 1.0) + (0.93, 0.0)
    # A cross is the end of its upper arm and the inner corner after it, turned by quarters.
    quarter, turn = np.array([(-0.18, -0.5), (0.18, -0.5), (0.18, -0.18)]), np.array([(0, 1), (-1, 0)])
    cross = 0.5 + np.concatenate([quarter @ np.linalg.matrix_power(turn, n) for n in range(4)])
    return {
        "circle": (circle,),
        "square": (np.array([(0.0, 0), (1, 0), (1, 1), (0, 1)]),),
        "triangle": (np.array([(0.5, 0), (1, 1), (0, 1)]),),
        "diamond": (np.array([(0.5, 0), (1, 0.5), (0.5, 1), (0, 0.5)]),),
        "star": (_fill_unit(_polar(np.arange(10) / 10, np.where(np.arange(10) % 2 == 0, 1.0, 0.45))),),
        "cross": (cross,),
        "ring": (circle, 0.5 + 0.44 * (circle - 0.5)),
        "heart": (_fill_unit(heart),),
        "hexagon": (_fill_unit(_polar(np.arange(6) / 6 + 0.25)),),
        "crescent": (_fill_unit(np.concatenate([outer, inner])),),
    }


SHAPES: dict[str, tuple[np.ndarray, ...]] = _outlines()


def _stripes(draw: ImageDraw.ImageDraw, width: int, height: int) -> None:
    pitch = (width + height) / 5
    for start in np.arange(-height, width, pitch):
        draw.line([(start, height), (start + height, 0)], fill=255, width=round(0.36 * pitch))


def _dots(draw: ImageDraw.ImageDraw, width: int, height: int) -> None:
    radius = 0.085 * np.sqrt(width * height)
    for row in range(4):
        for column in range(4 - row % 2):
            x, y = (column + 0.5 * (1 + row % 2)) * width / 4, (row + 0.5) * height / 4
            draw.ellipse([x - radius, y - radius, x + radius, y + radius], fill=255)


def _checks(draw: ImageDraw.ImageDraw, width: int, height: int) -> None:
    for row in range(4):
        for column in range(row % 2, 4, 2):
            left, top = column * width // 4, row * height // 4
            draw.rectangle([left, top, left + width // 4 - 1, top + height // 4 - 1], fill=255)


def _band(draw: ImageDraw.ImageDraw, width: int, height: int) -> None:
    draw.rectangle([0, 0.36 * height, width, 0.66 * height], fill=255)


PATTERNS: dict[str, Callable[[ImageDraw.ImageDraw, int, int], None] | None] = {
    "plain": None,
    "striped": _stripes,
    "dotted": _dots,
    "checked": _checks,
    "banded": _band,
}
"""Name -> what draws its ink on a mask of (width, height); the pattern scales with the object."""


# --- drawing ---------------------------------------------------------------------------------------------------------


def render(scene: Scene) -> Image.Image:
    """The scene's picture, RGB: a pure function of the scene, byte for byte."""
    canvas = background(scene.width, scene.height, scene.clutter, scene.background_seed)
    for item in scene.objects:
        _draw(canvas, item)
    return canvas if scene.context else only_boxes(canvas, [item.box for item in scene.objects])


def only_boxes(picture: Image.Image, boxes: Sequence[Box]) -> Image.Image:
    """The picture, black outside the boxes (file frame); same canvas and scale."""
    sheet = Image.new("RGB", picture.size)
    for box in boxes:
        left, top, right, bottom = (round(value) for value in box.xyxy)
        sheet.paste(picture.crop((left, top, right, bottom)), (left, top))
    return sheet


def _draw(canvas: Image.Image, item: SceneObject) -> None:
    """Draws one object on the canvas, in place, inside its box."""
    left, top, right, bottom = (round(value) for value in item.box.xyxy)
    size = (SUPERSAMPLING * (right - left), SUPERSAMPLING * (bottom - top))
    last = (size[0] - 1, size[1] - 1)  # PIL fills up to and with the last pixel
    corners = [(outline * last).ravel().tolist() for outline in SHAPES[item.shape]]
    shape = Image.new("L", size, 0)
    for depth, polygon in enumerate(corners):
        ImageDraw.Draw(shape).polygon(polygon, fill=255 if depth == 0 else 0)
    fill, ink = COLOURS[item.colour]
    patch = Image.new("RGB", (right - left, bottom - top), fill)
    draw_pattern = PATTERNS[item.pattern]
    if draw_pattern is not None:
        mask = Image.new("L", size, 0)
        draw = ImageDraw.Draw(mask)
        draw_pattern(draw, *size)
        for polygon in corners:  # the rim keeps the fill, so that the outline shows where ink is like the background
            draw.line(polygon + polygon[:4], fill=0, width=round(RIM * (size[0] + size[1])))
        patch.paste(ink, mask=mask.reduce(SUPERSAMPLING))
    canvas.paste(patch, (left, top), mask=shape.reduce(SUPERSAMPLING))


def background(width: int, height: int, clutter: float, seed: int) -> Image.Image:
    """Muted mid-tone texture [height, width] RGB, different for each seed; a flat colour where ``clutter`` is 0.

    Hues from a coarse noise, brightness from noise of cells 2, 8, 32, ... px, faint blobs and thin strokes. It stays
    near grey and between the tones of the black and the white objects, so that every object stands out.
    """
    rng = np.random.default_rng(seed)
    base = rng.uniform(108, 146) + rng.uniform(-12, 12, size=3)
    tint = base + clutter * rng.normal(0, 9, size=(-(-height // 64) + 1, -(-width // 64) + 1, 3))
    canvas = Image.fromarray(tint.clip(0, 255).astype(np.uint8)).resize((width, height), Image.Resampling.BICUBIC)
    if clutter == 0:
        return Image.new("RGB", (width, height), tuple(int(value) for value in base))
    relief = _strokes_and_blobs(width, height, clutter, rng)
    cell = 2
    while cell < max(width, height):
        grid = rng.standard_normal((-(-height // cell) + 1, -(-width // cell) + 1), dtype=np.float32)
        grid = (NEUTRAL + 11 * clutter * grid).clip(0, 255).astype(np.uint8)
        layer = Image.fromarray(grid).resize((width, height), Image.Resampling.BILINEAR)
        relief = ImageChops.add(relief, layer, 1, -NEUTRAL)
        cell *= 4
    relief = relief.point([min(max(value, NEUTRAL - RELIEF_LIMIT), NEUTRAL + RELIEF_LIMIT) for value in range(256)])
    return ImageChops.add(canvas, Image.merge("RGB", [relief] * 3), 1, -NEUTRAL)


def _strokes_and_blobs(width: int, height: int, clutter: float, rng: np.random.Generator) -> Image.Image:
    """Brightness relief [height, width] around NEUTRAL: blobs in the canvas's scale, strokes in pixels."""
    relief = Image.new("L", (2 * width, 2 * height), NEUTRAL)
    draw = ImageDraw.Draw(relief)
    blobs = round(24 * clutter)
    centres = rng.uniform((0, 0), (2 * width, 2 * height), size=(blobs, 2))
    radii = np.exp(rng.uniform(np.log(4), np.log(4 + min(width, height) / 4), size=(blobs, 2)))
    for (x, y), (across, down), tone in zip(centres, radii, rng.normal(0, 14, size=blobs) * clutter, strict=True):
        draw.ellipse([x - across, y - down, x + across, y + down], fill=round(NEUTRAL + tone))
    strokes = round(clutter * width * height / 1600)
    starts = rng.uniform((0, 0), (2 * width, 2 * height), size=(strokes, 1, 2))
    steps = np.exp(rng.uniform(np.log(8), np.log(64), size=(strokes, 1, 1)))
    turns = rng.uniform(0, 1, size=(strokes, 1)) + np.cumsum(rng.normal(0, 0.1, size=(strokes, 4)), axis=1)
    bends = np.stack([np.cos(2 * np.pi * turns), np.sin(2 * np.pi * turns)], axis=2)
    paths = np.concatenate([starts, starts + np.cumsum(steps * bends, axis=1)], axis=1)  # [strokes, 5, 2]
    tones = NEUTRAL + rng.normal(0, 26, size=strokes) * clutter
    thickness = rng.integers(2, 7, size=strokes)
    for path, tone, pixels in zip(paths.reshape(strokes, -1).tolist(), tones, thickness.tolist(), strict=True):
        draw.line(path, fill=round(tone), width=pixels, joint="curve")
    return relief.reduce(2)
