"""Scores as weighted statistics of a table of verdicts, so that a bootstrap is one product.

A statistic takes a table of N rows (``correct`` and the benchmark's columns) and weights [R, N], how often each of R
resamples holds a row, and gives [R] scores in percent; the score itself is that of weights 1. It also says which rows
it stands on. Every interval of locus, in files and on pages, is made by `intervals`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from locus.evaluation.resampling import CELLS, Draw, Kinds, draws

RESAMPLES = 10_000


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
    columns: frozenset[str] | None = None
    """Those it reads, where rows alike in them may be one row that weighs what they weigh together; None: they may not.
    """

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

    return Statistic(value, lambda table: rows_of(table, where), frozenset({"correct", *where}))


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
        _columns_of(statistics),
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
        _columns_of((one, other)),
    )


def _columns_of(statistics: Iterable[Statistic]) -> frozenset[str] | None:
    """Of all of them; None where one has none."""
    columns: set[str] = set()
    for statistic in statistics:
        if statistic.columns is None:
            return None
        columns |= statistic.columns
    return frozenset(columns)


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
    columns = None if statistic.columns is None else frozenset({*statistic.columns - {"correct"}, column})
    return Statistic(
        lambda table, weights: statistic(table.assign(correct=table[column]), weights), statistic.rows, columns
    )


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

    now, *others = _values([table] if before is None else [table, before], statistics, unit, resamples, seed, crossed)
    return _scored(table, statistics, now - others[0] if others else now)


def intervals_of_each(
    tables: Mapping[str, pd.DataFrame],
    statistics: Mapping[str, Statistic],
    unit: Sequence[str],
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, dict[str, Score]]:
    """`intervals` of each table, all of the same items in the same order, which are drawn once."""
    values = _values(list(tables.values()), statistics, unit, resamples, seed)
    found = zip(tables.items(), values, strict=True)
    return {name: _scored(table, statistics, mine) for (name, table), mine in found}


def _scored(table: pd.DataFrame, statistics: Mapping[str, Statistic], values: np.ndarray) -> dict[str, Score]:
    """[S, 1 + R] values, of the table itself and of its resamples -> scores by name."""
    scores = {}
    for (name, statistic), (point, *_), row in zip(statistics.items(), values, values[:, 1:], strict=True):
        low, high, error = np.nan, np.nan, np.nan
        if np.isfinite(row).any():
            (low, high), error = np.nanpercentile(row, [2.5, 97.5]), np.nanstd(row)
        scores[name] = Score(float(point), float(low), float(high), int(statistic.rows(table).sum()), float(error))
    return scores


def _values(
    tables: Sequence[pd.DataFrame],
    statistics: Mapping[str, Statistic],
    unit: Sequence[str],
    resamples: int,
    seed: int,
    crossed: Sequence[str] = (),
) -> list[np.ndarray]:
    """Of each table [S, 1 + R]: every statistic of itself, and of its resamples, in which all are drawn alike."""
    first = tables[0]
    whole = Draw([np.ones((len(first), 1), dtype=np.int32)], [np.arange(len(first))])
    samples = [_Sampled(table, list(statistics.values())) for table in tables]
    for sample in samples:
        sample.add(whole)
    points = [sample.values() for sample in samples]
    for draw in draws(first, unit, resamples, seed, crossed):
        for sample in samples:
            sample.add(draw)
    return [np.concatenate([point, one.values()], axis=1) for point, one in zip(points, samples, strict=True)]


class _Sampled:
    """Statistics of a table's resamples, on its kinds of rows where they may be: these are few.

    Only where what is summed are whole numbers, whose sums are exact in any order: scores are the same to the last bit.
    """

    def __init__(self, table: pd.DataFrame, statistics: Sequence[Statistic]) -> None:
        names = {name for one in statistics for name in one.columns or ()}
        fractions = {name for name in names if table[name].dtype.kind == "f" and (table[name] % 1 != 0).any()}
        self.table, self.statistics = table, statistics
        self.few = [i for i, one in enumerate(statistics) if one.columns and not one.columns & fractions]
        self.all = [i for i in range(len(statistics)) if i not in self.few]
        columns = sorted({name for i in self.few for name in statistics[i].columns or ()})
        self.kinds = Kinds.of(table, columns) if columns else None
        self._found: list[list[np.ndarray]] = [[] for _ in statistics]
        self._waiting: list[np.ndarray] = []

    def add(self, draw: Draw) -> None:
        """Some more resamples."""
        if self.all:
            self._compute(self.all, self.table, draw.weights())
        if self.kinds is not None:
            self._waiting.append(self.kinds.weights(draw))
            if sum(weights.size for weights in self._waiting) > CELLS:
                self._flush()

    def values(self) -> np.ndarray:
        """[S, R] of all resamples since the last call."""
        self._flush()
        found, self._found = self._found, [[] for _ in self.statistics]
        return np.stack([np.concatenate(parts) for parts in found])

    def _flush(self) -> None:
        if self.kinds is not None and self._waiting:
            self._compute(self.few, self.kinds.table, np.concatenate(self._waiting, axis=1))
            self._waiting = []

    def _compute(self, which: Sequence[int], table: pd.DataFrame, weights: np.ndarray) -> None:
        weights = np.ascontiguousarray(weights.T, float)
        for i in which:
            self._found[i].append(self.statistics[i](table, weights))


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
