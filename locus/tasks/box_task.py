"""Tasks that are answered by a box of the first image, rewarded by its IoU; what such a box earns without a look."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from locus.boxes import file_box, iou, to_view
from locus.images.sources import ImageSource
from locus.tasks.answers import box_text, completion_text
from locus.tasks.corpus_task import CorpusTask, SftTargets
from locus.tasks.cue_search.corpus import Corpus
from locus.tasks.cue_search.reward import BoxReward
from locus.tasks.order import Order
from locus.types import Box, CueExample, Grade, Response, Sample, View

EXACT = 3
"""Decimals of the gold answer: they move a corner by at most 0.002 px of a 4,000 px image, far below 1 % of 16 px."""
PLACES = np.stack(np.meshgrid(*[np.linspace(0, 1, 9)] * 2), axis=-1).reshape(-1, 2)
"""[81, 2] where a box that sees nothing may lie: shares of the room that its sides leave in the image."""
SHARES = np.stack(np.meshgrid(*[np.array([0.05, 0.1, 0.2, 0.3, 0.45, 0.65, 1])] * 2), axis=-1).reshape(-1, 2)
"""[49, 2] and how wide and high it may be: shares of the image's sides."""


class BoxTask(CorpusTask):
    """Where in the first image is what is asked for? A subclass gives `query`, and `box` if it is not the target box.

    Args:
        corpus, source, order, sft_targets: as of `CorpusTask`.
        reward: of an answered box.
    """

    headline = "mean_iou"
    labels: Mapping[str, str] = {
        "mean_iou": "mean IoU",
        "acc@0.5": "ACC@0.5",
        "acc@0.75": "ACC@0.75",
        "format": "format",
        "reward": "reward",
    }

    def __init__(
        self,
        corpus: Corpus,
        source: ImageSource,
        reward: BoxReward | None = None,
        order: Order | None = None,
        sft_targets: SftTargets = "gold",
    ) -> None:
        super().__init__(corpus, source, order, sft_targets)
        self.reward = reward or BoxReward()

    # --- What it is -------------------------------------------------------------------------------------------
    def box(self, example: CueExample) -> Box:
        """The right answer, file frame."""
        return example.target

    def grade(self, example: CueExample, response: Response, view: View) -> Grade:
        """The reward of the answered box, read in the frame that the policy speaks."""
        return self.reward.grade(response, view, self.box(example))

    def gold(self, example: CueExample, view: View) -> str:
        """The true box with decimals."""
        return completion_text(box_text(to_view(self.box(example), view), EXACT))

    def foil(self, example: CueExample, view: View) -> str | None:
        """The true box shifted by half its sides: a reward that reads another frame does not notice."""
        text = completion_text(box_text(shifted(to_view(self.box(example), view)), EXACT))
        return text if self.reward.alpha < 1 else None  # a format alone does not know places

    def chance(self, examples: Sequence[CueExample]) -> float:
        """Mean IoU of the best box of one size and place, as shares of the image. Few examples overstate it."""
        targets, sizes = self._arrays(examples)
        return best_blind_iou(targets, sizes, SHARES[:, None] * sizes)

    def blind(self, example: CueExample, view: View, rng: np.random.Generator) -> str:
        """A box with the sides, as shares of the image, of any training example's, anywhere."""
        other = self.box(self.corpus.train[int(rng.integers(len(self.corpus.train)))])
        width = (other.x2 - other.x1) / other.width * example.width
        height = (other.y2 - other.y1) / other.height * example.height
        x, y = rng.uniform(0, (example.width - width, example.height - height))
        box = file_box((x, y, x + width, y + height), example.width, example.height)
        return completion_text(box_text(to_view(box, view)))

    def gold_targets(self, samples: Sequence[Sample]) -> Iterator[str]:
        """The true boxes in whole numbers."""
        boxes = (to_view(self.box(sample.example), sample.view) for sample in samples)
        return (completion_text(box_text(box)) for box in boxes)

    # --- What is recorded -------------------------------------------------------------------------------------
    def row(self, example: CueExample) -> Mapping[str, Any]:
        """Image, area bin and true box."""
        return {**super().row(example), "target": list(self.box(example).xyxy)}

    def variants(self, example: CueExample, view: View) -> Mapping[str, str]:
        """Whole numbers: the most that a policy which writes integers can earn."""
        return {"rounded to integers": completion_text(box_text(to_view(self.box(example), view)))}

    def summary(self, grades: Sequence[Grade]) -> dict[str, float]:
        """Mean IoU, accuracy at IoU 0.5 and 0.75, format and reward."""
        ious, count = [grade.parts["iou"] for grade in grades], len(grades)
        return {
            "mean_iou": sum(ious) / count,
            "acc@0.5": sum(iou >= 0.5 for iou in ious) / count,
            "acc@0.75": sum(iou >= 0.75 for iou in ious) / count,
            "format": sum(grade.parts["format"] for grade in grades) / count,
            "reward": sum(grade.total for grade in grades) / count,
        }

    def _arrays(self, examples: Sequence[CueExample]) -> tuple[np.ndarray, np.ndarray]:
        """True boxes [N, 4] and (width, height) of their images [N, 2]."""
        boxes = [self.box(example) for example in examples]
        return np.array([box.xyxy for box in boxes]), np.array([(box.width, box.height) for box in boxes])


def shifted(box: Box) -> Box:
    """The box moved by half its sides, to the right and down."""
    dx, dy = (box.x2 - box.x1) / 2, (box.y2 - box.y1) / 2
    return replace(box, x1=box.x1 + dx, y1=box.y1 + dy, x2=box.x2 + dx, y2=box.y2 + dy)


def best_blind_iou(targets: np.ndarray, sizes: np.ndarray, sides: np.ndarray) -> float:
    """The highest mean IoU of answers that have sides of one of K rules and lie at one of `PLACES`.

    Args:
        targets: [N, 4] true boxes, xyxy.
        sizes: [N, 2] width and height of their images.
        sides: [K, N, 2] width and height of the answers by each rule; those above the image's count as the image's.
    """
    best = 0.0
    for rule in np.minimum(sides, sizes):
        corners = PLACES[:, None] * (sizes - rule)  # [places, N, 2]
        answers = np.concatenate([corners, corners + rule], axis=-1)
        best = max(best, float(iou(answers, targets).mean(axis=1).max()))
    return best
