"""What is meant by "GRPO" in a run: one frozen description, so that presets can be compared."""

from __future__ import annotations

from dataclasses import dataclass, field

from locus.errors import LocusError
from locus.training.loss import Loss


@dataclass(frozen=True)
class Algorithm:
    """The settings that differ between implementations (see conf/algorithm)."""

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

    def __post_init__(self) -> None:
        for name in ("group_size", "mini_batches", "epochs"):
            if getattr(self, name) < 1:
                raise LocusError(f"algorithm.{name}={getattr(self, name)}: give at least 1")
        if self.refill < 0 or self.loss.kl_coefficient < 0:
            raise LocusError("algorithm.refill and algorithm.loss.kl_coefficient cannot be negative")
        if self.group_size == 1:
            raise LocusError("algorithm.group_size=1: a group of one has no advantage; give at least 2")

    @property
    def updates_per_rollout(self) -> int:
        """Optimiser steps per rollout batch; 1 is on-policy."""
        return self.mini_batches * self.epochs

    @property
    def needs_reference(self) -> bool:
        return self.loss.kl_coefficient > 0
