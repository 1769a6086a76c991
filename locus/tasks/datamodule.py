"""Corpus -> prompts, in an order that follows from the seed and the step alone."""

from __future__ import annotations

from collections.abc import Iterator, Set
from itertools import islice

import numpy as np
import torch
from lightning import LightningDataModule
from torch.utils.data import DataLoader, Sampler

from locus.images.sources import ImageSource
from locus.policy.prompts import CueCollator
from locus.tasks.cue_search.corpus import Corpus
from locus.tasks.cue_search.cues import PLAIN, Cue
from locus.tasks.cue_search.dataset import CueDataset
from locus.tasks.order import Order, Uniform, batches, check_pools, whole_parts
from locus.types import PromptRecord


class StepSampler(Sampler[list[int]]):
    """Batches of indices, one a training step: step s gives the same batch wherever a run was resumed.

    Args:
        order: which examples a step has.
        bins: [N] area bins of the examples.
        batch_size: B, prompts a step.
        steps: of the whole run; the length that is reported.
        start: the first step to give.
        seed: of the permutations.
    """

    def __init__(self, order: Order, bins: np.ndarray, batch_size: int, steps: int, start: int, seed: int):
        check_pools(order, bins, batch_size, steps)
        self.order, self.bins, self.batch_size = order, bins, batch_size
        self.steps, self.start, self.seed = steps, start, seed

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[list[int]]:
        return islice(batches(self.order, self.bins, self.batch_size, self.seed), self.start, self.steps)


class CueDataModule(LightningDataModule):
    """Serves prompts for training, validation and refills.

    Args:
        corpus: what to train and validate on.
        source: opens its images.
        collator: makes prompts.
        prompts_per_step: B.
        validation_batch: prompts per validation batch.
        steps: of the run.
        workers: processes that prepare pictures; 0 does it in the main process.
        seed: of the order.
        start_step: the first step, when resuming.
        order: which training examples a step has; None is `Uniform`.
        cue, validation_cue: what the prompts of each split show of their crops.
    """

    def __init__(
        self,
        corpus: Corpus,
        source: ImageSource,
        collator: CueCollator,
        prompts_per_step: int,
        validation_batch: int,
        steps: int,
        workers: int,
        seed: int,
        start_step: int = 0,
        order: Order | None = None,
        cue: Cue = PLAIN,
        validation_cue: Cue = PLAIN,
    ):
        super().__init__()
        self.corpus, self.source, self.collator = corpus, source, collator
        self.prompts_per_step, self.validation_batch, self.steps = prompts_per_step, validation_batch, steps
        self.workers, self.seed, self.start_step = workers, seed, start_step
        self.order = order or Uniform()
        self.bins = np.array(corpus.train.columns["bin"].to_pylist())
        self.train = CueDataset(corpus.train, source, cue)
        self.validation = CueDataset(corpus.validation, source, validation_cue)

    def train_dataloader(self) -> DataLoader[list[PromptRecord]]:
        """One batch a step, from ``start_step`` on."""
        sampler = StepSampler(self.order, self.bins, self.prompts_per_step, self.steps, self.start_step, self.seed)
        return DataLoader(self.train, batch_sampler=sampler, collate_fn=self.collator, num_workers=self.workers)

    def val_dataloader(self) -> DataLoader[list[PromptRecord]]:
        """All validation examples, in corpus order."""
        return DataLoader(self.validation, self.validation_batch, collate_fn=self.collator, num_workers=self.workers)

    def transfer_batch_to_device(
        self, batch: list[PromptRecord], device: torch.device, index: int
    ) -> list[PromptRecord]:
        """Leaves prompts where they are: the policy moves what it needs, when it needs it."""
        return batch

    def draw(self, step: int, attempt: int, count: int, used: Set[str] = frozenset()) -> list[PromptRecord]:
        """Fresh prompts for a refill; a function of its arguments and the seed.

        At most ``count``, in the shares of the step's batch, none whose id is in ``used``: a prompt's random numbers go
        by step and id, so that it would bring the same rollouts again. Fewer when a pool of the order runs out.
        """
        rng = np.random.default_rng([self.seed, 1 + step, 1 + attempt])
        permutation = rng.permutation(len(self.train))
        pools = self.order.pools(self.bins)
        parts = whole_parts(count, self.order.shares(list(pools), step), rng)
        drawn: list[int] = []
        for pool, part in zip(pools.values(), parts, strict=True):
            members = permutation[np.isin(permutation, pool)].tolist()
            fresh = (index for index in members if self.corpus.train[index].example_id not in used)
            drawn += islice(fresh, part)
        return self.collator([self.train[index] for index in drawn])
