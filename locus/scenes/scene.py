"""What is known of a generated scene: its objects with their boxes and attributes, and how they lie."""

from __future__ import annotations

from dataclasses import dataclass

from locus.types import Box

RELATION_MARGIN = 0.05
"""Centres nearer than this share of the canvas's side have no clear order along it."""


def in_words(shape: str, colour: str, pattern: str) -> str:
    """An object's name, e.g. ``dotted red star``."""
    return f"{pattern} {colour} {shape}"


@dataclass(frozen=True, slots=True)
class SceneObject:
    """One object of a scene. Example: ``SceneObject(Box(10, 20, 42, 60, Frame.FILE, 256, 256), "star", "red",
    "dotted")``.
    """

    box: Box
    """The tight box of the drawn pixels: whole numbers, file frame."""
    shape: str
    colour: str
    pattern: str

    @property
    def attributes(self) -> tuple[str, str, str]:
        """(shape, colour, pattern): unique within the scene."""
        return (self.shape, self.colour, self.pattern)

    @property
    def label(self) -> str:
        """The object in words, e.g. ``dotted red star``."""
        return in_words(self.shape, self.colour, self.pattern)

    @property
    def size(self) -> tuple[float, float]:
        """Width and height in pixels."""
        return (self.box.x2 - self.box.x1, self.box.y2 - self.box.y1)

    @property
    def centre(self) -> tuple[float, float]:
        """(x, y) in pixels."""
        return ((self.box.x1 + self.box.x2) / 2, (self.box.y1 + self.box.y2) / 2)


@dataclass(frozen=True, slots=True)
class Scene:
    """All that is known of one scene; its picture is a pure function of it (`render.render`)."""

    width: int
    height: int
    objects: tuple[SceneObject, ...]
    clutter: float
    """Strength of the background's texture, 0 (flat) to 1."""
    background_seed: int
    context: bool = True
    """False: all but the objects' boxes is black."""

    def left_of(self, a: SceneObject, b: SceneObject) -> bool:
        """Whether a is clearly left of b: its centre is, by more than `RELATION_MARGIN` of the canvas's width and by
        more than half the wider one's width. False does not mean ``right_of``: the order may be unclear."""
        return self._clearly_before(a, b, axis=0)

    def right_of(self, a: SceneObject, b: SceneObject) -> bool:
        """Whether a is clearly right of b; the mirror of `left_of`."""
        return self._clearly_before(b, a, axis=0)

    def above(self, a: SceneObject, b: SceneObject) -> bool:
        """Whether a is clearly above b; `left_of` along the height."""
        return self._clearly_before(a, b, axis=1)

    def below(self, a: SceneObject, b: SceneObject) -> bool:
        """Whether a is clearly below b; the mirror of `above`."""
        return self._clearly_before(b, a, axis=1)

    def _clearly_before(self, a: SceneObject, b: SceneObject, axis: int) -> bool:
        margin = max(RELATION_MARGIN * (self.width, self.height)[axis], a.size[axis] / 2, b.size[axis] / 2)
        return b.centre[axis] - a.centre[axis] > margin
