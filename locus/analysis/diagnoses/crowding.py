"""How much context can the same evidence stand? Crowded scenes lose objects around it, step by step, and then all."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import numpy as np
import pandas as pd

from locus.analysis.diagnoses.context_suppression import FULL, SUPPRESSED, suppressed
from locus.analysis.diagnoses.shared import predicted
from locus.analysis.pages.page import Section
from locus.analysis.plots import as_picture, bars, curves, panels
from locus.analysis.tables import paired_table
from locus.boxes import parse_frame
from locus.errors import LocusError
from locus.evaluation.benchmark import Item, picture_of
from locus.evaluation.benchmarks.scenes import item_of, scene_picture, scene_verdict
from locus.evaluation.evaluator import Evaluator
from locus.evaluation.reading.extractors import LOCUS
from locus.scenes.questions import Ask, AskedScene, SceneQuestion, draw_in_turn, kinds_of
from locus.scenes.render import render
from locus.scenes.scene import Scene, SceneObject
from locus.scenes.source import SceneSource

TEXT = (
    "The same questions about the same pixels, with ever more objects around the evidence, up to the whole scene; then "
    "the whole scene with all but the evidence boxes black. Objects like those that the question names stay longest: "
    "fewer objects do not make the question easier by themselves. A difference below 0 is what the context costs."
)
LEVELS = "all objects minus fewest"
CONTEXT = "full minus suppressed"


@dataclass(frozen=True)
class Crowding:
    """Accuracy against the number of objects in the scene.

    Args:
        source: of the whole scenes.
        kinds: of questions; "no" to existence has no evidence, and no suppressed version.
        questions: of each kind.
        objects: that the versions keep, fewest first; the whole scene follows. Evidence is always kept.
        frame: in which the policy writes boxes.
        seed: of the questions and of the objects kept.
    """

    source: SceneSource
    kinds: Sequence[str | Ask]
    questions: int
    objects: Sequence[int]
    frame: str
    seed: int = 1
    name: str = "crowding"

    def __post_init__(self) -> None:
        """Raises LocusError for an unknown kind, and for numbers of objects that do not grow up to the scenes'."""
        kinds_of(self.kinds), parse_frame(self.frame)
        numbers = [0, *self.objects, self.source.objects[0]]
        ascending = all(isinstance(number, int) for number in numbers) and numbers == sorted(set(numbers))
        if not (self.objects and ascending):
            raise LocusError(
                f"objects={list(self.objects)}: give ascending whole numbers from 1 on, below the "
                f"{self.source.objects[0]} objects that each whole scene has at least"
            )

    def measure(self, evaluator: Evaluator) -> pd.DataFrame:
        """Columns: item, unit (the scene), question (shared by its versions), kind, objects (left in the picture),
        level (0 has the fewest; the suppressed version's is the whole scene's), image (full or suppressed), response,
        correct."""
        asks, rows = kinds_of(self.kinds), []
        drawn = draw_in_turn(self.source, asks, [self.questions] * len(asks), self.seed)
        for kind, group in groupby(drawn, key=lambda asked: asked.question.kind):  # so that few pictures are held
            versions = [version for asked in group for version in self._versions(asked)]
            predictions = predicted(evaluator, [item for _, item in versions], kind)
            for (row, item), prediction in zip(versions, predictions, strict=True):
                verdict = scene_verdict(item, prediction.as_response, prediction.view(self.frame), LOCUS)
                rows.append(row | {"response": prediction.response, "correct": verdict.correct})
        return pd.DataFrame(rows)

    def _versions(self, asked: AskedScene) -> Iterator[tuple[dict[str, str | int], Item]]:
        """Every version of a question, with the first columns of its row."""
        scene, question = self.source.path(asked.index), f"{asked.question.kind}-{asked.index}"
        *fewer, whole = self._scenes(asked)
        shown = [picture_of(f"{scene}, {question}/{level}", render(one)) for level, one in enumerate(fewer)]
        shown.append(scene_picture(self.source, asked.index))
        for level, (one, picture) in enumerate(zip([*fewer, whole], shown, strict=True)):
            item = item_of(one, asked.question, f"{question}/{level}", picture)
            row: dict[str, str | int] = {"item": item.item_id, "unit": scene, "question": question}
            row |= {"kind": asked.question.kind, "objects": len(one.objects), "level": level, "image": FULL}
            yield row, item
        if item.evidence:
            item = replace(suppressed(item), item_id=f"{question}/{SUPPRESSED}")
            yield row | {"item": item.item_id, "image": SUPPRESSED}, item

    def _scenes(self, asked: AskedScene) -> Iterator[Scene]:
        """The scene with ever more of its objects, each with all of the one before."""
        rng = np.random.default_rng([self.seed, asked.index])
        order = in_order_kept(asked.scene, asked.question, rng)
        for number in self.objects:
            kept = set(order[: max(number, len(asked.question.evidence))])
            yield replace(asked.scene, objects=tuple(item for item in asked.scene.objects if item in kept))
        yield asked.scene

    def section(self, measured: pd.DataFrame) -> Section:
        """Accuracy at each number of objects and suppressed; of each kind, what the objects and the context cost."""
        full, alone = (measured[measured["image"] == image] for image in (FULL, SUPPRESSED))
        left = full["level"].map(full.groupby("level")["objects"].mean())
        last = full["level"].max()
        tables = [
            paired_table(rows, {"accuracy": "correct"}).assign(of=f"{number:.3g} objects")
            for number, rows in full.groupby(left)
        ]
        tables.append(paired_table(alone, {"accuracy": "correct"}).assign(of=SUPPRESSED))
        whole = full[full["level"] == last]
        costs = {LEVELS: less(whole, full[full["level"] == 0]), CONTEXT: less(whole, alone)}
        tables += [paired_table(rows, {label: "difference"}, "kind") for label, rows in costs.items()]
        figure, (first, *others) = panels(3)
        curves(first, full.assign(objects=left), "objects", "correct")
        first.set_xlabel("objects in the scene")
        first.set_ylabel("accuracy")
        for axes, (label, rows) in zip(others, costs.items(), strict=True):
            bars(axes, rows, "kind", "difference")
            for name in axes.get_xticklabels():
                name.set(rotation=30, ha="right")
            axes.set_ylabel(label)
        return Section("Crowding", TEXT, pd.concat(tables, ignore_index=True), [as_picture(figure)])


def in_order_kept(scene: Scene, question: SceneQuestion, rng: np.random.Generator) -> list[SceneObject]:
    """The scene's objects, those that are kept longest first: the evidence, its look-alikes, the others at random.

    A look-alike has two of the words that the question or its evidence has. It is what the evidence must be told from:
    were it dropped with the rest, fewer objects would also mean an easier question.
    """
    evidence = [item for item in scene.objects if item.box in question.evidence]
    words = {*question.text.rstrip("?").split(), *(word for item in evidence for word in item.attributes)}
    others = [item for item in scene.objects if item not in evidence]
    others = [others[place] for place in rng.permutation(len(others))]
    return evidence + sorted(others, key=lambda item: sum(word in words for word in item.attributes) < 2)


def less(one: pd.DataFrame, other: pd.DataFrame) -> pd.DataFrame:
    """Rows of questions that both have, with column ``difference``: how much more often the first is right."""
    both = one.merge(other[["policy", "question", "correct"]], on=["policy", "question"], suffixes=("", "_other"))
    return both.assign(difference=both["correct"] - both["correct_other"])
