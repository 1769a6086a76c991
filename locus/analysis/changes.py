"""From tables of two policies to changes of the same items, and their means with intervals over scenes and seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from locus.analysis.run_metrics import AFTER, BEFORE
from locus.evaluation.statistics import Score, Statistic, intervals, ratio


def paired(table: pd.DataFrame, values: Sequence[str], keys: Sequence[str] = ("item",)) -> pd.DataFrame:
    """One row per seed and item that both policies have: seed, keys, unit, and each value as ``<value> before`` and
    ``<value> after``. Raises ValueError where an item is there twice."""
    sides = [
        table.loc[table["policy"] == policy, ["seed", *keys, "unit", *values]].rename(
            columns={value: f"{value} {policy}" for value in values}
        )
        for policy in (BEFORE, AFTER)
    ]
    rows = sides[0].merge(sides[1].drop(columns="unit"), on=["seed", *keys], validate="one_to_one")
    return rows.astype({f"{value} {policy}": float for value in values for policy in (BEFORE, AFTER)})


def changed(rows: pd.DataFrame, value: str) -> pd.Series:
    """After less before."""
    return rows[f"{value} {AFTER}"] - rows[f"{value} {BEFORE}"]


def parts(rows: pd.DataFrame, change: pd.Series, part: pd.Series) -> pd.DataFrame:
    """Sums per seed and scene, all that a mean needs: of each part of the rows the column ``<part>``, the sum of its
    changes, and ``<part> n``, their number."""
    by = [rows["seed"], rows["unit"], part.rename("part")]
    grouped = change.groupby(by, sort=True)
    sums = grouped.sum().unstack("part", fill_value=0.0)
    counts = grouped.size().unstack("part", fill_value=0).add_suffix(" n")
    return pd.concat([sums, counts], axis=1).reset_index()


def mean(part: str) -> Statistic:
    """Of the changes of a part, in percent."""
    return ratio(part, f"{part} n")


def scores(sums: pd.DataFrame, statistics: Mapping[str, Statistic]) -> dict[str, Score]:
    """Each with its interval: over scenes, and over seeds where there are several."""
    return intervals(sums, statistics, ("unit",), crossed=("seed",) if sums["seed"].nunique() > 1 else ())


def extent(rows: pd.DataFrame, items: str) -> str:
    """How much a number stands on: ``2000 questions, 400 scenes, 3 seeds``."""
    seeds = rows["seed"].nunique()
    number = rows.groupby("seed").size().max() if len(rows) else 0
    return f"{number} {items}, {rows['unit'].nunique()} scenes, {seeds} seed{'s' if seeds != 1 else ''}"
