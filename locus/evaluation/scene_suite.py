"""What a policy can do without a cue: questions about held-out scenes, with small objects and large, and about the same
scenes with all but the evidence blacked out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
from PIL import Image

from locus.data.collate import QuestionCollator
from locus.data.scene_questions import Ask
from locus.data.scene_rendering import render
from locus.data.scenes import SceneSource
from locus.evaluation.questions import AskedScene, ask_policy, draw_questions
from locus.models.vlm import VLM


@dataclass(frozen=True)
class SceneBenchmark:
    """One benchmark: questions of some kinds about one family of scenes.

    Example: ``SceneBenchmark("attributes", source, (colour, shape, pattern), 400)``.
    """

    name: str
    source: SceneSource
    kinds: Sequence[Ask]
    questions: int
    """Of each kind; each about a scene of its own."""
    suppressed: bool = False
    """Black out all but the evidence boxes (context suppression, paper, Table 1)."""
    attention: bool = False
    """Measure also where the policy looks (`analysis.attention`)."""

    def draw(self, seed: int) -> list[AskedScene]:
        """The questions, the same for a seed."""
        return [entry for ask in self.kinds for entry in draw_questions(self.source, ask, self.questions, seed)]

    def images(self, asked: Sequence[AskedScene]) -> list[Image.Image]:
        """Their pictures."""
        pictures = [render(entry.scene) for entry in asked]
        if not self.suppressed:
            return pictures
        return [only_evidence(picture, entry) for picture, entry in zip(pictures, asked, strict=True)]


@dataclass(frozen=True)
class SceneSuite:
    """All benchmarks of a run's report."""

    benchmarks: Sequence[SceneBenchmark]
    seed: int

    def __call__(self, policy: VLM, collator: QuestionCollator) -> pd.DataFrame:
        """One row a question: benchmark, kind, question, expected, text, score (0 or 1), iou (grounding only)."""
        rows = []
        for benchmark in self.benchmarks:
            asked = benchmark.draw(self.seed)
            results = ask_policy(policy, asked, collator, benchmark.images(asked))
            rows += [{"benchmark": benchmark.name, **vars(result)} for result in results]
        return pd.DataFrame(rows)


def only_evidence(picture: Image.Image, entry: AskedScene) -> Image.Image:
    """The picture, black outside the evidence boxes; same canvas and scale."""
    sheet = Image.new("RGB", picture.size)
    for box in entry.question.evidence:
        region = tuple(round(value) for value in box.xyxy)
        sheet.paste(picture.crop(region), region[:2])
    return sheet
