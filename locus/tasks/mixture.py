"""A mixture of tasks is a task: each step's batch has its share of every part; the headline is the main part's."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import replace
from functools import cached_property
from typing import Any, Literal

import numpy as np

from locus.errors import LocusError
from locus.tasks.blind import blind_reward
from locus.tasks.by_spread import LAG, BySpread, Seen
from locus.tasks.order import whole_parts
from locus.tasks.parts import PartExample, PartExamples, by_part, interleaved, trained_on
from locus.tasks.task import Key, Split, Task
from locus.types import Frame, Grade, Query, Response, RolloutGroup, Sample, View

log = logging.getLogger("locus")

APART = 2**20
"""Between the seeds of parts, so that two tasks over one corpus have other examples of it in a step."""


class Mixture(Task[PartExample]):
    """Several tasks at once: each step's prompts are divided among them.

    Metrics of the main part have no prefix; those of another are ``train/<name>_<metric>`` and, where it has examples
    for validation, ``val/<name>_<headline>``. Two parts that are the same task, asked and rewarded alike, are
    one, with the shares of both.

    Args:
        parts: name -> task; the one named ``main`` gives the headline.
        shares: the same names -> weights, which need not add up to 1; 0 leaves a part out. A step's prompts are divided
            by them and rounded to whole prompts.
        curriculum: moves the shares with the training; a step's prompts are then divided by chance, by its shares on
            average, and a part gives the first of its prompts for a whole step. None keeps them.
        normalise: ``chance`` makes every reward (reward - chance) / (1 - chance), where chance is what blind answers to
            its part earn on average: 0 is then a guess and 1 the gold answer in every part. It matters where advantages
            keep the scale of rewards (``algorithm=dr_grpo``); GRPO divides by each group's own spread.
    """

    def __init__(
        self,
        parts: Mapping[str, Task],
        shares: Mapping[str, float],
        curriculum: BySpread | None = None,
        normalise: Literal["none", "chance"] = "none",
    ) -> None:
        if normalise not in ("none", "chance"):
            raise LocusError(f"task.normalise={normalise}: give none or chance")
        self.tasks, self.weights = trained_on(parts, shares)
        self.normalise = normalise
        self.curriculum = curriculum
        self.history: list[Seen] = []
        """Of each step that has ended, with a curriculum."""
        main = self.tasks[0]
        self.name, self.headline, self.labels = main.name, main.headline, main.labels
        self.columns = {name: kind for task in reversed(self.tasks) for name, kind in task.columns.items()}
        if len(self.tasks) > 1:
            self.columns |= {"task": str}
        # The main part's ids stay as they are; examples that are drawn step by step, not listed, have ids of their own.
        self.prefixes = ["", *(f"{task.name}/" if len(task.examples("train")) else "" for task in self.tasks[1:])]

    def of(self, example: PartExample) -> Task:
        """The task that an example belongs to."""
        return self.tasks[example.part]

    def apart(self) -> Sequence[Task]:
        """The parts."""
        return self.tasks

    # --- What it is -------------------------------------------------------------------------------------------
    def examples(self, split: Split) -> PartExamples:
        """Those of all parts, the main one's first."""
        return PartExamples([task.examples(split) for task in self.tasks], self.prefixes)

    def prompt(self, example: PartExample, frame: Frame) -> Query:
        """As its task asks."""
        return self.of(example).prompt(example.inner, frame)

    def outline(self, example: PartExample, frame: Frame) -> tuple[str, list[tuple[int, int]]]:
        """As its task has it."""
        return self.of(example).outline(example.inner, frame)

    def grade(self, example: PartExample, response: Response, view: View) -> Grade:
        """As its task grades; the total is normalised where that is asked for."""
        grade = self.of(example).grade(example.inner, response, view)
        if self.normalise == "none":
            return grade
        chance = self.chance_rewards[example.part]
        return replace(grade, total=(grade.total - chance) / (1 - chance))

    @cached_property
    def chance_rewards(self) -> list[float]:
        """What blind answers earn in each part; raises LocusError where that is not known, or all there is."""
        rewards = [blind_reward(task) for task in self.tasks]
        for task, reward in zip(self.tasks, rewards, strict=True):
            if reward is None or reward >= 1:
                known = "has no blind answers" if reward is None else "gives blind answers the whole reward"
                raise LocusError(f"task.normalise=chance: the task {task.name} {known}; give none")
            log.info("task.normalise: a blind answer to %s earns %.3f", task.name, reward)
        return [reward for reward in rewards if reward is not None]

    def gold(self, example: PartExample, view: View) -> str:
        """As its task has it."""
        return self.of(example).gold(example.inner, view)

    def foil(self, example: PartExample, view: View) -> str | None:
        """As its task has it."""
        return self.of(example).foil(example.inner, view)

    def chance(self, examples: Sequence[PartExample]) -> float | None:
        """The main task's, over its examples among these."""
        return self.tasks[0].chance([example.inner for example in examples if example.part == 0])

    def blind(self, example: PartExample, view: View, rng: np.random.Generator) -> str | None:
        """As its task has it."""
        return self.of(example).blind(example.inner, view, rng)

    def variants(self, example: PartExample, view: View) -> Mapping[str, str]:
        """As its task has them."""
        return self.of(example).variants(example.inner, view)

    # --- What it is trained on --------------------------------------------------------------------------------
    def shares(self) -> Mapping[str, float]:
        """Of each part, by its task's name."""
        return {task.name: float(weight) for task, weight in zip(self.tasks, self.weights, strict=True)}

    def target(self, samples: Sequence[Sample]) -> Iterator[str]:
        """Each task's targets, in the order of the samples."""
        streams = [task.target(self._of_part(part, samples)) for part, task in enumerate(self.tasks)]
        return (next(streams[sample.example.part]) for sample in samples)

    def check_targets(self) -> None:
        """Of every part."""
        if self.curriculum:
            raise LocusError("task.curriculum follows the spread of groups, which algorithm=sft has not: give null")
        for task in self.tasks:
            task.check_targets()

    def counts(self, count: int) -> list[int]:
        """How many of a step's prompts each part has at most; raises LocusError where one would have none."""
        if self.curriculum:
            return [count] * len(self.tasks)
        ends = [round(float(share) * count) for share in np.cumsum(self.weights[:0:-1])]
        counts = np.diff([0, *ends, count])[::-1].tolist()
        if min(counts) < 1:
            raise LocusError(
                f"task.shares of trainer.prompts_per_step={count}: a step would have no prompt of "
                f"{self.tasks[counts.index(0)].name}; raise its share or the prompts, or leave it out by a share of 0"
            )
        return counts

    def check(self, count: int, steps: int) -> None:
        """Of every part."""
        for task, part in zip(self.tasks, self.counts(count), strict=True):
            task.check(part, steps)

    def batches(self, count: int, seed: int) -> Iterator[list[Key]]:
        """Each part in its own order, spread evenly over the step, so that every mini-batch has its share of all."""
        sizes = self.counts(count)
        streams = [task.batches(size, seed + APART * part) for part, (task, size) in self._with(sizes)]
        for step, parts in enumerate(zip(*streams, strict=True)):
            if self.curriculum:
                rng = np.random.default_rng([seed, step, 0])
                sizes = whole_parts(count, self.shares_at(step), rng).tolist()
            yield interleaved(*([(part, key) for key in parts[part][:size]] for part, (_, size) in self._with(sizes)))

    def shares_at(self, step: int) -> np.ndarray:
        """[K] shares of the parts in a step: a function of the steps up to ``LAG`` before it."""
        known = max(0, step - LAG + 1)
        if not self.curriculum or not self.history:  # before step 1 examples of later steps are looked at, too
            return self.weights
        if len(self.history) < known:
            raise LocusError(
                f"task.curriculum: step {step} needs what {known} steps have shown, {len(self.history)} are known: "
                "resume with the curriculum that the run began with"
            )
        return self.curriculum.shares(self.weights, self.history[:known])

    def fresh(self, step: int, attempt: int, count: int, seed: int, used: Set[str] = frozenset()) -> list[Key]:
        """Whatever part they replace: by the shares, rounded by chance."""
        rng = np.random.default_rng([seed, step, 1 + attempt])
        counts = whole_parts(count, self.shares_at(step), rng).tolist()
        return [
            (part, key)
            for part, (task, many) in self._with(counts)
            for key in task.fresh(step, attempt, many, seed + APART * part, self._own(part, used))
        ]

    def example(self, key: Key) -> PartExample:
        """Of (part, its task's key)."""
        part, inner = key
        return PartExample(part, self.tasks[part].example(inner), self.prefixes[part])

    # --- What it learns of the training -----------------------------------------------------------------------
    def part(self, example: PartExample) -> str:
        """Its task's name."""
        return self.of(example).name

    def observe(self, spread: Sequence[tuple[str, bool]]) -> None:
        """Keeps a step's groups, and those with spread, of each part."""
        if self.curriculum:
            by_name = [[had for name, had in spread if name == task.name] for task in self.tasks]
            self.history.append([(len(one), sum(one)) for one in by_name])

    def state(self) -> list[Seen] | None:
        """All steps."""
        return list(self.history) if self.curriculum else None

    def restore(self, state: list[Seen] | None) -> None:
        """All steps of the run before it was resumed; raises LocusError where it had no curriculum, or other parts."""
        if not self.curriculum:
            self.history = []
            return
        if state is None:
            raise LocusError("task.curriculum follows all steps of a run, and this one took some without: give null")
        if any(len(seen) != len(self.tasks) for seen in state):
            raise LocusError("task.curriculum: the run began with other task.parts: resume with those")
        self.history = list(state)

    # --- What is recorded -------------------------------------------------------------------------------------
    def row(self, example: PartExample) -> Mapping[str, Any]:
        """As its task has it, and where there are several, its task's name."""
        row = self.of(example).row(example.inner)
        return {**row, "task": self.of(example).name} if len(self.tasks) > 1 else row

    def group(self, example: PartExample) -> str:
        """As its task has it."""
        return self.of(example).group(example.inner)

    def facts(self) -> Mapping[str, Any]:
        """Of every part; where two say the same thing, the main one's."""
        return {name: value for task in reversed(self.tasks) for name, value in task.facts().items()}

    def training_metrics(self, groups: Sequence[RolloutGroup]) -> dict[str, float]:
        """The main task's, and the others' behind their names."""
        parts = by_part(groups)
        metrics = self.tasks[0].training_metrics(parts[0])
        for part, task in list(enumerate(self.tasks))[1:]:
            extra = task.training_metrics(parts[part]) if parts[part] else {}
            metrics |= {f"{task.name}_{name}": value for name, value in extra.items()}
        return metrics | self._observed()

    def _observed(self) -> dict[str, float]:
        """Of the last step, as it was first drawn: each part's share of the groups, and its rate of spread."""
        last = self.history[-1] if self.history else ()
        everyone, metrics = sum(groups for groups, _ in last), {}
        for task, (groups, spread) in zip(self.tasks, last, strict=False):
            metrics[f"{task.name}_share"] = groups / everyone
            if groups:
                metrics[f"{task.name}_spread"] = spread / groups
        return metrics

    def validation_metrics(self, groups: Sequence[RolloutGroup]) -> dict[str, float]:
        """The main task's, and the others' headlines behind their names."""
        parts = by_part(groups)
        metrics = self.tasks[0].validation_metrics(parts[0])
        for part, task in list(enumerate(self.tasks))[1:]:
            if parts[part]:
                metrics[f"{task.name}_{task.headline}"] = task.validation_metrics(parts[part])[task.headline]
        return metrics

    def _with(self, counts: Sequence[int]) -> Iterator[tuple[int, tuple[Task, int]]]:
        """(part, (task, count))."""
        return enumerate(zip(self.tasks, counts, strict=True))

    def _own(self, part: int, used: Set[str]) -> set[str]:
        """Those of these ids that can be of a part, as its task knows them."""
        prefix = self.prefixes[part]
        return {name.removeprefix(prefix) for name in used if name.startswith(prefix)}

    def _of_part(self, part: int, samples: Sequence[Sample]) -> list[Sample]:
        return [replace(one, example=one.example.inner) for one in samples if one.example.part == part]
