"""Fresh prompts in the place of groups that taught nothing: all of their rewards are alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence, Set
from typing import TypeAlias

import torch

from locus import ranks
from locus.policy.vlm import VisionFeatures
from locus.training.advantages import has_spread
from locus.types import RolloutGroup, Sample

Rolled: TypeAlias = tuple[RolloutGroup, VisionFeatures | None]
"""A group of rollouts, with its prompt's vision features where the engine has them."""


def refilled(
    groups: Sequence[Rolled | None],
    attempts: int,
    draw: Callable[[int, int, Set[str]], list[Sample]],
    roll_out: Callable[[list[Sample]], list[Rolled]],
) -> tuple[list[Rolled | None], int]:
    """Replaces groups without spread by fresh prompts' groups, ``attempts`` times; good ones are kept.

    Returns the groups, as many as before, and how many of the first draw had no spread. Those of other ranks are
    None here and there: all ranks keep, draw and count alike, and each rolls out its share of what is fresh.

    Args:
        groups: of the step.
        attempts: 0 for the groups as they are.
        draw: (attempt, count, ids used) -> this rank's share of fresh samples.
        roll_out: this rank's samples -> their groups.
    """
    kept, empty = _split_by_spread(groups)
    without_spread = len(empty)
    used = set(ranks.gathered([entry and entry[0].sample.prompt.prompt_id for entry in groups]))
    for attempt in range(attempts):
        if not empty:
            break
        fresh = draw(attempt, len(empty), used)
        names = ranks.gathered(ranks.laid_out([sample.prompt.prompt_id for sample in fresh]))
        if not names:
            break
        used |= set(names)
        more, _ = _split_by_spread(ranks.laid_out(roll_out(fresh)))
        kept, empty = kept + more, empty[len(more) :]
    return (kept + empty if attempts else list(groups)), without_spread


def _split_by_spread(groups: Sequence[Rolled | None]) -> tuple[list[Rolled | None], list[Rolled | None]]:
    """Groups whose rewards differ, and those whose rewards do not; those of other ranks are None among them."""
    spread = [None if entry is None else differ(entry[0]) for entry in groups]
    flags = ranks.gathered(spread)
    kept = [entry for entry, good in zip(groups, flags, strict=True) if good]
    return kept, [entry for entry, good in zip(groups, flags, strict=True) if not good]


def differ(group: RolloutGroup) -> bool:
    """Whether the group's rewards do."""
    return bool(has_spread(rewards_of(group)))


def rewards_of(group: RolloutGroup) -> torch.Tensor:
    """[1, G]."""
    return torch.tensor([group.rewards], dtype=torch.float64)
