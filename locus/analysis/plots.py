"""One style for all figures: small multiples on white, policies distinguished by colour and marker."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

from locus.evaluation.statistics import accuracy, score

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
"""Okabe and Ito's, which colour-blind eyes can distinguish."""
MARKERS = "osD^vP"


def panels(number: int = 1, width: float = 5.0, height: float = 3.2) -> tuple[Figure, list[Axes]]:
    """A figure of so many axes beside each other, without a screen; sizes in inches."""
    figure = Figure(figsize=(width * number, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = list(figure.subplots(1, number, squeeze=False)[0])
    for one in axes:
        one.spines[["top", "right"]].set_visible(False)
    return figure, axes


def as_picture(figure: Figure) -> Image.Image:
    """The figure as pixels."""
    figure.savefig(buffer := io.BytesIO(), dpi=120, format="png")
    return Image.open(buffer).convert("RGB")


def curves(axes: Axes, measured: pd.DataFrame, along: str, column: str) -> None:
    """Mean of a column along another with its 95 % interval, one curve per policy."""
    for index, (policy, rows) in enumerate(measured.groupby("policy", sort=False)):
        places, parts = zip(*rows.groupby(along), strict=True)
        means, errors = zip(*(_mean(part, column) for part in parts), strict=True)
        colour, marker = COLOURS[index % len(COLOURS)], MARKERS[index % len(MARKERS)]
        axes.errorbar(places, means, np.transpose(errors), color=colour, marker=marker, capsize=2, linewidth=1.2,
                      label=str(policy))  # fmt: skip
    axes.set_xlabel(along)
    axes.legend(fontsize="small", frameon=False)


def _mean(rows: pd.DataFrame, column: str) -> tuple[float, list[float]]:
    """The mean, and how far below and above it its interval reaches.

    Rows alike in a column ``unit`` are drawn together, as in `tables.paired_table`.
    """
    unit = [name for name in ("unit",) if name in rows]
    found = score(rows[unit].assign(correct=rows[column].astype(float)), accuracy(), unit)
    reach = (found.value - found.low, found.high - found.value)
    return found.value / 100, [max(0.0, one) / 100 for one in reach]  # below 0 by rounding, where all values are alike


def bars(axes: Axes, measured: pd.DataFrame, along: str, column: str, over: str = "policy") -> None:
    """Mean of a column for each value of another with its 95 % interval, one bar per condition."""
    conditions, places = list(measured[over].unique()), list(measured[along].unique())
    width = 0.8 / len(conditions)
    for index, condition in enumerate(conditions):
        label: str | None = str(condition)
        for place, name in enumerate(places):
            rows = measured[(measured[over] == condition) & (measured[along] == name)]
            if not len(rows):
                continue
            mean, error = _mean(rows, column)
            x = place + (index - (len(conditions) - 1) / 2) * width
            errors = np.reshape(error, (2, 1))
            axes.bar(x, mean, width, yerr=errors, capsize=2, color=COLOURS[index % len(COLOURS)], label=label)
            label = None
    axes.set_xticks(range(len(places)), [str(name) for name in places])
    axes.legend(fontsize="small", frameon=False)


def mean_bars(axes: Axes, table: pd.DataFrame, along: str, measures: Sequence[str]) -> None:
    """One bar per measure for each row of an `ablations.over_seeds` table, with its interval where it has one."""
    width = 0.8 / len(measures)
    for index, measure in enumerate(measures):
        places = np.arange(len(table)) + (index - (len(measures) - 1) / 2) * width
        half = table[f"{measure} ±"].fillna(0)
        axes.bar(
            places, table[measure], width, yerr=half, capsize=2, color=COLOURS[index % len(COLOURS)], label=measure
        )
    axes.set_xticks(range(len(table)), table[along].astype(str), rotation=20, ha="right")
    axes.set_ylim(0, 1)
    axes.legend(fontsize="small", frameon=False)


def histogram(axes: Axes, measured: pd.DataFrame, column: str) -> None:
    """Share of the items in tenths of 0 to 1, one outline per policy."""
    edges = [tenth / 10 for tenth in range(11)]
    for index, (policy, rows) in enumerate(measured.groupby("policy", sort=False)):
        weights = [1 / len(rows)] * len(rows)
        axes.hist(rows[column], edges, weights=weights, histtype="step", color=COLOURS[index % len(COLOURS)],
                  linewidth=1.5, label=str(policy))  # fmt: skip
    axes.set_xlabel(column)
    axes.set_ylabel("share of items")
    axes.legend(fontsize="small", frameon=False)


def heat_map(axes: Axes, changes: pd.DataFrame, bold: pd.DataFrame, framed: pd.DataFrame, above: pd.DataFrame) -> None:
    """Numbers in coloured cells, green above 0 and brown below; rows of plain numbers above them.

    Args:
        changes: [rows, columns]; NaN: an empty cell.
        bold: bools of that shape, true for numbers in bold.
        framed: likewise, true for cells in a frame.
        above: [other rows, columns], not coloured.
    """
    most = max(1.0, float(np.nanmax(np.abs(changes.to_numpy()), initial=0.0)))
    plain = len(above)
    pixels = np.vstack([np.full(above.shape, np.nan), changes.to_numpy()])
    axes.imshow(pixels, cmap="BrBG", vmin=-1.3 * most, vmax=1.3 * most, aspect="auto")  # dark ends hide the numbers
    for (row, column), value in np.ndenumerate(np.vstack([above.to_numpy(), changes.to_numpy()])):
        own = row >= plain
        if own and framed.iloc[row - plain, column]:
            axes.add_patch(Rectangle((column - 0.47, row - 0.45), 0.94, 0.9, fill=False, linewidth=1.4))
        weight = "bold" if own and bold.iloc[row - plain, column] else "normal"
        text = "" if np.isnan(value) else f"{round(value, 1) + 0.0:{'+' if own else ''}.1f}"  # no -0.0
        colour = "white" if own and abs(value) > 0.85 * most else "black"
        axes.text(column, row, text, ha="center", va="center", fontsize=10, weight=weight, color=colour)
    axes.axhline(plain - 0.5, color="black", linewidth=1)
    axes.set_xticks(range(changes.shape[1]), list(changes.columns), rotation=30, ha="left", rotation_mode="anchor")
    axes.set_yticks(range(len(pixels)), [*above.index, *changes.index])
    axes.tick_params(top=True, labeltop=True, bottom=False, labelbottom=False, length=0)
    axes.spines[:].set_visible(False)
