"""TreeBench: questions about small things in crowded pictures, with the boxes that an answer stands on."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from locus.boxes import box_iou, is_valid, parse_frame
from locus.evaluation.benchmark import Item, Verdict
from locus.evaluation.benchmarks.choice import SELECT, VLMEVALKIT_COLUMNS, ChoiceBenchmark, vlmevalkit_item
from locus.evaluation.benchmarks.readers import Row
from locus.evaluation.reading.extractors import VLMEVALKIT, Extractor, place_in_view
from locus.evaluation.reading.responses import Extracted
from locus.evaluation.reading.vlmevalkit import capital_behind_prefixes
from locus.evaluation.statistics import Statistic, accuracy, by_column
from locus.types import Box, Frame, Response, View

ABILITIES = {
    "perception": ("Attributes", "Material", "Physical State", "Object Retrieval", "OCR"),
    "reasoning": ("Perspective Transform", "Ordering", "Contact and Occlusion", "Spatial Containment", "Comparison"),
}
DIRECTLY = "Answer with the correct option's letter directly. \n"
"""VLMEvalKit's instruction for it, with its trailing space."""
_SIDE = r"\s*(\d+(?:\.\d+)?)\s*"
_WRITTEN = re.compile(rf"<box>\s*\[{','.join([_SIDE] * 4)}\]")
"""Ours: fractions, too, which policies write whose frame is ``unit``."""
_STRICT = re.compile(r"<box>\s*\[(\d+),(\d+),(\d+),(\d+)\]")


@dataclass(frozen=True)
class TreeBench(ChoiceBenchmark):
    """TreeBench (Wang et al. 2025) from its TSV. Prompt: VLMEvalKit's for it, which asks for no boxes.

    Boxes that a policy writes all the same, as ``<box>[x1,y1,x2,y2]</box>``, are compared with the target boxes; in the
    column of VLMEvalKit they are taken for pixels of the file, in ours they are in the policy's own frame.
    """

    name: str = "treebench"
    rows: int | None = 405
    box_frame: str | None = None
    """The frame in which the policy writes boxes (``backbone.frame``); None: nobody says, and our column has no IoU."""

    letters: ClassVar[str] = "ABCDE"
    tsv_columns: ClassVar = (*VLMEVALKIT_COLUMNS, "category", "target_instances")
    columns: ClassVar = tsv_columns

    def __post_init__(self) -> None:
        if self.box_frame is not None:
            parse_frame(self.box_frame)

    @property
    def frame(self) -> str:
        """That of predictions that name none. It is no key ``frame``: those are of benchmarks that ask for boxes."""
        return self.box_frame or Frame.FILE

    def judge(self, item: Item, response: Response, view: View, extractor: Extractor) -> Verdict:
        """By letter, VLMEvalKit's the first capital from A to E; column ``iou``: over target boxes, of the nearest."""
        kit = extractor.name == VLMEVALKIT.name
        verdict = super().judge(item, response, view, extractor)
        if kit or self.box_frame is not None or view.frame is not Frame.FILE:
            boxes = written_boxes(response.text, View(Frame.FILE) if kit else view, item, _STRICT if kit else _WRITTEN)
            iou = mean_iou(item.evidence, boxes)
        else:
            iou = math.nan
        return replace(verdict, columns={**verdict.columns, "iou": iou})

    def _letter(self, response: Response, options: Mapping[str, str], extractor: Extractor) -> Extracted:
        return (
            capital_behind_prefixes(response)
            if extractor.name == VLMEVALKIT.name
            else super()._letter(response, options, extractor)
        )

    def statistics(self) -> Mapping[str, Statistic]:
        """Over all rows, the mean IoU, of both halves and of each of the ten abilities."""
        scores = {"accuracy": accuracy(), "mean_iou": by_column("iou", accuracy())}
        for half, abilities in ABILITIES.items():
            scores[half] = accuracy(half=half)
            scores |= {one.lower().replace(" ", "_"): accuracy(ability=one) for one in abilities}
        return scores

    def _item(self, row: Row) -> Item:
        half, _, ability = row.text("category").partition("/")
        half = row.known("the first half of category", half.lower(), ABILITIES)
        groups = {"half": half, "ability": row.known("the second half of category", ability, ABILITIES[half])}
        item = vlmevalkit_item(row, groups)
        prompt = item.prompt.removesuffix(SELECT) + (DIRECTLY if item.options else "")
        return replace(item, prompt=prompt, evidence=self._evidence(row, item))

    def _evidence(self, row: Row, item: Item) -> tuple[Box, ...]:
        width, height = item.pictures[0].size
        corners = [row.numbers("target_instances", box) for box in row.listed("target_instances")]
        inside = [(max(a, 0.0), max(b, 0.0), min(c, width), min(d, height)) for a, b, c, d in corners]
        if not all(map(is_valid, inside)):
            raise row.error(f"target_instances {corners} are not boxes in {width} x {height} pixels; fetch it again")
        return tuple(Box(*box, Frame.FILE, width, height) for box in inside)


def written_boxes(text: str, view: View, item: Item, form: re.Pattern[str]) -> list[Box]:
    """The boxes of that form in a response, in the file frame; those with their corners exchanged are none.

    Nor are those in the processed frame where nobody says its size.
    """
    if not item.evidence or (view.frame is Frame.PROCESSED and view.processed is None):
        return []
    corners = [tuple(map(float, match)) for match in form.findall(text)]
    placed = (place_in_view((a, b, c, d), view, item.evidence[0]) for a, b, c, d in corners if a < c and b < d)
    return [box for box in placed if box is not None]


def mean_iou(targets: tuple[Box, ...], boxes: list[Box]) -> float:
    """Mean over the targets of the IoU of the nearest box; 0 without any."""
    if not targets or not boxes:
        return 0.0
    return float(np.mean([max(box_iou(target, box) for box in boxes) for target in targets]))
