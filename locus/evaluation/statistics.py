"""Scores as weighted statistics of a table of verdicts, so that a bootstrap is one product. Layer 1.

A statistic takes a table of N rows (``correct`` and the benchmark's columns) and weights [R, N], how often each of R
resamples holds a row, and gives [R] scores in percent; the score itself is that of weights 1. It also says which rows
it stands on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

CHUNK = 32
"""Resamples at a time: 23,609 rows of them are 6 MB."""


def every(table: pd.DataFrame) -> np.ndarray:
    """[N], true for each row."""
    return np.ones(len(table), dtype=bool)


@dataclass(frozen=True)
class Statistic:
    """A score in percent as a function of a table and weights."""

    value: Callable[[pd.DataFrame, np.ndarray], np.ndarray]
    """Table and weights [R, N] -> [R]."""
    rows: Callable[[pd.DataFrame], np.ndarray] = every
    """Table -> [N], true for the rows that the score stands on."""

    def __call__(self, table: pd.DataFrame, weights: np.ndarray) -> np.ndarray:
        return self.value(table, weights)


@dataclass(frozen=True)
class Score:
    """A score in percent with its 95 % bootstrap interval, and the number of rows it stands on."""

    value: float
    low: float
    high: float
    n: int


def accuracy(**where: str) -> Statistic:
    """Share of correct rows among those whose columns have these values; NaN where there is none."""

    def value(table: pd.DataFrame, weights: np.ndarray) -> np.ndarray:
        chosen = rows_of(table, where)
        total = weights[:, chosen].sum(1)
        right = weights[:, chosen] @ table["correct"].to_numpy(dtype=float)[chosen]
        return 100 * np.divide(right, total, out=np.full(len(total), np.nan), where=total > 0)

    return Statistic(value, lambda table: rows_of(table, where))


def rows_of(table: pd.DataFrame, where: Mapping[str, str]) -> np.ndarray:
    """[N], true for the rows whose columns have these values."""
    chosen = every(table)
    for column, value in where.items():
        chosen &= (table[column] == value).to_numpy()
    return chosen


def mean_of(*statistics: Statistic) -> Statistic:
    """Their unweighted mean."""
    return Statistic(
        lambda table, weights: np.mean([statistic(table, weights) for statistic in statistics], axis=0),
        lambda table: np.any([statistic.rows(table) for statistic in statistics], axis=0),
    )


def all_right(*columns: str) -> Statistic:
    """Share of groups (rows alike in these columns) with every row correct; a group weighs as its first row does."""

    def value(table: pd.DataFrame, weights: np.ndarray) -> np.ndarray:
        group = table.groupby(list(columns), sort=False).ngroup().to_numpy()
        first = np.unique(group, return_index=True)[1]
        right = np.ones(len(first))
        np.minimum.at(right, group, table["correct"].to_numpy(dtype=float))
        shared = weights[:, first]
        return 100 * (shared @ right) / shared.sum(1)

    return Statistic(value)


def score(
    table: pd.DataFrame, statistic: Statistic, unit: Sequence[str], resamples: int = 1000, seed: int = 0
) -> Score:
    """A statistic's value with a percentile interval over resampled units."""
    value = float(statistic(table, np.ones((1, len(table))))[0])
    drawn = np.concatenate([statistic(table, weights) for weights in resampled(table, unit, resamples, seed)])
    low, high = np.nanpercentile(drawn, [2.5, 97.5]) if np.isfinite(drawn).any() else (np.nan, np.nan)
    return Score(value, float(low), float(high), int(statistic.rows(table).sum()))


def difference(
    before: pd.DataFrame,
    after: pd.DataFrame,
    statistic: Statistic,
    unit: Sequence[str],
    resamples: int = 1000,
    seed: int = 0,
) -> Score:
    """How much a statistic grows from one policy's table to another's of the same items, in the same order.

    Both are resampled alike, so what makes an item hard cancels out (Efron and Tibshirani 1993, chapter 13).
    """

    def change(weights: np.ndarray) -> np.ndarray:
        return statistic(after, weights) - statistic(before, weights)

    value = float(change(np.ones((1, len(before))))[0])
    drawn = np.concatenate([change(weights) for weights in resampled(before, unit, resamples, seed)])
    low, high = np.nanpercentile(drawn, [2.5, 97.5]) if np.isfinite(drawn).any() else (np.nan, np.nan)
    return Score(value, float(low), float(high), int(statistic.rows(before).sum()))


def mcnemar(before: np.ndarray, after: np.ndarray) -> float:
    """Two-sided exact p-value that two policies with these [N] verdicts, 0 or 1, are right equally often.

    Of the items on which they differ, each policy is right on half of them by chance (McNemar 1947, binomial form).
    """
    lost, won = int(((before == 1) & (after == 0)).sum()), int(((before == 0) & (after == 1)).sum())
    differ, term, tail = lost + won, 1, 0
    for count in range(min(lost, won) + 1):
        tail += term  # of whole numbers, so exact for any number of items
        term = term * (differ - count) // (count + 1)
    return min(1.0, 2 * tail / 2**differ)


def resampled(table: pd.DataFrame, unit: Sequence[str], resamples: int, seed: int) -> Iterator[np.ndarray]:
    """Weights [CHUNK, N] of resamples of units; the same for every statistic of a table, so that scores compare."""
    group = table.groupby(list(unit), sort=False).ngroup().to_numpy() if unit else np.arange(len(table))
    count, rng = int(group.max()) + 1, np.random.default_rng(seed)
    for start in range(0, resamples, CHUNK):
        many = min(CHUNK, resamples - start)
        yield rng.multinomial(count, np.full(count, 1 / count), size=many)[:, group].astype(float)
