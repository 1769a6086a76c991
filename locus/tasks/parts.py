"""Examples of the parts of a mixture, and how a step's prompts are put together from them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar, overload

import numpy as np

from locus.tasks.task import Task
from locus.types import Example, Frame, RolloutGroup

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class PartExample:
    """An example with the part of the mixture that it belongs to."""

    part: int
    inner: Example
    prefix: str = ""
    """Of the id: two tasks over one corpus have the same ids."""

    @property
    def example_id(self) -> str:
        return self.prefix + self.inner.example_id


class PartExamples(Sequence[PartExample]):
    """The examples of several parts, one part after the other."""

    def __init__(self, parts: Sequence[Sequence[Example]], prefixes: Sequence[str]) -> None:
        self.parts, self.prefixes = parts, prefixes
        self.ends = np.cumsum([len(examples) for examples in parts])

    def __len__(self) -> int:
        return int(self.ends[-1])

    @overload
    def __getitem__(self, index: int) -> PartExample: ...
    @overload
    def __getitem__(self, index: slice) -> list[PartExample]: ...
    def __getitem__(self, index: int | slice) -> PartExample | list[PartExample]:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        place = range(len(self))[index]  # raises IndexError, which ends an iteration
        part = int(np.searchsorted(self.ends, place, side="right"))
        return PartExample(part, self.parts[part][place - int(self.ends[part])], self.prefixes[part])


def interleaved(*parts: Sequence[T]) -> list[T]:
    """All in their order, each spread evenly."""
    placed = [((place + 0.5) / len(part), item) for part in parts for place, item in enumerate(part)]
    return [item for _, item in sorted(placed, key=lambda entry: entry[0])]


def by_part(groups: Sequence[RolloutGroup]) -> defaultdict[int, list[RolloutGroup]]:
    """The groups of each part, as its own task knows them."""
    parts: defaultdict[int, list[RolloutGroup]] = defaultdict(list)
    for group in groups:
        inner = replace(group.sample, example=group.sample.example.inner)
        parts[group.sample.example.part].append(replace(group, sample=inner))
    return parts


def asks_alike(one: Task, other: Task) -> bool:
    """Whether both ask the same, as told by their first training example."""
    asked = []
    for task in (one, other):
        example = task.example(next(task.batches(1, seed=0))[0])
        query = task.prompt(example, Frame.FILE)
        asked.append((example.example_id, query.text, *((image.size, image.tobytes()) for image in query.images)))
    return asked[0] == asked[1]
