"""BLINK: 14 tasks of seeing, with up to four pictures in a question."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

from locus.evaluation.benchmark import Item
from locus.evaluation.benchmarks.choice import (
    VLMEVALKIT_COLUMNS,
    ChoiceBenchmark,
    letter_of,
    lettered,
    mean_over,
    vlmevalkit_item,
)
from locus.evaluation.benchmarks.readers import Row
from locus.evaluation.statistics import Statistic, accuracy

TASKS = (
    *("Art_Style", "Counting", "Forensic_Detection", "Functional_Correspondence", "IQ_Test", "Jigsaw"),
    *("Multi-view_Reasoning", "Object_Localization", "Relative_Depth", "Relative_Reflectance"),
    *("Semantic_Correspondence", "Spatial_Relation", "Visual_Correspondence", "Visual_Similarity"),
)
IMAGES = ("image_1", "image_2", "image_3", "image_4")


@dataclass(frozen=True)
class BLINK(ChoiceBenchmark):
    """The 1,901 validation questions of BLINK (Fu et al. 2024), from its folder of parquet files or VLMEvalKit's TSV.

    Rows without an answer (the test files, which lie beside the others) are left out. Prompt: the official one, the
    file's ``prompt`` column with options in it; of a TSV VLMEvalKit's default. Pictures come first, in their order.
    """

    name: str = "blink"
    rows: int | None = 1901

    headline: ClassVar[str] = "task_mean"
    columns: ClassVar = ("idx", "sub_task", IMAGES[0], "prompt", "choices", "answer")
    tsv_columns: ClassVar = (*VLMEVALKIT_COLUMNS, "category")

    def statistics(self) -> Mapping[str, Statistic]:
        """The mean of the tasks (the official total), over all rows (VLMEvalKit's overall), and of each task."""
        tasks = {task.lower().replace("-", "_"): accuracy(task=task) for task in TASKS}
        return {"task_mean": mean_over("task"), "accuracy": accuracy(), **tasks}

    def _rows(self) -> Iterator[Row]:
        return (row for row in super()._rows() if row.text("answer") != "hidden")

    def _item(self, row: Row) -> Item:
        task = row.text("category", "sub_task").strip().replace(" ", "_")
        groups = {"task": row.known("the task", task, TASKS)}
        if row.file.suffix == ".tsv":
            return vlmevalkit_item(row, groups)
        pictures = tuple(row.pictures(name)[0] for name in IMAGES if row.cells.get(name) is not None)
        options, answer = lettered(row.listed("choices")), letter_of(row, "answer")
        return Item(row.text("idx"), row.text("prompt"), answer, pictures, options, groups)
