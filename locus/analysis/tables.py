"""Tables of paired scores with intervals, and their text. A row is a measure of a part of the items."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from locus.evaluation.bootstrap import paired_difference


def paired_table(
    measured: pd.DataFrame, measures: Mapping[str, str], parts: str | None = None, over: str = "policy"
) -> pd.DataFrame:
    """Means of the same items under several conditions.

    Args:
        measured: one row an item and condition; column ``item`` tells items apart, and ``unit``, where there is one,
            says which are drawn together in the bootstrap.
        measures: what a row is called -> column of numbers.
        parts: column whose values get rows of their own, after those of all items where there are several.
        over: column of the condition, by default the policy.

    Returns:
        Columns measure, of, one for each condition, low, high, items. With one condition low and high are the mean's
        95 % interval; with more, column change is the last less the first, and they are its paired interval.
    """
    conditions = list(measured[over].unique())
    kinds = [] if parts is None or measured[parts].nunique() < 2 else list(measured.groupby(parts, sort=False))
    rows = []
    for part, chosen in [("all", measured), *kinds]:
        groups = [chosen[chosen[over] == name].set_index("item") for name in conditions]
        for measure, column in measures.items():
            values = [group.loc[groups[0].index, column].to_numpy(dtype=float) for group in groups]
            first = values[0] if len(values) > 1 else np.zeros(len(values[0]))
            units = groups[0].get("unit")
            found = paired_difference(first, values[-1], None if units is None else units.to_numpy(str))
            row = {"measure": measure, "of": part}
            row |= {str(name): float(value.mean()) for name, value in zip(conditions, values, strict=True)}
            row |= {"change": found.change} if len(values) > 1 else {}
            rows.append(row | {"low": found.low, "high": found.high, "items": found.items})
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
