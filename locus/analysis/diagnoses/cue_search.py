"""Cue search on a benchmark's own evidence: its boxes are cut out and searched for (paper, Table 10)."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from locus.analysis.diagnoses.shared import located, predicted
from locus.analysis.pages.page import Section
from locus.analysis.plots import as_picture, bars, histogram, panels
from locus.analysis.tables import paired_table
from locus.boxes import parse_frame
from locus.evaluation.benchmark import Benchmark, Item, Picture
from locus.evaluation.benchmarks.scenes import box_verdict
from locus.evaluation.evaluator import Evaluator
from locus.tasks.cue_search.cues import render_cue
from locus.tasks.cue_search.prompts import PAPER
from locus.tasks.cue_search.reward import BoxReward

TEXT = "The evidence boxes of a benchmark as cues: where in the image is this crop? By the area of the box."


@dataclass(frozen=True)
class CueSearchOnEvidence:
    """The training task on images and boxes of a benchmark.

    Args:
        benchmark: whose items have evidence boxes.
        bins: name -> [low, high) share of the image's area, to distinguish rows.
        frame: in which the policy writes boxes.
        limit: items; null for all.
    """

    benchmark: Benchmark
    bins: Mapping[str, tuple[float, float]]
    frame: str
    limit: int | None = None
    name: str = "cue_search"

    def measure(self, evaluator: Evaluator) -> pd.DataFrame:
        """Columns: item, unit (the image), response, bin, iou, at_50, at_75, format."""
        items = [cue for item in located(self.benchmark, self.limit) for cue in self._cues(item)]
        rows = []
        for item, prediction in zip(items, predicted(evaluator, items, self.benchmark.name), strict=True):
            grade = BoxReward().grade(prediction.as_response, prediction.view(self.frame), item.evidence[0])
            verdict = box_verdict(item, grade)
            row: dict[str, Any] = {"item": item.item_id, "unit": item.pictures[0].key}
            row |= {"response": prediction.response, "at_50": verdict.correct}
            rows.append(row | dict(verdict.columns))
        return pd.DataFrame(rows)

    def _cues(self, item: Item) -> Iterator[Item]:
        """An item a box: the full image, then the crop; an item that is one already stays as it is."""
        if item.example is not None:
            yield item
            return
        first = item.pictures[0]
        for number, box in enumerate(item.evidence):
            render_cue(first.open(), box.xyxy).save(buffer := io.BytesIO(), "PNG")
            cue = Picture(f"{first.key}, box {box.xyxy}", buffer.getvalue())
            name = next((name for name, (low, high) in self.bins.items() if low <= box.area_ratio < high), "other")
            prompt = PAPER.text(parse_frame(self.frame))
            yield Item(f"{item.item_id}/{number}", prompt, box, (first, cue), groups={"bin": name}, evidence=(box,))

    def section(self, measured: pd.DataFrame) -> Section:
        """Mean IoU, accuracies and format over all and by area bin; the IoU's histogram."""
        measures = {"mean IoU": "iou", "ACC@0.5": "at_50", "ACC@0.75": "at_75", "format": "format"}
        figure, (left, right) = panels(2)
        bars(left, measured, "bin", "iou")
        left.set_ylabel("mean IoU")
        histogram(right, measured, "iou")
        return Section("Cue search", TEXT, paired_table(measured, measures, "bin"), [as_picture(figure)])
