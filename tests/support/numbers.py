"""A task of a plain list of examples: all of it but four methods is `Task`'s own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from locus.tasks.answers import completion_text, parse_text
from locus.tasks.task import Split, Task
from locus.types import Frame, Grade, Query, Response, View


@dataclass(frozen=True)
class Number:
    """A number to be doubled."""

    value: int

    @property
    def example_id(self) -> str:
        return f"number-{self.value}"


class Numbers(Task[Number]):
    """Twice how much is it? Half of the answer's reward goes to any number."""

    name = "numbers"
    headline = "right"

    def __init__(self, count: int, held_out: int = 0) -> None:
        self.splits = {"train": [*map(Number, range(count))], "validation": [*map(Number, range(-held_out, 0))]}

    def examples(self, split: Split) -> Sequence[Number]:
        return self.splits[split]

    def prompt(self, example: Number, frame: Frame) -> Query:
        return Query(f"Twice {example.value}?")

    def grade(self, example: Number, response: Response, view: View) -> Grade:
        said = parse_text(response.text, finished=response.finished)
        right, number = float(said.text == str(2 * example.value)), float((said.text or "").lstrip("-").isdigit())
        return Grade((right + number) / 2, {"right": right, "number": number}, said.status)

    def gold(self, example: Number, view: View) -> str:
        return completion_text(str(2 * example.value))
