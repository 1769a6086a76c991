"""A curriculum over the parts of a mixture: what a policy can learn from now gets more prompts.

A group whose rollouts all earn the same has no gradient: its part is too hard, or done. So the shares of the parts
follow how many of their groups had spread lately.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from locus.errors import LocusError

LAG = 3
"""A step's shares follow the steps up to so many before it. Workers prepare a step while the one before trains, so its
prompts are chosen when the second last step before it is the last to have ended: 2 would be enough."""
Seen: TypeAlias = Sequence[tuple[int, int]]
"""Of a step, for each of K parts: its groups, and those of them that had spread."""


@dataclass(frozen=True)
class BySpread:
    """Shares in proportion to a part's own share times (its rate of groups with spread + ``floor``).

    A part that had no group in the window counts as one whose groups all had spread, so that it is tried again.
    """

    window: int = 8
    """Steps that are looked back on."""
    floor: float = 0.1
    """What keeps a part without spread in the mixture: 0 would leave it out for a whole window."""

    def __post_init__(self) -> None:
        if not (isinstance(self.window, int) and self.window >= 1):
            raise LocusError(f"task.curriculum.window={self.window}: give a whole number of steps from 1 on")
        if not (isinstance(self.floor, int | float) and 0 < self.floor < float("inf")):
            raise LocusError(f"task.curriculum.floor={self.floor}: give a number above 0")

    def shares(self, base: np.ndarray, seen: Sequence[Seen]) -> np.ndarray:
        """[K] shares that add up to 1, of the parts' own [K] and of all steps that may be looked at, oldest first."""
        if not seen:
            return base
        groups, spread = np.array(seen[-self.window :]).sum(axis=0).T
        rates = np.where(groups > 0, spread / np.maximum(groups, 1), 1.0)
        wanted = base * (rates + self.floor)
        return wanted / wanted.sum()
