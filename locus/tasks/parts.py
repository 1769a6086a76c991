"""The parts of a mixture: which are trained on, their examples, and how a step's prompts are put together from them."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar, overload

import numpy as np

from locus.errors import LocusError
from locus.tasks.task import Task
from locus.types import Example, Frame, Response, RolloutGroup, View

log = logging.getLogger("locus")

T = TypeVar("T")
MAIN = "main"
"""The part that gives the headline."""


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


def trained_on(parts: Mapping[str, Task], shares: Mapping[str, float]) -> tuple[list[Task], np.ndarray]:
    """The tasks that are trained on, the main one first, and their shares [K], which add up to 1.

    Raises LocusError for shares that cannot be meant, a main part without held-out examples, and two tasks of one name.
    """
    said = f"task.shares={dict(shares)}"
    if set(shares) != set(parts) or MAIN not in parts:
        raise LocusError(f"{said} of the parts {', '.join(parts)}: give each a share, one of them named {MAIN}")
    if not all(isinstance(share, int | float) and 0 <= share < float("inf") for share in shares.values()):
        raise LocusError(f"{said}: give numbers, none below 0")
    if not shares[MAIN]:
        raise LocusError(f"{said}: {MAIN} gives the run's headline; give it a share above 0, or choose another task")
    if not len(parts[MAIN].examples("validation")):
        raise LocusError(
            f"task.parts.{MAIN}: {parts[MAIN].name} has the headline and no held-out examples: make another "
            f"part {MAIN}, or hold some out"
        )
    first: dict[str, str] = {}
    weights: dict[str, float] = defaultdict(float)
    for part in sorted((part for part in parts if shares[part]), key=lambda name: name != MAIN):
        name = parts[part].name
        earlier = first.setdefault(name, part)
        if earlier != part and not _alike(parts[earlier], parts[part]):
            raise LocusError(
                f"task.parts.{part} and task.parts.{earlier} are both called {name}, but ask or reward other things: "
                "give one of them a share of 0 in task.shares"
            )
        if earlier != part:
            log.info("task.parts.%s is %s, as %s: they are one, with the shares of both", part, name, earlier)
        weights[name] += shares[part]
    return [parts[part] for part in first.values()], np.array(list(weights.values())) / sum(weights.values())


def _alike(one: Task, other: Task) -> bool:
    """Whether both ask and reward the same, as told by their first training example, its gold answer and its foil."""
    asked, view = [], View(Frame.FILE)
    for task in (one, other):
        example = task.example(next(task.batches(1, seed=0))[0])
        query = task.prompt(example, Frame.FILE)
        shown = [(image.size, image.tobytes()) for image in query.images]
        texts = task.gold(example, view), task.foil(example, view)
        earned = [None if text is None else task.grade(example, Response(text), view).total for text in texts]
        asked.append((example.example_id, query.text, shown, earned))
    return asked[0] == asked[1]
