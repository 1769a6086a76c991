"""Tables of paired scores with intervals, and their text. A row is a measure of a part of the items."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from locus.evaluation.statistics import accuracy, by_column, intervals


def paired_table(
    measured: pd.DataFrame, measures: Mapping[str, str], parts: str | None = None, over: str = "policy"
) -> pd.DataFrame:
    """Means of the same items under several conditions.

    Args:
        measured: one row per item and condition, named by columns ``item`` and ``over``; items alike in ``unit``, where
            there is one, are drawn together in the bootstrap.
        measures: what a row is called -> column of numbers.
        parts: column whose values get rows of their own, after those of all items where there are several.
        over: column of the condition, by default the policy.

    Returns:
        Columns measure, of, one for each condition, low, high, items. With one condition low and high are the mean's
        95 % interval; with more, column change is the last less the first, and they are its paired interval.
    """
    conditions = list(measured[over].unique())
    kinds = [] if parts is None or measured[parts].nunique() < 2 else list(measured.groupby(parts, sort=False))
    unit = [name for name in ("unit",) if name in measured]
    statistics = {measure: by_column(column, accuracy()) for measure, column in measures.items()}
    rows = []
    for part, chosen in [("all", measured), *kinds]:
        groups = [chosen[chosen[over] == name].set_index("item") for name in conditions]
        tables = [group.loc[groups[0].index] for group in groups]
        several = len(tables) > 1
        found = intervals(tables[-1], statistics, unit, tables[0] if several else None)
        for measure, column in measures.items():
            means = [float(table[column].to_numpy(dtype=float).mean()) for table in tables]
            row = {"measure": measure, "of": part, **dict(zip(map(str, conditions), means, strict=True))}
            row |= {"change": means[-1] - means[0]} if several else {}
            low, high = found[measure].low / 100, found[measure].high / 100  # from percent
            rows.append(row | {"low": low, "high": high, "items": len(tables[0])})
    return pd.DataFrame(rows)


def formatted(table: pd.DataFrame) -> pd.DataFrame:
    """Every cell as text; low and high become one column behind what they are the interval of."""
    sign = "+" if "change" in table else ""
    shown = pd.DataFrame({"measure": table["measure"], "of": table["of"].astype(str)})
    for name in table.columns.difference(["measure", "of", "low", "high", "items"], sort=False):
        mark = "+" if name == "change" else ""
        shown[name] = [f"{value:{mark}.3f}" for value in table[name]]
    bounds = zip(table["low"], table["high"], strict=True)
    shown["95 %"] = [f"[{low:{sign}.3f}, {high:{sign}.3f}]" for low, high in bounds]
    return shown.assign(items=table["items"].astype(str))


def as_text(table: pd.DataFrame) -> str:
    """A table for the terminal."""
    return formatted(table).to_string(index=False)
