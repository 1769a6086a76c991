"""How often each row of a table is drawn in each resample of a bootstrap, and rows that are alike taken together.

Shapes: N rows, U units (what is drawn together), R resamples, M kinds of rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

CELLS = 2**22
"""Weights at a time, 32 MB."""


@dataclass(frozen=True, eq=False)
class Draw:
    """Some resamples: how often each unit is in them, for one kind of unit or several that are crossed."""

    times: Sequence[np.ndarray]
    """[U, R] whole numbers, one for each kind of unit."""
    groups: Sequence[np.ndarray]
    """[N] which unit each row is of, likewise."""

    def weights(self, rows: np.ndarray | slice = slice(None)) -> np.ndarray:
        """[N, R] whole numbers, how often each resample holds a row; of these rows in this order."""
        first, *others = (times[group[rows]] for times, group in zip(self.times, self.groups, strict=True))
        for other in others:
            first *= other
        return first


def draws(
    table: pd.DataFrame, unit: Sequence[str], resamples: int, seed: int, crossed: Sequence[str] = ()
) -> Iterator[Draw]:
    """Some resamples of units at a time: the same for a seed, whatever the statistics, and of the units the same,
    whatever is ``crossed`` with them."""
    factors = [(numbered(table, unit), np.random.default_rng(seed))]
    if crossed:
        factors.append((numbered(table, crossed), np.random.default_rng([seed, 1])))
    most = max(1, CELLS // len(table))
    for start in range(0, resamples, most):
        many = min(most, resamples - start)
        times = [_times(rng, many, int(group.max()) + 1) for group, rng in factors]
        yield Draw(times, [group for group, _ in factors])


def resampled(
    table: pd.DataFrame, unit: Sequence[str], resamples: int, seed: int, crossed: Sequence[str] = ()
) -> Iterator[np.ndarray]:
    """Weights [R, N] of `draws`."""
    return (np.ascontiguousarray(draw.weights().T, float) for draw in draws(table, unit, resamples, seed, crossed))


def resampled_sums(
    table: pd.DataFrame,
    values: np.ndarray,
    unit: Sequence[str],
    resamples: int,
    seed: int = 0,
    crossed: Sequence[str] = (),
) -> np.ndarray:
    """[1 + R, K] sums of each column of ``values`` [N, K]: over the table's rows, then over those of each resample.

    One product for all columns: many statistics of the same sums cost about as much as one.
    """
    drawn = (weights @ values for weights in resampled(table, unit, resamples, seed, crossed))
    return np.concatenate([values.sum(0, keepdims=True), *drawn])


def numbered(table: pd.DataFrame, unit: Sequence[str]) -> np.ndarray:
    """[N], the number of each row's unit."""
    if not unit:
        return np.arange(len(table))
    # Under the names that diagnoses have for them, so that a page draws the same ones.
    names = ["/".join(map(str, values)) for values in table[list(unit)].itertuples(index=False)]
    return np.unique(names, return_inverse=True)[1]


def _times(rng: np.random.Generator, resamples: int, count: int) -> np.ndarray:
    """[count, R], how often each of ``count`` units is drawn."""
    drawn = rng.integers(count, size=(resamples, count)) + count * np.arange(resamples)[:, None]
    times = np.bincount(drawn.ravel(), minlength=resamples * count).reshape(resamples, count)
    return np.ascontiguousarray(times.T, np.int32)  # half the bytes to be moved


@dataclass(frozen=True, eq=False)
class Kinds:
    """The rows of a table by what they are alike in."""

    table: pd.DataFrame
    """The first row of each kind, in the order of these rows."""
    order: np.ndarray
    """[N] rows, kind after kind."""
    starts: np.ndarray
    """[M] where each kind begins there."""

    @classmethod
    def of(cls, table: pd.DataFrame, columns: Iterable[str]) -> Kinds:
        """Of rows alike in these columns, of which there is at least one."""
        kind = table.groupby(list(columns), sort=False, dropna=False).ngroup().to_numpy()
        order = kind.argsort(kind="stable")
        starts = np.searchsorted(kind[order], np.arange(kind.max() + 1))
        return cls(table.iloc[order[starts]].reset_index(drop=True), order, starts)

    def weights(self, draw: Draw) -> np.ndarray:
        """[M, R] how often each resample holds a row of a kind."""
        return np.add.reduceat(draw.weights(self.order), self.starts, axis=0, dtype=np.int32)
