"""Does a policy answer rightly where it can find the queried object? (paper, Fig. 2 and 7)"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from locus.analysis.diagnoses.shared import answered, kind_of, located
from locus.analysis.plots import as_picture, bars, histogram, panels
from locus.analysis.report import Section
from locus.analysis.tables import paired_table
from locus.boxes import box_iou, parse_frame
from locus.errors import LocusError
from locus.evaluation.benchmarks.refcoco import PROMPT, in_file
from locus.evaluation.benchmarks.shared import written_size
from locus.evaluation.evaluator import Evaluator
from locus.evaluation.extraction import extract_box
from locus.evaluation.items import Benchmark, Item
from locus.prompts import COORDINATE_WORDS

TEXT = (
    "Each question is asked, and apart from it where the object is that it asks about. Accuracy by the IoU of that box "
    "(in bins), and the mean IoU of right and of wrong answers."
)
BINS = {"0": (-1.0, 0.0), "(0, 0.5)": (0.0, 0.5), "[0.5, 1]": (0.5, 2.0)}


@dataclass(frozen=True)
class GroundingVsAnswers:
    """The IoU of the queried object's box against the answer's correctness.

    Args:
        benchmark: whose items have evidence boxes and say what lies in them.
        frame: in which the policy writes boxes.
        prompt: asks for a box, with ``{phrase}`` and ``{coordinates}``.
        limit: items; null for all.
    """

    benchmark: Benchmark
    frame: str
    prompt: str = PROMPT
    limit: int | None = None
    name: str = "grounding_vs_answers"

    def measure(self, evaluator: Evaluator) -> pd.DataFrame:
        """Columns: item, kind, response, correct, iou (mean over the item's evidence boxes), found (IoU of at least
        0.5), bin."""
        items = located(self.benchmark, self.limit)
        if not all(len(item.names) == len(item.evidence) for item in items):
            raise LocusError(f"{self.benchmark.name} does not say what lies in its evidence boxes: nothing to ask for")
        ious: dict[str, list[float]] = {item.item_id: [] for item in items}
        for item, iou in self._ground(evaluator, items):
            ious[item.item_id].append(iou)
        rows = []
        for item, prediction, verdict in answered(evaluator, self.benchmark, items):
            iou = float(np.mean(ious[item.item_id]))
            row = {"item": item.item_id, "kind": kind_of(item), "response": prediction.response}
            rows.append(row | {"correct": verdict.correct, "iou": iou, "found": iou >= 0.5, "bin": bin_of(iou)})
        return pd.DataFrame(rows)

    def _ground(self, evaluator: Evaluator, items: list[Item]) -> Iterator[tuple[Item, float]]:
        """Every evidence box of every item with the IoU of the policy's box for it."""
        coordinates = COORDINATE_WORDS[parse_frame(self.frame)]
        pairs = [(item, name, box) for item in items for name, box in zip(item.names, item.evidence, strict=True)]
        prompts = [self.prompt.format(phrase=name, coordinates=coordinates) for _, name, _ in pairs]
        asked = [
            replace(item, item_id=f"{item.item_id}/{number}", prompt=prompt)
            for number, ((item, _, _), prompt) in enumerate(zip(pairs, prompts, strict=True))
        ]
        predictions = (one for batch in evaluator.predict(asked) for one in batch)
        for (item, _, truth), prediction in zip(pairs, predictions, strict=True):
            read = extract_box(prediction.response, prediction.finished)
            size = written_size(replace(item, processed_size=prediction.size), parse_frame(self.frame), truth)
            box = None if read.xyxy is None else in_file(read.xyxy, size, truth)
            yield item, 0.0 if box is None else box_iou(box, truth)

    def section(self, measured: pd.DataFrame) -> Section:
        """Accuracy by bin of IoU; mean IoU and share found of right and of wrong answers."""
        tables = []
        for name, rows in measured.assign(all="all").groupby("policy", sort=False):
            answers = rows.assign(answer=np.where(rows["correct"] == 1, "right answers", "wrong answers"))
            measures = {"IoU of the queried object": "iou", "IoU of 0.5 or more": "found"}
            parts = [paired_table(answers, measures, "answer"), paired_table(rows, {"accuracy": "correct"}, "bin")]
            part = pd.concat(parts, ignore_index=True).rename(columns={str(name): "value"})
            tables.append(part.assign(measure=f"{name}: " + part["measure"]))
        figure, (left, right) = panels(2)
        order = {name: place for place, name in enumerate(BINS)}
        bars(left, measured.sort_values("bin", key=lambda column: column.map(order), kind="stable"), "bin", "correct")
        left.set_xlabel("IoU of the queried object")
        left.set_ylabel("accuracy")
        histogram(right, measured, "iou")
        return Section("Grounding against answers", TEXT, pd.concat(tables, ignore_index=True), [as_picture(figure)])


def bin_of(iou: float) -> str:
    """The paper's three bins."""
    return "[0.5, 1]" if iou >= 0.5 else "(0, 0.5)" if iou > 0 else "0"
