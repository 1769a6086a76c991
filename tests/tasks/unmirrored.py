"""Unmirrored: which of four pictures is image 1, not its mirror image? A whole proxy task, as a user would add one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import ImageOps

from locus.scenes.render import render
from locus.scenes.source import SceneSource
from locus.tasks.answers import THINK_ANSWER, completion_text, parse_text
from locus.tasks.task import Split, Task
from locus.types import Frame, Grade, Query, Response, View

QUESTION = "Images 2 to 5 show Image 1, but three of them in a mirror. Which is not mirrored? Answer with its number."


@dataclass(frozen=True)
class Puzzle:
    """A scene, and which of the images 2 to 5 shows it as it is."""

    index: int
    right: int

    @property
    def example_id(self) -> str:
        return f"puzzle-{self.index}"


class Unmirrored(Task[Puzzle]):
    """A scene, three mirror images of it and a copy."""

    name = "unmirrored"
    headline = "accuracy"

    def __init__(self, source: SceneSource, train: int, validation: int) -> None:
        self.source, self.sizes = source, {"train": (0, train), "validation": (train, train + validation)}

    def examples(self, split: Split) -> Sequence[Puzzle]:
        return [Puzzle(i, 2 + int(np.random.default_rng([7, i]).integers(4))) for i in range(*self.sizes[split])]

    def prompt(self, example: Puzzle, frame: Frame) -> Query:
        shown = render(self.source.scene(example.index))
        pictures = [shown if number == example.right else ImageOps.mirror(shown) for number in range(2, 6)]
        return Query(f"{QUESTION}\n{THINK_ANSWER}", (shown, *pictures))

    def grade(self, example: Puzzle, response: Response, view: View) -> Grade:
        said = parse_text(response.text, finished=response.finished)
        right = float(said.text == str(example.right))
        parts = {"accuracy": right, "format": float(said.well_formed)}
        return Grade(0.9 * right + 0.1 * parts["format"], parts, said.status)

    def gold(self, example: Puzzle, view: View) -> str:
        return completion_text(str(example.right))

    def foil(self, example: Puzzle, view: View) -> str:
        return completion_text(str(2 + (example.right - 1) % 4))
