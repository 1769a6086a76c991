"""Odd one out: which of four crops is not from image 1? A whole proxy task, as a user would add one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from locus.scenes.render import render
from locus.scenes.source import SceneSource
from locus.tasks.answers import THINK_ANSWER, completion_text, parse_text
from locus.tasks.cue_search.cues import render_cue
from locus.tasks.task import Split, Task
from locus.types import Frame, Grade, Query, Response, View

QUESTION = "Images 2 to 5 are crops. Which of them is not a part of Image 1? Answer with its number."


@dataclass(frozen=True)
class Puzzle:
    """A scene, and which of the images 2 to 5 is of the next one."""

    index: int
    odd: int

    @property
    def example_id(self) -> str:
        return f"puzzle-{self.index}"


class OddOneOut(Task[Puzzle]):
    """Three crops of a scene and one of another."""

    name = "odd_one_out"
    headline = "accuracy"

    def __init__(self, source: SceneSource, train: int, validation: int) -> None:
        self.source, self.sizes = source, {"train": (0, train), "validation": (train, train + validation)}

    def examples(self, split: Split) -> Sequence[Puzzle]:
        return [Puzzle(i, 2 + int(np.random.default_rng([7, i]).integers(4))) for i in range(*self.sizes[split])]

    def prompt(self, example: Puzzle, frame: Frame) -> Query:
        first, other = (self.source.scene(2 * example.index + k) for k in range(2))
        crops = [render_cue(render(first), item.box.xyxy) for item in first.objects[:3]]
        crops.insert(example.odd - 2, render_cue(render(other), other.objects[0].box.xyxy))
        return Query(f"{QUESTION}\n{THINK_ANSWER}", (render(first), *crops))

    def grade(self, example: Puzzle, response: Response, view: View) -> Grade:
        said = parse_text(response.text, finished=response.finished)
        right = float(said.text == str(example.odd))
        parts = {"accuracy": right, "format": float(said.well_formed)}
        return Grade(0.9 * right + 0.1 * parts["format"], parts, said.status)

    def gold(self, example: Puzzle, view: View) -> str:
        return completion_text(str(example.odd))

    def foil(self, example: Puzzle, view: View) -> str:
        return completion_text(str(2 + (example.odd - 1) % 4))
