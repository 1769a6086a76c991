"""Scores as weighted statistics of a table of verdicts, so that a bootstrap is one product.

A statistic takes a table of N rows (``correct`` and the benchmark's columns) and weights [R, N], how often each of R
resamples holds a row, and gives [R] scores in percent; the score itself is that of weights 1. It also says which rows
it stands on. Every interval of locus, in files and on pages, is made by `intervals`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

RESAMPLES = 10_000
CELLS = 2**22
"""Weights at a time, 32 MB."""


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


def by_column(column: str, statistic: Statistic) -> Statistic:
    """The statistic with this column in the place of ``correct``."""
    return Statistic(lambda table, weights: statistic(table.assign(correct=table[column]), weights), statistic.rows)


def intervals(
    table: pd.DataFrame,
    statistics: Mapping[str, Statistic],
    unit: Sequence[str],
    before: pd.DataFrame | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, Score]:
    """Every statistic with its 95 % percentile interval over resampled units: rows alike in the columns ``unit``.

    With ``before``, another policy's table of the same items in the same order, how much each grows from that one. Both
    are resampled alike, so that what makes an item hard cancels out (Efron and Tibshirani 1993, chapter 13).
    """

    def values(weights: np.ndarray) -> np.ndarray:  # [S, R]
        now = np.stack([statistic(table, weights) for statistic in statistics.values()])
        return now if before is None else now - np.stack([one(before, weights) for one in statistics.values()])

    points = values(np.ones((1, len(table))))[:, 0]
    drawn = np.concatenate([values(weights) for weights in resampled(table, unit, resamples, seed)], axis=1)
    scores = {}
    for (name, statistic), point, row in zip(statistics.items(), points, drawn, strict=True):
        low, high = np.nanpercentile(row, [2.5, 97.5]) if np.isfinite(row).any() else (np.nan, np.nan)
        scores[name] = Score(float(point), float(low), float(high), int(statistic.rows(table).sum()))
    return scores


def score(table: pd.DataFrame, statistic: Statistic, unit: Sequence[str], **how: Any) -> Score:
    """`intervals` of one statistic."""
    return intervals(table, {"": statistic}, unit, **how)[""]


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
    """Weights [R, N], some resamples of units at a time: the same for a seed, whatever the statistics."""
    group = np.arange(len(table))
    if unit:  # under the names that diagnoses have for them, so that a page draws the same ones
        names = ["/".join(map(str, values)) for values in table[list(unit)].itertuples(index=False)]
        group = np.unique(names, return_inverse=True)[1]
    count, rng = int(group.max()) + 1, np.random.default_rng(seed)
    most = max(1, CELLS // len(table))
    for start in range(0, resamples, most):
        many = min(most, resamples - start)
        drawn = rng.integers(count, size=(many, count)) + count * np.arange(many)[:, None]
        times = np.bincount(drawn.ravel(), minlength=many * count).reshape(many, count)
        yield times[:, group].astype(float)
