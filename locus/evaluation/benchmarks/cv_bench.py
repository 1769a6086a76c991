"""CV-Bench: counting and relations in 2D, depth and distance in 3D."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from locus.errors import LocusError
from locus.evaluation.benchmark import Item, Picture
from locus.evaluation.benchmarks.choice import ChoiceBenchmark, letter_of, lettered, options_in
from locus.evaluation.benchmarks.readers import Row
from locus.evaluation.statistics import Statistic, accuracy, mean_of
from locus.types import Box, Frame

SOURCES = ("ADE20K", "COCO", "Omni3D")
TASKS = ("Count", "Relation", "Depth", "Distance")
BOXES = ("xyxy", "xywh", "none")


@dataclass(frozen=True)
class CVBench(ChoiceBenchmark):
    """CV-Bench (Tong et al. 2024) from the folder of its two parquet files, or of VLMEvalKit's two TSVs.

    Prompt: the official one, the file's ``prompt`` column as it is, options in it. Omni3D rows of the parquet have
    evidence boxes; the same boxes are drawn into their pictures, so that looking there needs no search.
    """

    name: str = "cv_bench"
    rows: int | None = 2638
    boxes: str = "xyxy"
    """How the file gives boxes, in pixels: ``xyxy``, ``xywh``, or ``none`` to leave them out."""

    headline: ClassVar[str] = "formula"
    letters: ClassVar[str] = "ABCDEF"
    columns: ClassVar = (
        *(("idx", "index"), ("type", "split"), "task", "source"),
        *(("image", "image_path", "filename"), "prompt", "answer"),
    )
    tsv_columns: ClassVar = columns

    def __post_init__(self) -> None:
        if self.boxes not in BOXES:
            raise LocusError(f"boxes={self.boxes} of {self.name}: pass one of {', '.join(BOXES)}")

    def statistics(self) -> Mapping[str, Statistic]:
        """The official formula, of which 2d and 3d are the halves; over all rows; the mean of the tasks, and each."""
        two = mean_of(accuracy(source="ADE20K"), accuracy(source="COCO"))
        three = accuracy(source="Omni3D")
        tasks = {task.lower(): accuracy(task=task) for task in TASKS}
        means = {"formula": mean_of(two, three), "2d": two, "3d": three}
        return {**means, "flat": accuracy(), "task_mean": mean_of(*tasks.values()), **tasks}

    def _item(self, row: Row) -> Item:
        side, prompt = row.text("type", "split"), row.text("prompt")
        options = row.options() or lettered(row.listed("choices")) or options_in(prompt)
        pictures = row.pictures("image", "image_path", "filename")
        groups = {"side": side, "task": row.text("task"), "source": _source(row)}
        # Both files may number from 0.
        item_id, answer = f"{side}-{row.text('idx', 'index')}", letter_of(row, "answer")
        return Item(item_id, prompt, answer, pictures, options, groups, self._evidence(row, pictures[0]))

    def _evidence(self, row: Row, picture: Picture) -> tuple[Box, ...]:
        listed = [] if self.boxes == "none" else row.listed("bbox")
        if not listed:
            return ()
        width, height = picture.size
        boxes = [listed] if not isinstance(listed[0], list | tuple) else listed
        corners = []
        for box in boxes:
            x1, y1, x2, y2 = row.numbers("bbox", box, ", or pass boxes=none")
            if self.boxes == "xywh":
                x2, y2 = x1 + x2, y1 + y2
            # A pixel beyond the edge is rounding; more is another layout, and its boxes would all be wrong.
            if not (-1 <= x1 < x2 <= width + 1 and -1 <= y1 < y2 <= height + 1):
                raise row.error(
                    f"bbox {box} is not {self.boxes} in {width} x {height} pixels; pass boxes=xywh, or boxes=none"
                )
            corners.append((max(x1, 0.0), max(y1, 0.0), min(x2, width), min(y2, height)))
        return tuple(Box(*corner, Frame.FILE, width, height) for corner in corners)


def _source(row: Row) -> str:
    """One of `SOURCES`; some files name the part of Omni3D as well. Another would be of no part of the formula."""
    source = "Omni3D" if row.text("source").startswith("Omni3D") else row.text("source")
    return row.known("source", source, SOURCES)
