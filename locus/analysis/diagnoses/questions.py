"""Questions about generated scenes without any cue: what a policy can do beside the task it is trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from locus.analysis.diagnoses.shared import predicted
from locus.analysis.pages.page import Section
from locus.analysis.tables import paired_table
from locus.boxes import parse_frame
from locus.errors import LocusError
from locus.evaluation.benchmarks.scenes import item_of, scene_picture, scene_verdict
from locus.evaluation.evaluator import Evaluator
from locus.evaluation.reading.extractors import LOCUS
from locus.scenes.questions import Ask, AskedScene, draw_in_turn, kinds_of
from locus.scenes.source import SceneSource

TEXT = (
    "Accuracy of greedy answers to the same questions (text grounding: IoU of at least 0.5). No question needs a cue. "
    "The benchmarks of a family ask about the same scenes, and those of one scene are drawn together for the intervals."
)


@dataclass(frozen=True)
class Family:
    """Benchmarks about one family of scenes.

    Args:
        source: of the scenes.
        questions: of each benchmark, spread evenly over its kinds.
        benchmarks: name -> kinds.
    """

    source: SceneSource
    questions: int
    benchmarks: Mapping[str, Sequence[str | Ask]]

    def __post_init__(self) -> None:
        """Raises LocusError for an unknown kind, or fewer questions than kinds."""
        for name, kinds in self.benchmarks.items():
            if self.questions < len(kinds_of(kinds)):
                raise LocusError(f"questions={self.questions}: {name} alone has {len(kinds)} kinds; give one of each")

    def draw(self, seed: int) -> list[tuple[str, AskedScene]]:
        """(benchmark, question), scene by scene: the first ``questions`` scenes have about one of each benchmark."""
        drawn = []
        for name, kinds in self.benchmarks.items():
            even, more = divmod(self.questions, len(kinds))
            numbers = [even + (place < more) for place in range(len(kinds))]
            drawn += [(name, asked) for asked in draw_in_turn(self.source, kinds_of(kinds), numbers, seed)]
        return sorted(drawn, key=lambda each: each[1].index)


@dataclass(frozen=True)
class Questions:
    """Benchmarks of several families of scenes, drawn alike for a seed.

    Args:
        families: name -> scenes and benchmarks.
        frame: in which the policy writes boxes.
        seed: of the questions.
    """

    families: Mapping[str, Family]
    frame: str
    seed: int = 1
    name: str = "questions"

    def __post_init__(self) -> None:
        parse_frame(self.frame)

    def measure(self, evaluator: Evaluator) -> pd.DataFrame:
        """Columns: item, unit (the scene), family, benchmark, kind, question, response, score."""
        rows = []
        for family, scenes in self.families.items():
            drawn, items = scenes.draw(self.seed), []
            for _, asked in drawn:
                key = f"{family}/{asked.question.kind}-{asked.index}"
                items.append(item_of(asked.scene, asked.question, key, scene_picture(scenes.source, asked.index)))
            predictions = predicted(evaluator, items, f"{family} scenes")
            for (benchmark, asked), item, prediction in zip(drawn, items, predictions, strict=True):
                row = {"item": item.item_id, "unit": scenes.source.path(asked.index), "family": family}
                row |= {"benchmark": benchmark, "kind": asked.question.kind}
                row |= {"question": item.prompt, "response": prediction.response}
                verdict = scene_verdict(item, prediction.as_response, prediction.view(self.frame), LOCUS)
                rows.append(row | {"score": verdict.correct})
        return pd.DataFrame(rows)

    def section(self, measured: pd.DataFrame) -> Section:
        """Of each family a row for all its questions, and a row a benchmark where it has several."""
        tables = []
        for family, rows in measured.groupby("family", sort=False):
            table = paired_table(rows, {str(family): "score"}, "benchmark")
            tables.append(table if len(table) > 1 else table.assign(of=rows["benchmark"].iloc[0]))
        return Section("Questions without a cue", TEXT, pd.concat(tables, ignore_index=True))
