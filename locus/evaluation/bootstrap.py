"""Intervals by resampling. Layer 1."""

from __future__ import annotations

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


def paired_difference(before: np.ndarray, after: np.ndarray, seed: int = 0, resamples: int = 10_000) -> Difference:
    """[N] scores of the same items before and after -> means and the 95 % percentile interval of the change.

    Items are drawn with replacement, each with both of its scores (Efron and Tibshirani 1993, chapter 13): what makes
    an item hard cancels out.
    """
    change = np.asarray(after, dtype=float) - np.asarray(before, dtype=float)
    rng = np.random.default_rng(seed)
    means = [float(change[rng.integers(len(change), size=len(change))].mean()) for _ in range(resamples)]
    low, high = np.percentile(means, [2.5, 97.5])
    return Difference(float(np.mean(before)), float(np.mean(after)), float(low), float(high), len(change))
