"""How a run learns: frozen descriptions, so that presets can be compared."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import torch
from torch.optim import Optimizer

from locus.errors import LocusError, number, whole
from locus.training.loss import Loss


@dataclass(frozen=True)
class Algorithm:
    """GRPO: the settings that differ between its implementations (see conf/algorithm)."""

    group_size: int = 8
    """G, rollouts per prompt."""
    loss: Loss = field(default_factory=Loss)
    divide_by_std: bool = True
    std_epsilon: float = 1e-6
    mini_batches: int = 1
    """Optimiser steps that a rollout's prompts are split into; more than one is off-policy."""
    epochs: int = 1
    """Passes over each rollout batch."""
    refill: int = 0
    """How many times groups without spread are replaced by fresh prompts (DAPO's dynamic sampling); 0 is never."""
    overlong_penalty: float = 0.0
    """Taken off the reward of a completion at the limit of new tokens (`advantages.length_penalty`); 0 for none."""
    overlong_buffer: float = 0.2
    """Share of the limit, at its end, in which the penalty grows to that."""
    mask_truncated: bool = False
    """Whether completions that the limit cut are left out of the loss; their rewards stay in the group's mean."""
    source_prompts_per_step: int | None = None
    """Prompts per rollout batch where the preset comes from; a run says where its own make other updates."""

    def __post_init__(self) -> None:
        for name, least in (("group_size", 1), ("mini_batches", 1), ("epochs", 1), ("refill", 0)):
            whole(f"algorithm.{name}", getattr(self, name), least)
        if self.source_prompts_per_step is not None:
            whole("algorithm.source_prompts_per_step", self.source_prompts_per_step)
        number("algorithm.overlong_penalty", self.overlong_penalty, 0)
        number("algorithm.overlong_buffer", self.overlong_buffer, 0, 1, above=True)
        number("algorithm.std_epsilon", self.std_epsilon, 0)
        if self.group_size == 1:
            raise LocusError("algorithm.group_size=1: a group of one has no advantage; give at least 2")

    @property
    def updates_per_rollout(self) -> int:
        """Optimiser steps per rollout batch; 1 is on-policy."""
        return self.mini_batches * self.epochs

    @property
    def needs_reference(self) -> bool:
        return self.loss.kl_coefficient > 0


@dataclass(frozen=True)
class SFT:
    """Supervised fine-tuning on the task's targets; there is nothing to choose."""


@dataclass(frozen=True)
class Optimization:
    """How updates are made."""

    make: Callable[[Iterable[torch.nn.Parameter]], Optimizer]
    """Parameters -> optimiser."""
    warmup_ratio: float = 0.05
    """Share of the run's updates with linear warm-up; then the rate is constant."""
    clip_norm: float = 1.0
    """Of the gradient."""
    max_skipped: int = 5
    """Updates in a row that may be skipped for a non-finite loss or gradient."""

    def __post_init__(self) -> None:
        number("optimizer.warmup_ratio", self.warmup_ratio, 0, 1)
        number("optimizer.clip_norm", self.clip_norm, 0, above=True)
        whole("optimizer.max_skipped", self.max_skipped)
        try:
            self.make([torch.nn.Parameter(torch.zeros(1))])
        except (TypeError, ValueError) as error:  # now, not behind the loading of a backbone
            raise LocusError(f"optimizer.make: {error}") from error
