"""Questions about generated scenes without any cue: what a policy can do beside the task it is trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from locus.analysis.report import Section
from locus.analysis.tables import paired_table
from locus.evaluation.evaluator import Evaluator
from locus.evaluation.questions import ask_policy
from locus.evaluation.scene_suite import SceneBenchmark

TEXT = (
    "Accuracy of greedy answers to the same questions (text grounding: IoU of at least 0.5). No question needs a cue."
)


@dataclass(frozen=True)
class Questions:
    """Several `SceneBenchmark`, drawn alike for a seed."""

    benchmarks: Sequence[SceneBenchmark]
    seed: int = 1
    name: str = "questions"

    def measure(self, evaluator: Evaluator) -> pd.DataFrame:
        """Columns: item, benchmark, and those of `QuestionResult`."""
        rows = []
        for benchmark in self.benchmarks:
            asked = benchmark.draw(self.seed)
            results = ask_policy(evaluator.policy, asked, evaluator.collator, benchmark.images(asked))
            named = {"benchmark": benchmark.name}
            rows += [{"item": f"{benchmark.name}-{n}", **named, **vars(result)} for n, result in enumerate(results)]
        return pd.DataFrame(rows)

    def section(self, measured: pd.DataFrame) -> Section:
        """A row a benchmark, and a row each of its kinds where it has several."""
        groups = measured.groupby("benchmark", sort=False)
        tables = [paired_table(rows, {str(name): "score"}, "kind") for name, rows in groups]
        return Section("Questions without a cue", TEXT, pd.concat(tables, ignore_index=True))
