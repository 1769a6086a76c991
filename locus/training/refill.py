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

    A fresh group takes the place of one without spread, so that those that remain, and a mixture's fresh prompts, stay
    among the mini-batches as they were dealt. Returns the groups, as many as before, and how many of the first draw
    had no spread. Those of other ranks are None here and there: all ranks keep, draw and count alike, and each rolls
    out its share of what is fresh.

    Args:
        groups: of the step.
        attempts: 0 for the groups as they are.
        draw: (attempt, count, ids used) -> this rank's share of fresh samples.
        roll_out: this rank's samples -> their groups.
    """
    kept = list(groups)
    empty = [place for place, good in enumerate(_have_spread(groups)) if not good]
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
        more = ranks.laid_out(roll_out(fresh))
        good = [entry for entry, differs in zip(more, _have_spread(more), strict=True) if differs]
        for place, entry in zip(empty, good, strict=False):  # at most as many as were asked for
            kept[place] = entry
        empty = empty[len(good) :]
    return kept, without_spread


def _have_spread(groups: Sequence[Rolled | None]) -> list[bool]:
    """Whether the rewards of each group differ, those of other ranks' groups too."""
    return ranks.gathered([None if entry is None else differ(entry[0]) for entry in groups])


def differ(group: RolloutGroup) -> bool:
    """Whether the group's rewards do."""
    return bool(has_spread(rewards_of(group)))


def rewards_of(group: RolloutGroup) -> torch.Tensor:
    """[1, G]."""
    return torch.tensor([group.rewards], dtype=torch.float64)
