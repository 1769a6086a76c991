"""How much context can the same evidence stand? The canvas and the number of distractors grow around it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from locus.analysis.attention import attention_in_box
from locus.analysis.diagnoses.shared import looked
from locus.analysis.pages.page import Section
from locus.analysis.plots import as_picture, curves, panels
from locus.analysis.tables import paired_table
from locus.errors import LocusError
from locus.evaluation.benchmark import Item, picture_of
from locus.evaluation.benchmarks.scenes import item_of, word_verdict
from locus.evaluation.evaluator import Evaluator
from locus.evaluation.reading.extractors import LOCUS
from locus.scenes.questions import Ask, SceneQuestion, draw_questions, kinds_of
from locus.scenes.render import render
from locus.scenes.scene import Scene, SceneObject
from locus.scenes.source import SceneSource, in_order
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
    surroundings: Sequence[SceneSource] | Mapping[str, SceneSource]
    kinds: Sequence[str | Ask]
    questions: int
    seed: int = 1
    name: str = "context_rot"

    def __post_init__(self) -> None:
        """Raises LocusError for an unknown kind, and for a canvas that the core's scenes do not fit in."""
        kinds_of(self.kinds)
        canvases = in_order(self.surroundings)
        small = [one for one in canvases if one.width < self.core.width or one.height < self.core.height]
        if small:
            raise LocusError(
                f"analysis.surroundings: {small[0].width}x{small[0].height} is smaller than analysis.core, "
                f"{self.core.width}x{self.core.height}"
            )

    def measure(self, evaluator: Evaluator) -> pd.DataFrame:
        """Columns: item, unit (the question), kind, response, canvas (width x height), width, objects, correct,
        attention_in_box, over_area, peak_in_box.

        Raises LocusError where the processor changes a canvas's size: the evidence would not keep its pixels.
        """
        items = list(self._items())
        for canvas, item in {item.groups["canvas"]: item for item in items}.items():
            shown = evaluator.ask(item).prompt.processed_size
            if f"{shown[0]:g}x{shown[1]:g}" != canvas:
                raise LocusError(
                    f"context_rot: a canvas of {canvas} is shown to the policy as {shown[0]:g}x{shown[1]:g}: give core "
                    "and surroundings sizes in whole patches within the limits of the processor and of pixels"
                )
        rows = []
        for item, (prediction, layers) in zip(items, looked(evaluator, items), strict=True):
            verdict = word_verdict(item, prediction.as_response, LOCUS)
            share = attention_in_box(layers, item.evidence)
            row: dict[str, Any] = {"item": item.item_id, "unit": item.item_id.split("/")[0]}
            row["response"] = prediction.response
            row |= {name: item.groups[name] for name in ("kind", "canvas")}
            row |= {name: int(item.groups[name]) for name in ("width", "objects")}
            row |= {"correct": verdict.correct, "attention_in_box": share.mean}
            rows.append(row | {"over_area": share.mean / share.area, "peak_in_box": share.peak})
        return pd.DataFrame(rows)

    def _items(self) -> Iterator[Item]:
        """Every question on every canvas."""
        for ask in kinds_of(self.kinds):
            for number, entry in enumerate(draw_questions(self.core, ask, self.questions, self.seed)):
                rng = np.random.default_rng([self.seed, number])
                grown = [(entry.scene, entry.question)]
                grown += [grow(*grown[0], source.scene(number), rng) for source in in_order(self.surroundings)]
                for place, (scene, question) in enumerate(grown):
                    key = f"{question.kind}-{number}/{place}"
                    groups = {"canvas": f"{scene.width}x{scene.height}", "width": str(scene.width)}
                    groups["objects"] = str(len(scene.objects))
                    yield item_of(scene, question, key, picture_of(key, render(scene)), **groups)

    def section(self, measured: pd.DataFrame) -> Section:
        """Of each policy, every canvas and the change from the first to the last; curves over the number of objects."""
        measures = {"accuracy": "correct", "attention in box": "attention_in_box", "attention over area": "over_area"}
        tables = []
        for name, rows in measured.assign(place=measured["item"].str.split("/").str[-1]).groupby("policy", sort=False):
            labels = rows.groupby("place").agg({"canvas": "first", "objects": "mean"})
            shown = {place: f"{row.canvas}, {row.objects:.1f} objects" for place, row in labels.iterrows()}
            paired = rows.assign(item=rows["unit"], canvas=rows["place"].map(shown))
            table = paired_table(
                paired, {f"{name}: {label}": column for label, column in measures.items()}, over="canvas"
            )
            tables.append(table)
        figure, axes = panels(3, width=4)
        for one, (label, column) in zip(axes, measures.items(), strict=True):
            curves(one, measured, "width", column)
            one.set_ylabel(label)
            one.set_xlabel("width of the canvas, pixels")
        return Section("Context rot", TEXT, pd.concat(tables, ignore_index=True), [as_picture(figure)])


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
