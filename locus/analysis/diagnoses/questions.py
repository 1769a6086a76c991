"""Questions about generated scenes without any cue: what a policy can do beside the task it is trained on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd

from locus.analysis.diagnoses.shared import answered, kind_of, unit_of
from locus.analysis.pages.page import Section
from locus.analysis.tables import paired_table
from locus.evaluation.benchmarks.scenes import SceneBenchmark, SceneQuestions
from locus.evaluation.evaluator import Evaluator

TEXT = (
    "Accuracy of greedy answers to the same questions (text grounding: IoU of at least 0.5). No question needs a cue."
)


@dataclass(frozen=True)
class Questions:
    """Several `SceneBenchmark` by name, drawn alike for a seed; ``frame`` is the one the policy writes boxes in."""

    benchmarks: Mapping[str, SceneBenchmark]
    frame: str
    seed: int = 1
    name: str = "questions"

    def measure(self, evaluator: Evaluator) -> pd.DataFrame:
        """Columns: item, unit (the scene), benchmark, kind, question, response, score."""
        rows = []
        for scenes in self.benchmarks.values():
            benchmark = SceneQuestions(scenes.name, scenes, self.frame, self.seed)
            for item, prediction, verdict in answered(evaluator, benchmark, benchmark.items()):
                row = {"item": item.item_id, "unit": unit_of(benchmark, verdict), "benchmark": scenes.name}
                row |= {"kind": kind_of(item), "question": item.prompt, "response": prediction.response}
                rows.append(row | {"score": verdict.correct})
        return pd.DataFrame(rows)

    def section(self, measured: pd.DataFrame) -> Section:
        """A row a benchmark, and a row each of its kinds where it has several."""
        groups = measured.groupby("benchmark", sort=False)
        tables = [paired_table(rows, {str(name): "score"}, "kind") for name, rows in groups]
        return Section("Questions without a cue", TEXT, pd.concat(tables, ignore_index=True))
