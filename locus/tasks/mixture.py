"""A mixture of tasks is a task: each step's batch has its share of every part; validation is the first part's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from typing import Any, TypeVar, overload

import numpy as np

from locus.errors import LocusError
from locus.tasks.order import whole_parts
from locus.tasks.task import Key, Split, Task
from locus.types import Example, Frame, Grade, Query, Response, RolloutGroup, Sample, View

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class PartExample:
    """An example with the part of the mixture that it belongs to."""

    part: int
    inner: Example

    @property
    def example_id(self) -> str:
        return self.inner.example_id


class PartExamples(Sequence[PartExample]):
    """The examples of one part."""

    def __init__(self, part: int, examples: Sequence[Example]) -> None:
        self.part, self.examples = part, examples

    def __len__(self) -> int:
        return len(self.examples)

    @overload
    def __getitem__(self, index: int) -> PartExample: ...
    @overload
    def __getitem__(self, index: slice) -> PartExamples: ...
    def __getitem__(self, index: int | slice) -> PartExample | PartExamples:
        if isinstance(index, slice):
            return PartExamples(self.part, self.examples[index])
        return PartExample(self.part, self.examples[index])


class Mixture(Task[PartExample]):
    """Cue search mixed with ordinary questions, say.

    Args:
        main: the task that names the headline, is validated, and whose metrics have no prefix; the other's are
            ``train/<name>_<part>``.
        other: the task that is mixed in.
        share: of each step's prompts that are the other task's, between 0 and 1; rounded to whole prompts.
    """

    name = "mixture"

    def __init__(self, main: Task, other: Task, share: float) -> None:
        if not (isinstance(share, int | float) and 0 < share < 1):
            raise LocusError(f"task.share={share}: give a share between 0 and 1; task=cue_search is cue search alone")
        self.tasks, self.share = (main, other), share
        self.name, self.headline, self.labels = main.name, main.headline, main.labels
        self.columns = {**other.columns, **main.columns}

    def of(self, example: PartExample) -> Task:
        """The task that an example belongs to."""
        return self.tasks[example.part]

    # --- What it is -------------------------------------------------------------------------------------------
    def examples(self, split: Split) -> PartExamples:
        """The main task's."""
        return PartExamples(0, self.tasks[0].examples(split))

    def prompt(self, example: PartExample, frame: Frame) -> Query:
        """As its task asks."""
        return self.of(example).prompt(example.inner, frame)

    def outline(self, example: PartExample, frame: Frame) -> tuple[str, list[tuple[int, int]]]:
        """As its task has it."""
        return self.of(example).outline(example.inner, frame)

    def grade(self, example: PartExample, response: Response, view: View) -> Grade:
        """As its task grades."""
        return self.of(example).grade(example.inner, response, view)

    def gold(self, example: PartExample, view: View) -> str:
        """As its task has it."""
        return self.of(example).gold(example.inner, view)

    def foil(self, example: PartExample, view: View) -> str | None:
        """As its task has it."""
        return self.of(example).foil(example.inner, view)

    def variants(self, example: PartExample, view: View) -> Mapping[str, str]:
        """As its task has them."""
        return self.of(example).variants(example.inner, view)

    # --- What it is trained on --------------------------------------------------------------------------------
    def target(self, samples: Sequence[Sample]) -> Iterator[str]:
        """Each task's targets, in the order of the samples."""
        streams = [task.target(self._of_part(part, samples)) for part, task in enumerate(self.tasks)]
        return (next(streams[sample.example.part]) for sample in samples)

    def check_targets(self) -> None:
        """Of every part."""
        for task in self.tasks:
            task.check_targets()

    def counts(self, count: int) -> tuple[int, int]:
        """How many of a step's prompts each part has; raises LocusError where one would have none."""
        others = round(self.share * count)
        if not 0 < others < count:
            raise LocusError(
                f"task.share={self.share} of trainer.prompts_per_step={count}: give a share that leaves a step at "
                "least one prompt of each task; task=cue_search is cue search alone"
            )
        return count - others, others

    def check(self, count: int, steps: int) -> None:
        """Of every part."""
        for task, part in zip(self.tasks, self.counts(count), strict=True):
            task.check(part, steps)

    def batches(self, count: int, seed: int) -> Iterator[list[Key]]:
        """Each part in its own order, spread evenly over the step, so that every mini-batch has its share of both."""
        streams = [task.batches(part, seed) for task, part in zip(self.tasks, self.counts(count), strict=True)]
        for parts in zip(*streams, strict=True):
            yield interleaved(*([(part, key) for key in keys] for part, keys in enumerate(parts)))

    def fresh(self, step: int, attempt: int, count: int, seed: int, used: Set[str] = frozenset()) -> list[Key]:
        """Whatever kind they replace: ``share`` of them the other task's, rounded by chance."""
        rng = np.random.default_rng([seed, step, 1 + attempt])
        counts = whole_parts(count, np.array([1 - self.share, self.share]), rng).tolist()
        return [
            (part, key)
            for part, (task, many) in enumerate(zip(self.tasks, counts, strict=True))
            for key in task.fresh(step, attempt, many, seed, used)
        ]

    def example(self, key: Key) -> PartExample:
        """Of (part, its task's key)."""
        part, inner = key
        return PartExample(part, self.tasks[part].example(inner))

    # --- What is recorded -------------------------------------------------------------------------------------
    def row(self, example: PartExample) -> Mapping[str, Any]:
        """As its task has it."""
        return self.of(example).row(example.inner)

    def group(self, example: PartExample) -> str:
        """As its task has it."""
        return self.of(example).group(example.inner)

    def facts(self) -> Mapping[str, Any]:
        """Of every part."""
        return {name: value for task in reversed(self.tasks) for name, value in task.facts().items()}

    def training_metrics(self, groups: Sequence[RolloutGroup]) -> dict[str, float]:
        """The main task's, and the other's behind its name."""
        main, other = (_unwrapped(groups, part) for part in range(2))
        metrics = self.tasks[0].training_metrics(main)
        extra = self.tasks[1].training_metrics(other) if other else {}
        return metrics | {f"{self.tasks[1].name}_{name}": value for name, value in extra.items()}

    def validation_metrics(self, groups: Sequence[RolloutGroup]) -> dict[str, float]:
        """The main task's."""
        return self.tasks[0].validation_metrics(_unwrapped(groups, 0))

    def _of_part(self, part: int, samples: Sequence[Sample]) -> list[Sample]:
        return [replace(one, example=one.example.inner) for one in samples if one.example.part == part]


def interleaved(first: Sequence[T], second: Sequence[T]) -> list[T]:
    """Both in their order, each spread evenly."""
    placed = [((place + 0.5) / len(part), part[place]) for part in (first, second) for place in range(len(part))]
    return [item for _, item in sorted(placed, key=lambda entry: entry[0])]


def _unwrapped(groups: Sequence[RolloutGroup], part: int) -> list[RolloutGroup]:
    """The groups of one part, as its own task knows them."""
    return [
        replace(group, sample=replace(group.sample, example=group.sample.example.inner))
        for group in groups
        if group.sample.example.part == part
    ]
