"""Intervals by resampling. Layer 1."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Difference:
    """Two means over the same items, and the interval of what lies between them."""

    before: float
    after: float
    low: float
    high: float
    items: int

    @property
    def change(self) -> float:
        return self.after - self.before


def paired_difference(
    before: np.ndarray, after: np.ndarray, units: Sequence[str] | None = None, seed: int = 0, resamples: int = 10_000
) -> Difference:
    """[N] scores of the same items before and after -> means and the 95 % percentile interval of the change.

    Units are drawn with replacement, each with all of its items and both of their scores (Efron and Tibshirani 1993,
    chapter 13): what makes an item hard cancels out. By default each item is a unit; items about one picture are not
    independent.
    """
    change = np.asarray(after, dtype=float) - np.asarray(before, dtype=float)
    unit = np.arange(len(change)) if units is None else np.unique(np.asarray(units), return_inverse=True)[1]
    sums, sizes = np.bincount(unit, change), np.bincount(unit)
    rng = np.random.default_rng(seed)
    drawn = (rng.integers(len(sums), size=len(sums)) for _ in range(resamples))
    low, high = np.percentile([sums[chosen].sum() / sizes[chosen].sum() for chosen in drawn], [2.5, 97.5])
    return Difference(float(np.mean(before)), float(np.mean(after)), float(low), float(high), len(change))
