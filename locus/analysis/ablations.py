"""Tables over runs: mean and interval over seeds, the paper's number beside; Markdown, LaTeX and CSV."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

NORMAL_95 = 1.959964
T_95 = (math.nan, 12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
"""97.5 % quantile of Student's t for 0 to 9 degrees of freedom."""
LATEX = str.maketrans(
    {mark: f"\\{mark}" for mark in "&%$#_{}"}
    | {"\\": r"\textbackslash{}", "^": r"\textasciicircum{}", "~": r"\textasciitilde{}", "±": r"$\pm$"}
)
"""Marks with a meaning of their own there -> how they are written."""


def over_seeds(
    runs: pd.DataFrame,
    by: Sequence[str],
    measures: Mapping[str, str],
) -> pd.DataFrame:
    """One row per setting: the mean of its finished runs and half the 95 % interval of that mean.

    A run that lacks a measure counts for the others only.

    Args:
        runs: of `runs.load`.
        by: columns of the settings that make a row.
        measures: column -> what it is called.

    Returns:
        Columns ``by``, ``runs``, and for each measure its name and ``<name> ±`` (NaN for one run).
    """
    finished = runs[runs["status"] == "finished"]
    rows = []
    for values, group in finished.groupby(list(by), sort=False, dropna=False):
        row = dict(zip(by, values, strict=True)) | {"runs": len(group)}
        for column, name in measures.items():
            row |= {name: float(group[column].mean()), f"{name} ±": half_interval(group[column])}
        rows.append(row)
    return pd.DataFrame(rows)


def half_interval(values: Sequence[float]) -> float:
    """Half the width of the 95 % interval of a mean by Student's t; NaN for fewer than two values. NaN is no value."""
    numbers = pd.Series(values, dtype=float).dropna()
    if len(numbers) < 2:
        return math.nan
    return float(t_95(len(numbers) - 1) * numbers.std(ddof=1) / math.sqrt(len(numbers)))


def t_95(freedom: int) -> float:
    """97.5 % quantile of Student's t; from 10 degrees of freedom on by two terms of its expansion (Abramowitz and
    Stegun 26.7.5), right to 0.002."""
    if freedom < len(T_95):
        return T_95[freedom]
    z = NORMAL_95
    return z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)


@dataclass(frozen=True)
class Pooled:
    """A mean over studies, here seeds, with its 95 % interval, and how much the studies' true values vary."""

    value: float
    low: float
    high: float
    between: float
    """Standard deviation."""


def random_effects(values: Sequence[float], errors: Sequence[float]) -> Pooled:
    """Studies of unequal precision in one number: DerSimonian and Laird 1986, with the interval of Hartung and Knapp
    2001 by Student's t. NaN bounds for fewer than two studies; studies without an error count alike.

    Args:
        values: one estimate per study.
        errors: their standard errors.
    """
    found, variances = np.asarray(values, dtype=float), np.asarray(errors, dtype=float) ** 2
    if not (variances > 0).all():
        variances = np.ones_like(found)
    weights = 1 / variances
    freedom = len(found) - 1
    spread = float(weights @ (found - np.average(found, weights=weights)) ** 2)
    scale = float(weights.sum() - (weights**2).sum() / weights.sum())
    between = max(0.0, (spread - freedom) / scale) if freedom else 0.0
    weights = 1 / (variances + between)
    mean = float(np.average(found, weights=weights))
    if not freedom:
        return Pooled(mean, math.nan, math.nan, math.nan)
    half = t_95(freedom) * math.sqrt(float(weights @ (found - mean) ** 2) / freedom / float(weights.sum()))
    return Pooled(mean, mean - half, mean + half, math.sqrt(between))


def cells(table: pd.DataFrame, settings: Sequence[str] = (), digits: int = 3) -> pd.DataFrame:
    """Every cell as text, a mean and its interval in one: ``0.668 ± 0.012``; columns of settings as they were set."""
    shown = pd.DataFrame(index=table.index)
    for name in table.columns:
        if name.endswith(" ±"):
            continue
        if name in settings:
            shown[name] = table[name].map(as_set)
        elif pd.api.types.is_float_dtype(table[name]):
            shown[name] = ["" if math.isnan(value) else f"{value:.{digits}f}" for value in table[name]]
        else:
            shown[name] = [
                "" if missing else str(value) for value, missing in zip(table[name], table[name].isna(), strict=True)
            ]
        if f"{name} ±" in table:
            wide = (f" ± {half:.{digits}f}" if math.isfinite(half) else "" for half in table[f"{name} ±"])
            shown[name] = [text + more for text, more in zip(shown[name], wide, strict=True)]
    return shown


def as_set(value: object) -> str:
    """A setting as text: ``0.0001``, and ``8`` also where a run that lacks it has made it 8.0; "" for none."""
    if pd.isna(value):
        return ""
    return str(value).removesuffix(".0") if isinstance(value, float) else str(value)


def markdown(table: pd.DataFrame) -> str:
    """A table of text as Markdown."""
    lines = [list(table.columns), ["---"] * len(table.columns), *table.values.tolist()]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines) + "\n"


def latex(table: pd.DataFrame) -> str:
    """A table of text as LaTeX (booktabs)."""
    lines = [" & ".join(_latex_cell(cell) for cell in line) + r" \\" for line in [list(table.columns), *table.values]]
    begin = rf"\begin{{tabular}}{{{'l' * table.shape[1]}}}"
    return "\n".join([begin, r"\toprule", lines[0], r"\midrule", *lines[1:], r"\bottomrule", r"\end{tabular}"]) + "\n"


def _latex_cell(cell: object) -> str:
    return str(cell).translate(LATEX)


def save(table: pd.DataFrame, path: Path, numbers: pd.DataFrame | None = None) -> None:
    """``<path>.md``, ``<path>.tex`` and, with the plain numbers, ``<path>.csv``: those of a table of texts if given."""
    path.parent.mkdir(parents=True, exist_ok=True)
    shown = cells(table)
    path.with_suffix(".md").write_text(markdown(shown))
    path.with_suffix(".tex").write_text(latex(shown))
    (table if numbers is None else numbers).to_csv(path.with_suffix(".csv"), index=False)
