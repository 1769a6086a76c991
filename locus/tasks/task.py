"""What a policy is asked, and what its answers earn. GRPO, SFT, the pre-flight and benchmarks hold the same object.

A new task is a class with four methods: `examples`, `prompt`, `grade`, `gold`, and where there is one, `foil`. The
others have defaults that suit a list of examples which are all alike. A mixture of tasks is
a task (`locus.tasks.mixture`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence, Set
from itertools import islice
from typing import Any, Generic, Literal, TypeAlias, TypeVar

import numpy as np

from locus.tasks.order import Uniform, batches, check_pools
from locus.types import Example, Frame, Grade, Query, Response, RolloutGroup, Sample, Status, View

E = TypeVar("E", bound=Example)
Split = Literal["train", "validation"]
Key: TypeAlias = Any
"""Names a training example: small, so that it is cheap to send to a worker, which then opens the pixels."""


class Task(ABC, Generic[E]):
    """One thing a policy is asked, and what its answers earn."""

    name: str
    headline: str
    """The validation scalar that stands for a run, ``val/<headline>``: read by tables and sweepers. More is better."""
    labels: Mapping[str, str] = {}
    """What pages call the validation scalars, in the order of their tables; others are shown by their name."""

    # --- What it is -------------------------------------------------------------------------------------------
    @abstractmethod
    def examples(self, split: Split) -> Sequence[E]:
        """All examples of a split; training and validation share none."""

    @abstractmethod
    def prompt(self, example: E, frame: Frame) -> Query:
        """What the policy is asked; ``frame`` is the one it writes boxes in, to be named in the text."""

    def outline(self, example: E, frame: Frame) -> tuple[str, list[tuple[int, int]]]:
        """Of `prompt` the text, and (width, height) of each image."""
        query = self.prompt(example, frame)
        return query.text, [image.size for image in query.images]

    @abstractmethod
    def grade(self, example: E, response: Response, view: View) -> Grade:
        """What a response earns. Never raises, whatever the text."""

    @abstractmethod
    def gold(self, example: E, view: View) -> str:
        """A whole response that earns 1, in every part: what the pre-flight writes."""

    def foil(self, example: E, view: View) -> str | None:
        """A whole response that must earn less than the gold one; None where there is none."""
        return None

    def chance(self, examples: Sequence[E]) -> float | None:
        """The headline, on average over these examples, of the best policy that sees no picture; None where unknown."""
        return None

    def blind(self, example: E, view: View, rng: np.random.Generator) -> str | None:
        """A whole response of the right form, drawn without a look at the pictures; None where there is none."""
        return None

    def apart(self) -> Sequence[Task]:
        """The tasks that this one is made of: itself alone, unless it is a mixture."""
        return (self,)

    # --- What it is trained on --------------------------------------------------------------------------------
    def shares(self) -> Mapping[str, float]:
        """Names of the tasks that are trained on -> their shares, which add up to 1; ``run.json`` has them."""
        return {self.name: 1.0}

    def target(self, samples: Sequence[Sample]) -> Iterator[str]:
        """For each sample the whole response that SFT learns."""
        return (self.gold(sample.example, sample.view) for sample in samples)

    def check_targets(self) -> None:
        """Raises LocusError where it is known beforehand that some training example has no target."""

    def check(self, count: int, steps: int) -> None:
        """Raises LocusError unless each of ``steps`` steps can have ``count`` training examples."""
        check_pools(Uniform(), np.zeros(len(self.examples("train"))), count, steps)

    def batches(self, count: int, seed: int) -> Iterator[list[Key]]:
        """The training examples of step 0, 1, ... without end: a function of its arguments alone."""
        return batches(Uniform(), np.zeros(len(self.examples("train"))), count, seed)

    def fresh(self, step: int, attempt: int, count: int, seed: int, used: Set[str] = frozenset()) -> list[Key]:
        """At most ``count`` examples for a refill of ``step``, none whose id is in ``used``."""
        examples = self.examples("train")
        order = np.random.default_rng([seed, 1 + step, 1 + attempt]).permutation(len(examples)).tolist()
        return list(islice((index for index in order if examples[index].example_id not in used), count))

    def example(self, key: Key) -> E:
        """The training example of a key."""
        return self.examples("train")[key]

    # --- What it learns of the training -----------------------------------------------------------------------
    def part(self, example: E) -> str:
        """The task that an example is of: of a mixture, one of its parts."""
        return self.name

    def observe(self, spread: Sequence[tuple[str, bool]]) -> None:
        """A step's groups as they were first drawn, other ranks' too: the `part` of each, and whether it had spread."""

    def state(self) -> Any:
        """What a checkpoint keeps of what was observed; None for nothing."""
        return None

    def restore(self, state: Any) -> None:
        """Takes back what `state` gave, None too; raises LocusError where a run cannot go on from it."""

    # --- What is recorded -------------------------------------------------------------------------------------
    columns: Mapping[str, type] = {}
    """Columns of its own in ``rollouts.parquet`` and ``validation.parquet``: name -> str or float."""

    def row(self, example: E) -> Mapping[str, Any]:
        """What run files say of an example beside its id."""
        return {}

    def group(self, example: E) -> str:
        """The group that validation also reports by itself, as ``val/<group>/<part>``; empty for none."""
        return ""

    def facts(self) -> Mapping[str, Any]:
        """What ``run.json`` says of the data."""
        return {}

    def variants(self, example: E, view: View) -> Mapping[str, str]:
        """Other responses whose mean reward the pre-flight reports, by name: what can be earned at most, say."""
        return {}

    def training_metrics(self, groups: Sequence[RolloutGroup]) -> dict[str, float]:
        """Means over a step's rollouts, logged as ``train/…``."""
        rollouts = [rollout for group in groups for rollout in group.rollouts]
        metrics = {"reward": [rollout.grade.total for rollout in rollouts]}
        for name in rollouts[0].grade.parts if rollouts else ():
            metrics[name] = [rollout.grade.parts[name] for rollout in rollouts]
        metrics["parsed"] = [float(rollout.grade.status == Status.OK) for rollout in rollouts]
        metrics["truncated"] = [float(not rollout.completion.finished) for rollout in rollouts]
        metrics["completion_length"] = [float(len(rollout.completion.token_ids)) for rollout in rollouts]
        return {name: sum(values) / len(values) for name, values in metrics.items() if values}

    def validation_metrics(self, groups: Sequence[RolloutGroup]) -> dict[str, float]:
        """Means over all validation samples, and over each of their groups, logged as ``val/…``."""
        parts: dict[str, list[Grade]] = defaultdict(list)
        for group in groups:
            parts[self.group(group.sample.example)] += [rollout.grade for rollout in group.rollouts]
        metrics = self.summary([rollout.grade for group in groups for rollout in group.rollouts])
        for name in sorted(parts.keys() - {""}):
            metrics |= {f"{name}/{key}": value for key, value in self.summary(parts[name]).items()}
        return metrics

    def summary(self, grades: Sequence[Grade]) -> dict[str, float]:
        """Means of each part and of the reward; the headline must be among them."""
        means = {name: sum(grade.parts[name] for grade in grades) / len(grades) for name in grades[0].parts}
        return means | {"reward": sum(grade.total for grade in grades) / len(grades)}
