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
    """A score in percent with its 95 % bootstrap interval, the number of rows it stands on, and its standard error."""

    value: float
    low: float
    high: float
    n: int
    error: float
    """Standard deviation over the resamples."""


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


def ratio(total: str, number: str) -> Statistic:
    """100 times the sum of one column over that of another: of sums and counts, a mean; NaN where the second is 0."""

    def value(table: pd.DataFrame, weights: np.ndarray) -> np.ndarray:
        sums = weights @ table[[total, number]].to_numpy(dtype=float)
        return 100 * np.divide(sums[:, 0], sums[:, 1], out=np.full(len(sums), np.nan), where=sums[:, 1] != 0)

    return Statistic(value)


def difference(one: Statistic, other: Statistic) -> Statistic:
    """The first less the second."""
    return Statistic(
        lambda table, weights: one(table, weights) - other(table, weights),
        lambda table: one.rows(table) | other.rows(table),
    )


def all_right(*columns: str, **where: str) -> Statistic:
    """Share of groups (rows alike in these columns) with every row correct, among the rows of which ``where`` is true.

    A group weighs as its first row does; NaN where there is none.
    """

    def value(table: pd.DataFrame, weights: np.ndarray) -> np.ndarray:
        chosen = rows_of(table, where)
        if not chosen.any():
            return np.full(len(weights), np.nan)
        group = table[chosen].groupby(list(columns), sort=False).ngroup().to_numpy()
        first = np.unique(group, return_index=True)[1]
        right = np.ones(len(first))
        np.minimum.at(right, group, table["correct"].to_numpy(dtype=float)[chosen])
        shared = weights[:, np.flatnonzero(chosen)[first]]
        total = shared.sum(1)
        return np.divide(100 * (shared @ right), total, out=np.full(len(total), np.nan), where=total > 0)

    return Statistic(value, lambda table: rows_of(table, where))


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
    crossed: Sequence[str] = (),
) -> dict[str, Score]:
    """Every statistic with its 95 % percentile interval over resampled units: rows alike in the columns ``unit``.

    Rows alike in the columns ``crossed``, where there are some, are a second kind of unit, resampled beside the first:
    a row of a scene and a seed counts as often as its scene was drawn, times as often as its seed (Owen 2007, the
    "pigeonhole bootstrap").

    With ``before``, another policy's table of the same items in the same order, how much each grows from that one. Both
    are resampled alike, so that what makes an item hard cancels out (Efron and Tibshirani 1993, chapter 13).
    """

    def values(weights: np.ndarray) -> np.ndarray:  # [S, R]
        now = np.stack([statistic(table, weights) for statistic in statistics.values()])
        return now if before is None else now - np.stack([one(before, weights) for one in statistics.values()])

    points = values(np.ones((1, len(table))))[:, 0]
    drawn = np.concatenate([values(weights) for weights in resampled(table, unit, resamples, seed, crossed)], axis=1)
    scores = {}
    for (name, statistic), point, row in zip(statistics.items(), points, drawn, strict=True):
        low, high, error = np.nan, np.nan, np.nan
        if np.isfinite(row).any():
            (low, high), error = np.nanpercentile(row, [2.5, 97.5]), np.nanstd(row)
        scores[name] = Score(float(point), float(low), float(high), int(statistic.rows(table).sum()), float(error))
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


def resampled(
    table: pd.DataFrame, unit: Sequence[str], resamples: int, seed: int, crossed: Sequence[str] = ()
) -> Iterator[np.ndarray]:
    """Weights [R, N], some resamples of units at a time: the same for a seed, whatever the statistics, and of the units
    the same whatever is ``crossed`` with them."""
    factors = [(numbered(table, unit), np.random.default_rng(seed))]
    if crossed:
        factors.append((numbered(table, crossed), np.random.default_rng([seed, 1])))
    most = max(1, CELLS // len(table))
    for start in range(0, resamples, most):
        many = min(most, resamples - start)
        weights, *others = (_times(rng, many, int(group.max()) + 1)[:, group] for group, rng in factors)
        for other in others:
            weights *= other
        yield weights


def numbered(table: pd.DataFrame, unit: Sequence[str]) -> np.ndarray:
    """[N], the number of each row's unit."""
    if not unit:
        return np.arange(len(table))
    # Under the names that diagnoses have for them, so that a page draws the same ones.
    names = ["/".join(map(str, values)) for values in table[list(unit)].itertuples(index=False)]
    return np.unique(names, return_inverse=True)[1]


def _times(rng: np.random.Generator, resamples: int, count: int) -> np.ndarray:
    """[R, count], how often each of ``count`` units is drawn."""
    drawn = rng.integers(count, size=(resamples, count)) + count * np.arange(resamples)[:, None]
    return np.bincount(drawn.ravel(), minlength=resamples * count).reshape(resamples, count).astype(float)
