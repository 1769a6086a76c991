"""Does a policy write boxes in the frame that it is read in? Predicted corners regressed on true ones."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

LEAST = 0.7
"""Correlation below which corners say nothing of a frame: the policy does not find its targets yet."""
TOLERANCE = 0.1
"""Of the scale, around 1."""


def corner_fit(rollouts: pd.DataFrame) -> pd.DataFrame:
    """Rollouts with a box -> one row per axis: scale, offset, correlation, corners, meaning.

    ``scale`` is the ratio of the spreads of predicted and true corners (the reduced major axis, which noise in the
    predictions does not flatten), ``offset`` the predicted corner where the true one is 0, in pixels of the file.
    """
    boxed = rollouts[rollouts["box"].notna()]
    rows = []
    for axis, places in (("x", (0, 2)), ("y", (1, 3))):
        true, said = (
            np.array([[box[place] for place in places] for box in boxed[column]], dtype=float).ravel()
            for column in ("target", "box")
        )
        rows.append({"axis": axis, **_fit(true, said), "corners": len(true)})
    table = pd.DataFrame(rows)
    return table.assign(meaning=[meaning(row.scale, row.offset, row.correlation) for row in table.itertuples()])


def _fit(true: np.ndarray, said: np.ndarray) -> dict[str, float]:
    if len(true) < 3 or true.std() == 0 or said.std() == 0:
        return {"scale": math.nan, "offset": math.nan, "correlation": math.nan}
    correlation = float(np.corrcoef(true, said)[0, 1])
    scale = float(said.std() / true.std())
    return {"scale": scale, "offset": float(said.mean() - scale * true.mean()), "correlation": correlation}


def meaning(scale: float, offset: float, correlation: float) -> str:
    """What a fit says of the frame, in words."""
    if math.isnan(correlation):
        return "too few different boxes to say"
    if correlation < LEAST:
        return "boxes do not follow their targets yet: nothing to say of the frame"
    if abs(scale - 1) > TOLERANCE:
        return (
            f"boxes are {scale:.2f} times as far apart as their targets: they are read in another frame than they are "
            "written in; check backbone.frame and the processor's limits of pixels"
        )
    said = "no sign of another frame"  # one less than a tenth larger looks the same
    return said if abs(offset) < 5 else f"{said}; boxes lie {offset:+.0f} px beside"
