"""A task's examples -> samples, in an order that follows from the seed and the step alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set
from itertools import accumulate, islice, pairwise
from typing import TypeVar

import torch
from lightning import LightningDataModule

from locus import ranks
from locus.errors import LocusError
from locus.policy.prompts import PromptBuilder
from locus.tasks.loader import BatchLoader
from locus.tasks.task import Key, Split, Task
from locus.types import Example, Frame, Sample, View

T = TypeVar("T")
RARE = 64
"""Further steps that are looked at for an example of each part of a mixture."""


class SampleMaker:
    """Makes samples: the task asks, the builder makes tokens and pixels of it.

    Args:
        task: whose examples.
        builder: of prompts.
        frame: the one that the policy writes boxes in.
    """

    def __init__(self, task: Task, builder: PromptBuilder, frame: Frame) -> None:
        self.task, self.builder, self.frame = task, builder, frame

    def __call__(self, example: Example) -> Sample:
        """One sample; raises LocusError when the processor refuses an image."""
        query = self.task.prompt(example, self.frame)
        try:
            prompt = self.builder.build(example.example_id, query.text, query.images)
        except LocusError as error:
            raise LocusError(f"{self.task.row(example).get('image_path', example.example_id)}: {error}") from error
        return Sample(example, prompt, View(self.frame, prompt.processed_size if query.images else None))


class TrainingSamples:
    """Samples by the keys of a task's training examples: none depends on order of access, worker or epoch."""

    def __init__(self, make: SampleMaker) -> None:
        self.make = make

    def __getitem__(self, key: Key) -> Sample:
        return self.make(self.make.task.example(key))


class Samples:
    """The examples of a split as samples, in their order."""

    def __init__(self, make: SampleMaker, split: Split) -> None:
        self.make, self.examples = make, make.task.examples(split)

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> Sample:
        return self.make(self.examples[index])


class StepSampler:
    """Keys of one batch per training step: step s gives the same batch wherever a run was resumed.

    Each rank gets its share of the batch, so that a run can also be resumed on another number of them.

    Args:
        task: whose training examples.
        batch_size: B, prompts per step.
        steps: of the whole run; the length that is reported.
        start: the first step to give.
        seed: of the order.
    """

    def __init__(self, task: Task, batch_size: int, steps: int, start: int, seed: int):
        task.check(batch_size, steps)
        self.task, self.batch_size, self.steps, self.start, self.seed = task, batch_size, steps, start, seed

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[list[Key]]:
        batches = islice(self.task.batches(self.batch_size, self.seed), self.start, self.steps)
        return (ranks.dealt(batch) for batch in batches)


class TaskDataModule(LightningDataModule):
    """Serves samples for training, validation and refills.

    Args:
        make: makes samples of a task's examples.
        prompts_per_step: B.
        validation_batch: prompts per validation batch.
        steps: of the run.
        workers: processes that prepare images, a step ahead; 0 does it in the main process.
        seed: of the order.
        start_step: the first step, when resuming.
        worker_timeout: seconds that a step waits for a worker.
    """

    def __init__(
        self,
        make: SampleMaker,
        prompts_per_step: int,
        validation_batch: int,
        steps: int,
        workers: int,
        seed: int,
        start_step: int = 0,
        worker_timeout: float = 600,
    ):
        super().__init__()
        self.make, self.task = make, make.task
        self.prompts_per_step, self.validation_batch, self.steps = prompts_per_step, validation_batch, steps
        self.workers, self.seed, self.start_step, self.worker_timeout = workers, seed, start_step, worker_timeout
        self.train, self.validation = TrainingSamples(make), Samples(make, "validation")

    def train_dataloader(self) -> BatchLoader[Sample]:
        """One batch per step, from ``start_step`` on."""
        sampler = StepSampler(self.task, self.prompts_per_step, self.steps, self.start_step, self.seed)
        return BatchLoader(self.train, sampler, self.workers, self.worker_timeout)

    def val_dataloader(self) -> BatchLoader[Sample]:
        """All validation examples in their order, of each batch this rank's share, which may be empty."""
        count, size = len(self.validation), self.validation_batch
        batches = [ranks.dealt(range(start, min(start + size, count))) for start in range(0, count, size)]
        return BatchLoader(self.validation, batches, self.workers, self.worker_timeout)

    def transfer_batch_to_device(self, batch: list[Sample], device: torch.device, index: int) -> list[Sample]:
        """Leaves samples where they are: the policy moves what it needs, when it needs it."""
        return batch

    def draw(self, step: int, attempt: int, count: int, used: Set[str] = frozenset()) -> list[Sample]:
        """Fresh samples for a refill, none whose id is in ``used``; a function of its arguments and the seed.

        ``count`` is that of all ranks; this one gets its share.
        """
        keys = ranks.dealt(self.task.fresh(step, attempt, count, self.seed, used))
        return next(iter(BatchLoader(self.train, [keys], self.workers, self.worker_timeout)))

    def first(self, split: str, count: int) -> Sequence[Sample]:
        """``count`` samples of the first steps, or of the first validation examples, fewer where there are no more.

        Of a mixture the first of every part by turns, and one of each at least.
        """
        tasks = self.task.apart()
        count = max(count, len(tasks))
        if split == "validation":
            ends = accumulate((len(task.examples("validation")) for task in tasks), initial=0)
            return [
                self.validation[index] for index in islice(by_turns([range(*two) for two in pairwise(ends)]), count)
            ]
        parts: dict[str, list[Key]] = {task.name: [] for task in tasks}
        for keys in islice(self.task.batches(self.prompts_per_step, self.seed), count + RARE):
            for key in keys:
                parts[self.task.part(self.task.example(key)) if len(tasks) > 1 else tasks[0].name].append(key)
            if all(parts.values()) and sum(map(len, parts.values())) >= count:
                break
        return [self.train[key] for key in islice(by_turns(list(parts.values())), count)]


def by_turns(parts: Sequence[Sequence[T]]) -> Iterator[T]:
    """The first of every part, the second of every part that has one, and so on."""
    return (part[place] for place in range(max(map(len, parts))) for part in parts if place < len(part))
