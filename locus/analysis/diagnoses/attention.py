"""Attention-in-Box and Peak-in-Box per layer and in the mean of the layers, with overlays (paper, Fig. 4, 5, 8)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from PIL import Image

from locus.analysis.attention import attention_in_box
from locus.analysis.diagnoses.shared import answered, kind_of, located, maps_at_answer
from locus.analysis.overlays import overlay_picture
from locus.analysis.plots import as_picture, curves, panels
from locus.analysis.report import Section
from locus.analysis.tables import paired_table
from locus.evaluation.evaluator import Evaluator
from locus.evaluation.items import Benchmark

TEXT = (
    "Share of the attention to the image, from the position that predicts the answer's first token, that lies in the "
    "cells of the evidence boxes; the boxes' own area is what evenly spread attention gives. Overlays: the mean of the "
    "layers' maps, all policies on one scale, the true box in green."
)


@dataclass(frozen=True)
class Attention:
    """Where a policy looks when it answers.

    Args:
        benchmark: whose items have evidence boxes.
        limit: items; null for all.
        overlays: how many items are drawn.
    """

    benchmark: Benchmark
    limit: int | None = None
    overlays: int = 4
    name: str = "attention"

    def measure(self, evaluator: Evaluator) -> pd.DataFrame:
        """Columns: item, kind, response, correct, mean, covered, peak, area, ``layer 0`` and on (shares), map, rows (of
        it)."""
        items = located(self.benchmark, self.limit)
        found = list(answered(evaluator, self.benchmark, items))
        maps = maps_at_answer(evaluator, items, [prediction.response for _, prediction, _ in found])
        rows = []
        for (item, prediction, verdict), layers in zip(found, maps, strict=True):
            share = attention_in_box(layers, item.evidence)
            row = {"item": item.item_id, "kind": kind_of(item), "response": prediction.response}
            row["correct"] = verdict.correct
            row |= {name: getattr(share, name) for name in ("mean", "covered", "peak", "area")}
            row |= {f"layer {number}": value for number, value in enumerate(share.by_layer)}
            rows.append(row | {"map": layers.mean(0).ravel().tolist(), "rows": layers.shape[1]})
        return pd.DataFrame(rows)

    def section(self, measured: pd.DataFrame) -> Section:
        """A row a measure and layer; the curve over layers; overlays."""
        layers = [name for name in measured if name.startswith("layer ")]
        measures = {"attention in box": "mean", "by covered share of cells": "covered", "peak in box": "peak"}
        measures |= {"area of the boxes": "area"} | {f"in box, {name}": name for name in layers}
        pictures = [_curve(measured, layers), *self._overlays(measured)]
        return Section("Attention in box", TEXT, paired_table(measured, measures), pictures)

    def _overlays(self, measured: pd.DataFrame) -> list[Image.Image]:
        items = {item.item_id: item for item in located(self.benchmark, self.overlays)} if self.overlays else {}
        pictures = []
        for name, item in items.items():
            rows = measured[measured["item"] == name]
            maps = {row.policy: np.reshape(row.map, (row.rows, -1)) for row in rows.itertuples()}
            pictures.append(overlay_picture(item.pictures[0].open(), maps, item.evidence, item.prompt))
        return pictures


def _curve(measured: pd.DataFrame, layers: Sequence[str]) -> Image.Image:
    long = measured.melt(["policy", "item"], layers, "layer", "attention in box")
    long["layer"] = long["layer"].str.removeprefix("layer ").astype(int)
    figure, (axes,) = panels()
    curves(axes, long, "layer", "attention in box")
    axes.axhline(measured["area"].mean(), color="grey", linestyle=":", linewidth=1)
    axes.set_ylabel("attention in box")
    return as_picture(figure)
