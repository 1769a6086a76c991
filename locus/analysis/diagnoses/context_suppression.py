"""The same questions with all but the evidence blacked out: does the context hinder? (paper, Table 1)"""

from __future__ import annotations

import io
from dataclasses import dataclass, replace

import pandas as pd

from locus.analysis.diagnoses.shared import answered, kind_of, located, unit_of
from locus.analysis.pages.page import Section
from locus.analysis.plots import as_picture, bars, panels
from locus.analysis.tables import paired_table
from locus.evaluation.benchmark import Benchmark, Item, Picture
from locus.evaluation.evaluator import Evaluator
from locus.scenes.render import only_boxes

TEXT = (
    "Accuracy on whole images and with everything outside the evidence boxes black; canvas and scale stay. Where the "
    "second is higher, the policy is distracted by what it does not need."
)
FULL, SUPPRESSED = "full", "suppressed"


@dataclass(frozen=True)
class ContextSuppression:
    """Questions about images with and without their context.

    Args:
        benchmark: whose items have evidence boxes.
        limit: items; null for all.
    """

    benchmark: Benchmark
    limit: int | None = None
    name: str = "context_suppression"

    def measure(self, evaluator: Evaluator) -> pd.DataFrame:
        """Columns: item, unit, kind, image (full or suppressed), response, correct."""
        items = located(self.benchmark, self.limit)
        rows, units = [], dict[str, str]()
        for image, shown in ((FULL, items), (SUPPRESSED, [suppressed(item) for item in items])):
            for item, prediction, verdict in answered(evaluator, self.benchmark, shown):
                # The whole picture's: the suppressed one is another, and no two items share it.
                unit = units.setdefault(item.item_id, unit_of(self.benchmark, verdict))
                row = {"item": item.item_id, "unit": unit, "kind": kind_of(item)}
                rows.append(row | {"image": image, "response": prediction.response, "correct": verdict.correct})
        return pd.DataFrame(rows)

    def section(self, measured: pd.DataFrame) -> Section:
        """A row a policy and kind: full against suppressed."""
        groups = measured.groupby("policy", sort=False)
        tables = [paired_table(rows, {str(name): "correct"}, "kind", over="image") for name, rows in groups]
        figure, axes = panels(len(groups))
        for one, (name, rows) in zip(axes, groups, strict=True):
            bars(one, rows, "kind", "correct", over="image")
            one.set_title(str(name), fontsize="medium")
            one.set_ylabel("accuracy")
        table = pd.concat(tables, ignore_index=True)
        return Section("Context suppression", TEXT, table, [as_picture(figure)], judged=False)


def suppressed(item: Item) -> Item:
    """The item with its first picture black outside the evidence boxes."""
    first, *others = item.pictures
    key = f"{first.key}, only {[box.xyxy for box in item.evidence]}"  # questions about one picture have other boxes
    only_boxes(first.open(), item.evidence).save(buffer := io.BytesIO(), "PNG")
    return replace(item, pictures=(Picture(key, buffer.getvalue()), *others))
