"""Several tasks' held-out examples, whatever a policy was trained on: what does one task teach of the others?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

import pandas as pd

from locus.analysis.diagnoses.shared import predicted
from locus.analysis.pages.page import Section
from locus.analysis.tables import paired_table
from locus.boxes import parse_frame
from locus.errors import LocusError, whole
from locus.evaluation.benchmark import TaskBenchmark
from locus.evaluation.evaluator import Evaluator
from locus.tasks.task import Task

TEXT = (
    "Greedy answers to held-out examples of each task, graded as in training; the score is the task's own headline. "
    "Chance is what the best policy earns that sees no picture. Examples of one image are drawn together for the "
    "intervals."
)


@dataclass(frozen=True)
class ProxyTasks:
    """What a policy earns in each of several tasks.

    Args:
        tasks: name -> task, whose validation examples are asked.
        frame: in which the policy writes boxes.
        limit: examples of each task, its first; None for all.
    """

    tasks: Mapping[str, Task]
    frame: str
    limit: int | None = None
    name: str = "proxy_tasks"

    def __post_init__(self) -> None:
        """Raises LocusError for a limit that is none, and where there is no task."""
        if self.limit is not None:
            whole(f"{self.name}.limit", self.limit)
        if not self.tasks:
            raise LocusError(f"{self.name}.tasks is empty: give one, as conf/analysis/proxy_tasks.yaml does")
        parse_frame(self.frame)

    def measure(self, evaluator: Evaluator) -> pd.DataFrame:
        """Columns: task, item, unit (the image), score (the headline of its grade, in [0, 1]), chance (of the task on
        these items; none where it is unknown), response."""
        rows = []
        for name, benchmark in self._benchmarks().items():
            task, items = benchmark.task, list(islice(benchmark.items(), self.limit))
            chance = task.chance([item.example for item in items])
            for item, prediction in zip(items, predicted(evaluator, items, name), strict=True):
                grade = task.grade(item.example, prediction.as_response, prediction.view(self.frame))
                row: dict[str, Any] = {"task": name, "item": f"{name}/{item.item_id}", "unit": item.groups["image"]}
                row |= {"score": task.summary([grade])[task.headline], "chance": chance}
                rows.append(row | {"response": prediction.response})
        return pd.DataFrame(rows).astype({"chance": float})

    def section(self, measured: pd.DataFrame) -> Section:
        """A row a task: its headline, with chance beside it."""
        tables = []
        for name, rows in measured.groupby("task", sort=False):
            task = self.tasks[str(name)]
            table = paired_table(rows, {str(name): "score"}).assign(chance=rows["chance"].iloc[0])
            tables.append(table.assign(of=task.labels.get(task.headline, task.headline)))
        return Section("Proxy tasks", TEXT, pd.concat(tables, ignore_index=True))

    def _benchmarks(self) -> Mapping[str, TaskBenchmark]:
        """The tasks as they are asked."""
        return {name: TaskBenchmark(task, self.frame) for name, task in self.tasks.items()}
