"""Generated scenes with known boxes, attributes and relations, and the image source over them.

A scene is many small objects on textured clutter. Each object is the only one of its (shape, colour, pattern) in its
scene, so that a question has one answer and a crop one place; look-alikes differ from another object in exactly one of
the three, so that finding the place needs the cue's detail. Scene i of a seed depends on (seed, i) and the source's
arguments alone. Drawing is in `locus.scenes.render`; making a scene draws no pixels.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from typing import TypeVar

import numpy as np
from PIL import Image

from locus.errors import LocusError
from locus.scenes.render import COLOURS, PATTERNS, SHAPES, render
from locus.scenes.scene import Scene, SceneObject, in_words
from locus.types import Box, Frame, ImageTable

Number = TypeVar("Number", int, float)
Place = tuple[int, int, int, int]
"""x1, y1, x2, y2 in pixels."""
Words = tuple[str, ...]
"""Of one object: shape, colour, pattern."""

SCHEME = "scene://"
ATTRIBUTES = (tuple(SHAPES), tuple(COLOURS), tuple(PATTERNS))
"""The words of each attribute: shapes, colours, patterns."""
COUNTS = tuple(len(words) for words in ATTRIBUTES)
TRIES = 64
"""Random positions tried for an object before the scene is laid out anew with smaller objects."""
FEW = 8
"""Of these tries are looked at first, as most objects find a place at once."""
SHRINK = 0.8
"""The factor by which an overfull scene's objects get smaller."""
COVER_LIMIT = 0.3
"""Largest share of the canvas covered by the most objects at their smallest, so that random placement always finds
room: it jams at 0.56 in the plane (random sequential adsorption of squares), at 0.37 in a strip just too narrow for two
rows; on a grid later."""


class SceneSource:
    """An image source of ``count`` generated scenes; paths are ``scene://<family>/<index>``, the family a digest of all
    arguments but ``count``: a corpus of other scenes is refused.

    count: number of scenes. width, height: canvas in pixels.
    objects: (fewest, most) objects a scene, uniform. object_side: (shortest, longest) side of an object in pixels,
    log-uniform; both sides of every object lie within it. stretch: largest ratio of its two sides, at least 1.
    gap: pixels between any two objects' boxes, at least. grid: upper left corners lie on multiples of it, in pixels.
    lookalikes: share of a scene's objects, 0-1, that come as a pair of equal size differing in exactly one attribute;
    the pairs come first: objects 0 and 1, 2 and 3, ...
    clutter: strength of the background's texture, 0-1. context: false blacks out all but the objects' boxes.
    seed: not negative.

    An overfull scene keeps its number of objects: when one of them finds no place, all become smaller, though never
    below the shortest side, and are laid out anew. Raises LocusError for arguments that no scene can meet.
    """

    def __init__(self, count: int, width: int, height: int, objects: Sequence[int], object_side: Sequence[int],
                 stretch: float = 1.0, gap: int = 2, grid: int = 1, lookalikes: float = 0.5, clutter: float = 0.5,
                 context: bool = True, seed: int = 0) -> None:  # fmt: skip
        self.count, self.width, self.height = (
            _number(name, value, low=1, whole=True)
            for name, value in (("count", count), ("width", width), ("height", height))
        )
        self.objects, self.object_side = _interval("objects", objects, 1), _interval("object_side", object_side, 4)
        self.stretch, self.gap = _number("stretch", stretch, low=1), _number("gap", gap, low=0, whole=True)
        self.grid = _number("grid", grid, low=1, whole=True)
        self.lookalikes = _number("lookalikes", lookalikes, low=0, high=1)
        self.clutter = _number("clutter", clutter, low=0, high=1)
        self.context, self.seed = bool(context), _number("seed", seed, low=0, whole=True)
        self._check_room()
        arguments = {name: value for name, value in vars(self).items() if name != "count"}
        self.family = hashlib.sha256(json.dumps(arguments, sort_keys=True, default=int).encode()).hexdigest()[:8]

    def _check_room(self) -> None:
        """Raises LocusError unless every scene can be laid out."""
        (low, high), most = self.object_side, self.objects[1]
        if high > min(self.width, self.height):
            raise LocusError(f"data.source.object_side: {high} px is more than the {self.width}x{self.height} canvas: "
                             f"at most {min(self.width, self.height)}, or a larger width and height")  # fmt: skip
        distinct = math.prod(COUNTS) // 2
        steps = math.ceil((low + self.gap) / self.grid)  # of the grid, that an object and its gap take each way
        across, down = ((side - low) // self.grid + steps for side in (self.width, self.height))
        share = COVER_LIMIT if steps > 1 else 0.9  # an object that takes one corner leaves all others
        room = max(int(share * across * down / steps**2), 1)
        if most > min(distinct, room):
            raise LocusError(
                f"data.source.objects: up to {most}, but a {self.width}x{self.height} canvas takes {room} of {low} px "
                f"on a grid of {self.grid} px (and a scene {distinct} distinct ones): fewer objects, a smaller "
                "object_side or grid, or a larger width and height"
            )

    def table(self) -> ImageTable:
        """All scenes and boxes as columns; draws no pixels. Labels are the objects in words."""
        layouts = [self._layout(self._generator(index)) for index in range(self.count)]
        return ImageTable(
            image_id=tuple(f"scene-{self.seed}-{index}" for index in range(self.count)),
            path=tuple(map(self.path, range(self.count))),
            width=np.full(self.count, self.width, dtype=np.int64),
            height=np.full(self.count, self.height, dtype=np.int64),
            box_image=np.repeat(np.arange(self.count, dtype=np.int64), [len(boxes) for boxes, _ in layouts]),
            boxes=np.array([box for boxes, _ in layouts for box in boxes], dtype=np.float64),
            labels=tuple(in_words(*words) for _, attributes in layouts for words in attributes),
        )

    def path(self, index: int) -> str:
        """What scene ``index`` is called; scenes of one path look the same."""
        return f"{SCHEME}{self.family}/{index}"

    def open(self, path: str) -> Image.Image:
        """The picture of ``scene://<family>/<index>``, RGB; raises LocusError for any other path."""
        family, _, index = path.removeprefix(SCHEME).partition("/")
        if not (path.startswith(SCHEME) and family == self.family and index.isdecimal() and int(index) < self.count):
            raise LocusError(
                f"{path!r} is not a scene of this source, which has {SCHEME}{self.family}/0 to {self.count - 1}: use "
                "the data.source and seed that the corpus was made with, or prepare it again"
            )
        return render(self.scene(int(index)))

    def scene(self, index: int) -> Scene:
        """Scene ``index`` of this seed, whatever was asked for before."""
        rng = self._generator(index)
        places, attributes = self._layout(rng)
        return Scene(
            width=self.width,
            height=self.height,
            objects=tuple(
                SceneObject(self._box(place), *words) for place, words in zip(places, attributes, strict=True)
            ),
            clutter=self.clutter,
            background_seed=int(rng.integers(2**63)),
            context=self.context,
        )

    def _box(self, place: Place) -> Box:
        x1, y1, x2, y2 = map(float, place)
        return Box(x1, y1, x2, y2, Frame.FILE, self.width, self.height)

    def _generator(self, index: int) -> np.random.Generator:
        """Which scene ``index`` is drawn from."""
        return np.random.default_rng([self.seed, index])

    def _layout(self, rng: np.random.Generator) -> tuple[list[Place], list[Words]]:
        """Boxes and attributes of a scene's objects."""
        number = int(rng.integers(self.objects[0], self.objects[1] + 1))
        pairs = int(self.lookalikes * number / 2)
        attributes = _draw_attributes(number, pairs, rng)
        sizes = self._draw_sizes(number, rng)
        sizes[1 : 2 * pairs : 2] = sizes[0 : 2 * pairs : 2]
        boxes = self._place(sizes.round().astype(int).tolist(), rng)
        while boxes is None:
            sizes = np.maximum(SHRINK * sizes, self.object_side[0])
            boxes = self._place(sizes.round().astype(int).tolist(), rng)
        return boxes, attributes

    def _draw_sizes(self, number: int, rng: np.random.Generator) -> np.ndarray:
        """[number, 2] widths and heights in pixels, unrounded."""
        low, high = self.object_side
        sides = np.exp(rng.uniform(math.log(low), math.log(high), size=(number, 1)))
        ratio = np.exp(rng.uniform(-0.5, 0.5, size=(number, 1)) * math.log(self.stretch))
        return np.concatenate([sides * ratio, sides / ratio], axis=1).clip(low, high)

    def _place(self, sizes: list[list[int]], rng: np.random.Generator) -> list[Place] | None:
        """Random boxes of these sizes, inside the canvas and ``gap`` apart, largest first; None where one finds no
        place. Plain numbers, not arrays: ten times as fast for so few boxes."""
        draws = rng.random((len(sizes), TRIES, 2))
        first = draws[:, :FEW].tolist()
        placed: dict[int, Place] = {}
        taken: list[Place] = []  # each with the gap behind it
        for item in sorted(range(len(sizes)), key=lambda item: -sizes[item][0] * sizes[item][1]):
            box = self._free(first[item], sizes[item], taken)
            box = box or self._free(draws[item, FEW:].tolist(), sizes[item], taken)
            if box is None:
                return None
            placed[item] = box
            taken.append((box[0], box[1], box[2] + self.gap, box[3] + self.gap))
        return [placed[item] for item in range(len(sizes))]

    def _free(self, draws: list[list[float]], size: list[int], taken: list[Place]) -> Place | None:
        """The first of these places, in shares of the room there is, that touches none that is taken."""
        width, height = size
        across, down = ((room // self.grid) + 1 for room in (self.width - width, self.height - height))
        for horizontal, vertical in draws:
            x, y = int(horizontal * across) * self.grid, int(vertical * down) * self.grid
            right, bottom = x + width + self.gap, y + height + self.gap
            for x1, y1, x2, y2 in taken:  # the innermost loop of a corpus's start-up: `any` takes twice as long
                if x < x2 and x1 < right and y < y2 and y1 < bottom:
                    break
            else:
                return x, y, x + width, y + height
        return None


def in_order(sources: Sequence[SceneSource] | Mapping[str, SceneSource]) -> tuple[SceneSource, ...]:
    """Sources that a configuration has under names, or in a list, in their order."""
    return tuple(sources.values() if isinstance(sources, Mapping) else sources)


def _draw_attributes(number: int, pairs: int, rng: np.random.Generator) -> list[Words]:
    """``number`` distinct (shape, colour, pattern); the first 2 * ``pairs`` are pairs that differ in exactly one."""
    drawn: dict[Words, None] = {}  # a set that keeps its order
    while len(drawn) < 2 * pairs:
        words = [group[rng.integers(len(group))] for group in ATTRIBUTES]
        attribute = rng.integers(len(ATTRIBUTES))
        others = [word for word in ATTRIBUTES[attribute] if word != words[attribute]]
        other = [*words[:attribute], others[rng.integers(len(others))], *words[attribute + 1 :]]
        if drawn.keys().isdisjoint(pair := (tuple(words), tuple(other))):
            drawn.update(dict.fromkeys(pair))
    while len(drawn) < number:  # as many as are missing at a time: what is drawn twice counts once
        rows = rng.integers(COUNTS, size=(number - len(drawn), len(ATTRIBUTES))).tolist()
        drawn.update(dict.fromkeys(tuple(group[i] for group, i in zip(ATTRIBUTES, row, strict=True)) for row in rows))
    return list(drawn)


def _number(name: str, value: Number, low: float, high: float = math.inf, whole: bool = False) -> Number:
    """``value`` if it is a number within [low, high]; raises LocusError naming the key otherwise."""
    kinds = (int, np.integer) if whole else (int, float, np.integer, np.floating)
    if isinstance(value, bool) or not isinstance(value, kinds) or not low <= value <= high:
        bounds = f"from {low} to {high}" if high < math.inf else f"of at least {low}"
        raise LocusError(f"data.source.{name}: {value!r}; give a{' whole' if whole else ''} number {bounds}")
    return value


def _interval(name: str, bounds: Sequence[int], low: int) -> tuple[int, int]:
    """Two whole numbers, ascending, from ``low`` on; raises LocusError naming the key otherwise."""
    pair = isinstance(bounds, Sequence) and not isinstance(bounds, str) and len(bounds) == 2
    least, most = [_number(name, value, low, whole=True) for value in bounds] if pair else [1, 0]
    if least > most:
        raise LocusError(f"data.source.{name}: {bounds!r}; give [low, high], two whole numbers with low <= high")
    return least, most
