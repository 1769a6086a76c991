"""The reward: (1 - α)·localisation + α·format, with the parts kept (LOCUS, arXiv 2606.16586)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from locus.boxes import box_giou, box_iou, written_box
from locus.errors import LocusError, by_name
from locus.tasks.answers import parse_answer
from locus.types import Box, Grade, ParsedAnswer, Response, View


def giou_reward(box: Box, target: Box) -> float:
    """(1 + GIoU) / 2 in [0, 1]: grows with nearness where boxes do not touch (arXiv 1902.09630)."""
    return (1 + box_giou(box, target)) / 2


Localisation = Callable[[Box, Box], float]
"""Predicted and target box, in one frame -> [0, 1]."""
LOCALISATIONS: dict[str, Localisation] = {"iou": box_iou, "giou": giou_reward}
"""By the names that conf/reward has."""


@dataclass(frozen=True)
class IouThreshold:
    """1 for an IoU of at least ``threshold``, else 0."""

    threshold: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.threshold <= 1:
            raise LocusError(f"reward.localisation.threshold={self.threshold}: give an IoU above 0, up to 1")

    def __call__(self, box: Box, target: Box) -> float:
        return float(box_iou(box, target) >= self.threshold)


@dataclass(frozen=True)
class BoxReward:
    """Scores an answer against the target box, both in the file frame."""

    alpha: float = 0.1
    """Weight of the format reward."""
    localisation: str | Localisation = "iou"
    """One of `LOCALISATIONS`, or a function of one's own."""

    def __post_init__(self) -> None:
        if not 0 <= self.alpha <= 1:
            raise LocusError(f"reward.alpha={self.alpha} must be in [0, 1]")
        if not callable(self.localisation):
            by_name("reward.localisation", self.localisation, LOCALISATIONS)

    @property
    def localise(self) -> Localisation:
        """Of the name, or the function given."""
        return self.localisation if callable(self.localisation) else LOCALISATIONS[self.localisation]

    def __call__(self, answer: ParsedAnswer, box: Box | None, target: Box) -> Grade:
        """``box`` is the parsed one in the file frame; without one the localisation reward is 0."""
        localisation = 0.0 if box is None else self.localise(box, target)
        iou = 0.0 if box is None else box_iou(box, target)
        well_formed = float(answer.well_formed)
        total = (1 - self.alpha) * localisation + self.alpha * well_formed
        parts = {"iou": iou, "format": well_formed, "nonzero_iou": float(iou > 0)}
        written = None if answer.xyxy is None else list(answer.xyxy)
        return Grade(total, parts, answer.status, {"box": None if box is None else list(box.xyxy), "written": written})

    def grade(self, response: Response, view: View, target: Box) -> Grade:
        """A response -> its parsed numbers -> the box in the target's image -> what it earns."""
        answer = parse_answer(response.text, finished=response.finished)
        box = None if answer.xyxy is None else written_box(answer.xyxy, view, target.width, target.height)
        return self(answer, box, target)
