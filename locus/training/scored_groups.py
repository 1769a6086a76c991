"""Rollout groups as an update needs them: advantages, and log-probs that do not change while it lasts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from locus.policy.logprobs import TokenScores
from locus.policy.vlm import VisionFeatures
from locus.types import RolloutGroup


@dataclass(frozen=True, eq=False)
class ScoredGroup:
    """A rollout group as the update needs it."""

    group: RolloutGroup
    advantages: torch.Tensor
    """[G]."""
    features: VisionFeatures | None
    """Of its images, while they stay valid: when the vision tower is frozen."""
    old: torch.Tensor | None = None
    """[G, T] log-probs before the first update; None when on-policy."""
    reference: torch.Tensor | None = None
    """[G, T] log-probs under the reference; None without a KL term."""
    place: int = 0
    """Among all groups of the step, other ranks' included."""

    @property
    def token_ids(self) -> list[torch.Tensor]:
        return [rollout.completion.token_ids for rollout in self.group.rollouts]


def stacked(rows: Sequence[torch.Tensor | None], scores: TokenScores) -> torch.Tensor | None:
    """[G, T'] rows of other micro-batches -> [B, G, T]: cut or filled with zeros, which the mask hides.

    None where the groups have no such row.
    """
    width = scores.logprobs.shape[-1]
    padded = [torch.nn.functional.pad(row, (0, width - row.shape[-1])) for row in rows if row is not None]
    return torch.stack(padded) if padded else None
