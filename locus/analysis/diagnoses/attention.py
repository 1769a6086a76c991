"""Attention-in-Box and Peak-in-Box per layer and in the mean of the layers, with overlays (paper, Fig. 4, 5, 8)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from locus.analysis.attention import attention_in_box
from locus.analysis.diagnoses.shared import kind_of, located, looked, unit_of
from locus.analysis.pages.page import Section
from locus.analysis.pictures import overlay_picture
from locus.analysis.plots import as_picture, curves, panels
from locus.analysis.tables import paired_table
from locus.evaluation.benchmark import Benchmark, Item
from locus.evaluation.evaluator import Evaluator
from locus.evaluation.reading.extractors import LOCUS
from locus.evaluation.scores import verdict_of

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
        """See `looks`."""
        return self.looks(evaluator, located(self.benchmark, self.limit))

    def looks(self, evaluator: Evaluator, items: Sequence[Item]) -> pd.DataFrame:
        """Columns: item, unit, kind, response, correct, attention_in_box, attention_in_box_covered, peak_in_box, area,
        ``layer <n>`` and ``peak, layer <n>`` (of each layer's own map), map, rows (of it)."""
        rows = []
        for item, (prediction, layers) in zip(items, looked(evaluator, items), strict=True):
            verdict = verdict_of(self.benchmark, item, prediction, LOCUS)
            share = attention_in_box(layers, item.evidence)
            row: dict[str, Any] = {
                "item": item.item_id,
                "unit": unit_of(self.benchmark, verdict),
                "kind": kind_of(item),
            }
            row |= {"response": prediction.response, "correct": verdict.correct, "area": share.area}
            row |= {"attention_in_box": share.mean, "attention_in_box_covered": share.covered}
            row |= {"peak_in_box": share.peak}
            row |= {f"layer {number}": value for number, value in enumerate(share.by_layer)}
            row |= {f"peak, layer {number}": value for number, value in enumerate(share.peak_by_layer)}
            rows.append(row | {"map": layers.mean(0).ravel().tolist(), "rows": layers.shape[1]})
        return pd.DataFrame(rows)

    def section(self, measured: pd.DataFrame) -> Section:
        """A row a measure and layer; the curves over layers; overlays."""
        layers = [name for name in measured if name.startswith("layer ")]
        measures = {"attention in box": "attention_in_box", "by covered share of cells": "attention_in_box_covered"}
        measures |= {"peak in box": "peak_in_box", "area of the boxes": "area"}
        measures |= {f"in box, {name}": name for name in layers}
        measures |= {f"peak in box, {name}": f"peak, {name}" for name in layers}
        pictures = [layer_curves(measured), *self._overlays(measured)]
        return Section("Attention in box", TEXT, paired_table(measured, measures), pictures)

    def _overlays(self, measured: pd.DataFrame) -> list[Image.Image]:
        drawn = list(measured["item"].unique()[: self.overlays])
        items = (item for item in self.benchmark.items() if item.item_id in drawn)
        pictures = []
        for item in islice(items, len(drawn)):
            rows = measured[measured["item"] == item.item_id]
            maps = {row.policy: np.reshape(row.map, (row.rows, -1)) for row in rows.itertuples()}
            pictures.append(overlay_picture(item.pictures[0].open(), maps, item.evidence, item.prompt))
        return pictures


def layer_curves(measured: pd.DataFrame) -> Image.Image:
    """Attention in box and peak in box over the layers, one curve per policy; dotted: the boxes' own area."""
    layers = [name for name in measured if name.startswith("layer ")]
    figure, axes = panels(2)
    kept = [name for name in ("policy", "item", "unit") if name in measured]
    for one, prefix, label in zip(axes, ("", "peak, "), ("attention in box", "peak in box"), strict=True):
        long = measured.melt(kept, [prefix + name for name in layers], "layer", label)
        long["layer"] = long["layer"].str.rsplit(" ", n=1).str[-1].astype(int)
        curves(one, long, "layer", label)
        one.axhline(measured["area"].mean(), color="grey", linestyle=":", linewidth=1)
        one.set_ylabel(label)
    return as_picture(figure)
