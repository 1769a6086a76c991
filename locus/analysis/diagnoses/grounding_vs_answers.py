"""Does a policy answer rightly where it can find the queried object? (paper, Fig. 2 and 7)"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from locus.analysis.diagnoses.shared import answered, kind_of, located, predicted, unit_of
from locus.analysis.pages.page import Section
from locus.analysis.plots import as_picture, bars, histogram, panels
from locus.analysis.tables import paired_table
from locus.boxes import box_iou, parse_frame
from locus.errors import LocusError
from locus.evaluation.benchmark import Benchmark, Item
from locus.evaluation.benchmarks.refcoco import PROMPT
from locus.evaluation.evaluator import Evaluator
from locus.evaluation.reading.extractors import LOCUS
from locus.tasks.answers import COORDINATE_WORDS

TEXT = (
    "Each question is asked, and apart from it where the object is that it asks about. Accuracy by the IoU of that "
    "box, and the mean IoU of right and of wrong answers; with several evidence boxes, the mean of their IoUs. Where "
    "few questions are answered with a box, the prompt is not what the policy was taught (analysis.prompt)."
)
BINS = {"0": (0.0, 1e-12), "(0, 0.5)": (1e-12, 0.5), "[0.5, 1]": (0.5, 1.1)}
"""The paper's, of IoU: from, to below."""


@dataclass(frozen=True)
class GroundingVsAnswers:
    """The IoU of the queried object's box against the answer's correctness.

    Args:
        benchmark: whose items have evidence boxes and say what lies in them.
        frame: in which the policy writes boxes.
        prompt: asks for a box; ``{phrase}`` and ``{coordinates}`` in it are replaced.
        limit: items; null for all.
    """

    benchmark: Benchmark
    frame: str
    prompt: str = PROMPT
    limit: int | None = None
    name: str = "grounding_vs_answers"

    def measure(self, evaluator: Evaluator) -> pd.DataFrame:
        """Columns: item, unit, kind, response, correct, iou (mean over the item's evidence boxes, 0 without an answered
        box), found (IoU of at least 0.5), boxed (share of them for which a box was answered), bin."""
        items = located(self.benchmark, self.limit)
        if not all(len(item.names) == len(item.evidence) for item in items):
            raise LocusError(f"{self.benchmark.name} does not say what lies in its evidence boxes: nothing to ask for")
        ious: dict[str, list[float | None]] = {item.item_id: [] for item in items}
        for item, overlap in self._ground(evaluator, items):
            ious[item.item_id].append(overlap)
        rows = []
        for item, prediction, verdict in answered(evaluator, self.benchmark, items):
            found = ious[item.item_id]
            iou = float(np.mean([one or 0.0 for one in found]))
            boxed = np.mean([one is not None for one in found])
            row: dict[str, Any] = {
                "item": item.item_id,
                "unit": unit_of(self.benchmark, verdict),
                "kind": kind_of(item),
            }
            row |= {"response": prediction.response, "correct": verdict.correct, "iou": iou, "found": iou >= 0.5}
            rows.append(row | {"boxed": boxed, "bin": bin_of(iou)})
        return pd.DataFrame(rows)

    def _ground(self, evaluator: Evaluator, items: list[Item]) -> Iterator[tuple[Item, float | None]]:
        """Every evidence box of every item with the IoU of the policy's box for it; None without a box."""
        coordinates = COORDINATE_WORDS[parse_frame(self.frame)]
        pairs = [(item, name, box) for item in items for name, box in zip(item.names, item.evidence, strict=True)]
        # Not str.format: prompts that ask for JSON have braces of their own.
        prompts = [self.prompt.replace("{phrase}", name).replace("{coordinates}", coordinates) for _, name, _ in pairs]
        asked = [
            replace(item, item_id=f"{item.item_id}/{number}", prompt=prompt)
            for number, ((item, _, _), prompt) in enumerate(zip(pairs, prompts, strict=True))
        ]
        predictions = predicted(evaluator, asked, f"boxes, {self.benchmark.name}")
        for (item, _, truth), prediction in zip(pairs, predictions, strict=True):
            xyxy = LOCUS.box(prediction.as_response).xyxy
            box = None if xyxy is None else LOCUS.place(xyxy, prediction.view(self.frame), truth)
            yield item, None if box is None else box_iou(box, truth)

    def section(self, measured: pd.DataFrame) -> Section:
        """Of each kind: accuracy by bin of IoU; mean IoU and share found of right and of wrong answers."""
        tables = []
        for (name, kind), rows in measured.groupby(["policy", "kind"], sort=False):
            tables.append(_part(rows, {"answered with a box": "boxed"}, str(name), f"{kind}, all"))
            for answer, label in ((1.0, "right answers"), (0.0, "wrong answers")):
                measures = {"IoU of the queried object": "iou", "IoU of 0.5 or more": "found"}
                tables.append(_part(rows[rows["correct"] == answer], measures, str(name), f"{kind}, {label}"))
            for bin_name in BINS:
                part = rows[rows["bin"] == bin_name]
                tables.append(_part(part, {"accuracy": "correct"}, str(name), f"{kind}, IoU {bin_name}"))
        figure, (left, right) = panels(2)
        order = {name: place for place, name in enumerate(BINS)}
        bars(left, measured.sort_values("bin", key=lambda column: column.map(order), kind="stable"), "bin", "correct")
        left.set_xlabel("IoU of the queried object")
        left.set_ylabel("accuracy")
        histogram(right, measured, "iou")
        return Section("Grounding against answers", TEXT, pd.concat(tables, ignore_index=True), [as_picture(figure)])


def _part(rows: pd.DataFrame, measures: dict[str, str], policy: str, part: str) -> pd.DataFrame:
    """The rows' means, named after policy and part; empty where there are no rows."""
    if rows.empty:
        return pd.DataFrame()
    table = paired_table(rows, measures).rename(columns={policy: "value"})
    return table.assign(measure=f"{policy}: " + table["measure"], of=part)


def bin_of(iou: float) -> str:
    """Name of the IoU's bin."""
    return next(name for name, (low, high) in BINS.items() if low <= iou < high)
