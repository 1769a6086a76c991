"""Questions about generated scenes as a task: answered by a word, or for grounding by a box."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from locus.boxes import to_view
from locus.scenes.questions import Ask, AskedScene, draw_questions
from locus.scenes.render import render
from locus.scenes.source import SceneSource
from locus.tasks.answers import box_text, completion_text, normalised, parse_text
from locus.tasks.box_task import shifted
from locus.tasks.cue_search.reward import BoxReward
from locus.tasks.questions import another, any_of, best_constants
from locus.tasks.task import Split, Task
from locus.types import Frame, Grade, Query, Response, View


@dataclass(frozen=True, slots=True, eq=False)
class SceneExample:
    """A scene with a question about it."""

    example_id: str
    asked: AskedScene


class SceneQuestions(Task[SceneExample]):
    """Held-out questions of one kind about one family of scenes: right by the word, or from an IoU of 0.5 on.

    Args:
        source: of the scenes.
        ask: the kind.
        number: of questions, each about a scene of its own.
        seed: of the questions.
    """

    name = "scene_questions"
    headline = "accuracy"

    def __init__(self, source: SceneSource, ask: Ask, number: int, seed: int) -> None:
        self._examples = [
            SceneExample(str(index), asked) for index, asked in enumerate(draw_questions(source, ask, number, seed))
        ]

    def examples(self, split: Split) -> Sequence[SceneExample]:
        """All are validation's."""
        return self._examples if split == "validation" else ()

    def prompt(self, example: SceneExample, frame: Frame) -> Query:
        """The scene's picture and the question as it is."""
        return Query(example.asked.question.text, (render(example.asked.scene),))

    def grade(self, example: SceneExample, response: Response, view: View) -> Grade:
        """A word must be the answer, once both are normalised; a box is graded by its IoU."""
        question = example.asked.question
        if question.answer:
            said = parse_text(response.text, finished=response.finished)
            right = float(said.text is not None and normalised(said.text) == question.answer)
            return Grade(right, {"accuracy": right, "format": float(said.well_formed)}, said.status)
        grade = BoxReward(alpha=0.0).grade(response, view, question.evidence[0])
        parts = {"accuracy": float(grade.parts["iou"] >= 0.5), **grade.parts}
        return Grade(parts["accuracy"], parts, grade.status, grade.columns)

    def gold(self, example: SceneExample, view: View) -> str:
        """The word, or the box."""
        question = example.asked.question
        return completion_text(question.answer or box_text(to_view(question.evidence[0], view), 3))

    def foil(self, example: SceneExample, view: View) -> str:
        """Another word of the kind, or the box shifted by half its sides."""
        question = example.asked.question
        other = another(question.choices, question.answer)
        return completion_text(other or box_text(shifted(to_view(question.evidence[0], view)), 3))

    def chance(self, examples: Sequence[SceneExample]) -> float | None:
        """As `best_constants`; None of boxes."""
        questions = [example.asked.question for example in examples]
        if not all(question.choices for question in questions):
            return None
        return best_constants((question.choices, question.answer) for question in questions)

    def blind(self, example: SceneExample, view: View, rng: np.random.Generator) -> str | None:
        """Any word of the kind; None for a box."""
        return any_of(example.asked.question.choices, rng)

    def row(self, example: SceneExample) -> Mapping[str, Any]:
        """Question and right answer."""
        return {"question": example.asked.question.text, "expected": example.asked.question.answer}
