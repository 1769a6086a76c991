"""How much context can the same evidence stand? The canvas and the number of distractors grow around it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from locus.analysis.attention import attention_in_box
from locus.analysis.diagnoses.shared import maps_at_answer
from locus.analysis.plots import as_picture, curves, panels
from locus.analysis.report import Section
from locus.analysis.tables import paired_table
from locus.data.scene_questions import Ask, SceneQuestion
from locus.data.scene_rendering import render
from locus.data.scenes import Scene, SceneObject, SceneSource
from locus.errors import LocusError
from locus.evaluation.evaluator import Evaluator
from locus.evaluation.items import Item
from locus.evaluation.questions import draw_questions
from locus.evaluation.scene_benchmarks import item_of, picture_of, word_verdict
from locus.types import Box

TEXT = (
    "The same questions about the same objects, pixel for pixel, in scenes that grow around them: larger canvas, more "
    "distractors. Attention over area is the share of attention in the evidence box against the box's own share."
)


@dataclass(frozen=True)
class ContextRot:
    """Accuracy and attention in box against the amount of context.

    Args:
        core: scenes that the questions are about, of the smallest canvas.
        surroundings: scenes of the larger canvases, smallest first; their objects are the distractors.
        kinds: of questions, about attributes.
        questions: of each kind, each asked on every canvas.
        seed: of questions and places.
    """

    core: SceneSource
    surroundings: Sequence[SceneSource]
    kinds: Sequence[Ask]
    questions: int
    seed: int = 1
    name: str = "context_rot"

    def measure(self, evaluator: Evaluator) -> pd.DataFrame:
        """Columns: item, kind, response, side (of the canvas, pixels), objects, correct, mean (attention in box),
        over_area, peak.

        Raises LocusError where the processor changes a canvas's size: the evidence would not keep its pixels.
        """
        items = list(self._items())
        predictions = [one for batch in evaluator.predict(items) for one in batch]
        maps = maps_at_answer(evaluator, items, [prediction.response for prediction in predictions])
        rows = []
        for item, prediction, layers in zip(items, predictions, maps, strict=True):
            side = int(item.groups["side"])
            if prediction.size != (side, side):
                raise LocusError(
                    f"context_rot: a canvas of {side} px is shown to the policy in {prediction.size[0]} px: set "
                    "analysis.surroundings to sizes within the processor's limits, in whole patches"
                )
            verdict = word_verdict(item, prediction.response, prediction.finished, "locus")
            share = attention_in_box(layers, item.evidence)
            row = {"item": item.item_id.split("/")[0], "kind": item.groups["kind"], "side": side}
            row["response"] = prediction.response
            row |= {"objects": int(item.groups["objects"]), "correct": verdict.correct, "mean": share.mean}
            rows.append(row | {"over_area": share.mean / share.area, "peak": share.peak})
        return pd.DataFrame(rows)

    def _items(self) -> Iterator[Item]:
        """Every question on every canvas."""
        for ask in self.kinds:
            for number, entry in enumerate(draw_questions(self.core, ask, self.questions, self.seed)):
                rng = np.random.default_rng([self.seed, number])
                grown = [(entry.scene, entry.question)]
                grown += [grow(*grown[0], source.scene(number), rng) for source in self.surroundings]
                for scene, question in grown:
                    key = f"{question.kind}-{number}/{scene.width}"
                    groups = {"side": str(scene.width), "objects": str(len(scene.objects))}
                    yield item_of(scene, question, key, picture_of(key, render(scene)), **groups)

    def section(self, measured: pd.DataFrame) -> Section:
        """A row a canvas and measure; curves over the canvas's side."""
        measured = measured.assign(item=measured["item"] + "/" + measured["side"].astype(str))
        measures = {"accuracy": "correct", "attention in box": "mean", "attention over area": "over_area"}
        measures |= {"objects": "objects"}
        figure, axes = panels(3, width=4)
        for one, (label, column) in zip(axes, list(measures.items())[:3], strict=True):
            curves(one, measured, "side", column)
            one.set_ylabel(label)
            one.set_xlabel("side of the canvas, pixels")
        return Section("Context rot", TEXT, paired_table(measured, measures, "side"), [as_picture(figure)])


def grow(scene: Scene, question: SceneQuestion, around: Scene, rng: np.random.Generator) -> tuple[Scene, SceneQuestion]:
    """The scene's objects somewhere within a larger scene, whose own objects stay where they leave room.

    An object that shares two words with an evidence object goes: the question could mean it, too.
    """
    left = int(rng.integers(around.width - scene.width + 1))
    top = int(rng.integers(around.height - scene.height + 1))

    def moved(box: Box) -> Box:
        x1, y1, x2, y2 = box.xyxy
        return replace(
            box, x1=x1 + left, y1=y1 + top, x2=x2 + left, y2=y2 + top, width=around.width, height=around.height
        )

    asked = [item for item in scene.objects if item.box in question.evidence]
    window = (left, top, left + scene.width, top + scene.height)
    others = [item for item in around.objects if not _meets(item.box, window) and not _confusable(item, asked)]
    kept = [replace(item, box=moved(item.box)) for item in scene.objects]
    evidence = tuple(moved(box) for box in question.evidence)
    return replace(around, objects=(*kept, *others)), replace(question, evidence=evidence)


def _meets(box: Box, window: tuple[float, float, float, float]) -> bool:
    return box.x1 < window[2] and window[0] < box.x2 and box.y1 < window[3] and window[1] < box.y2


def _confusable(item: SceneObject, asked: Sequence[SceneObject]) -> bool:
    alike = (sum(one == other for one, other in zip(item.attributes, each.attributes, strict=True)) for each in asked)
    return any(number >= 2 for number in alike)
