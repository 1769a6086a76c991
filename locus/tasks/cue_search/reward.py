"""The reward: (1 - α)·IoU + α·format, with the parts kept (LOCUS, arXiv 2606.16586); of a question, right or wrong."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from locus.boxes import box_giou, box_iou, convert
from locus.errors import LocusError
from locus.tasks.answers import normalised, parse_answer, parse_text
from locus.types import (
    AnswerReward,
    Box,
    Completion,
    Frame,
    ParsedAnswer,
    ParsedText,
    PromptRecord,
    QuestionRecord,
    Reward,
    Rollout,
    TrainingPrompt,
)


def giou_reward(box: Box, target: Box) -> float:
    """(1 + GIoU) / 2 in [0, 1]: grows with nearness where boxes do not touch (arXiv 1902.09630)."""
    return (1 + box_giou(box, target)) / 2


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
    localisation: Callable[[Box, Box], float] = box_iou
    """Predicted and target box, in one frame -> [0, 1]."""

    def __post_init__(self) -> None:
        if not 0 <= self.alpha <= 1:
            raise LocusError(f"reward.alpha={self.alpha} is no weight: give a number from 0 to 1")

    def __call__(self, answer: ParsedAnswer, box: Box | None, target: Box) -> Reward:
        """``box`` is the parsed one in the file frame; without one the localisation reward is 0."""
        localisation = self.localisation(box, target) if box is not None else 0.0
        iou = box_iou(box, target) if box is not None else 0.0
        well_formed = float(answer.well_formed)
        total = (1 - self.alpha) * localisation + self.alpha * well_formed
        return Reward(total, localisation, well_formed, iou)


def file_box(answer: ParsedAnswer, prompt: PromptRecord) -> Box | None:
    """The parsed numbers as a box in the file frame: what the policy wrote, read in the frame it speaks."""
    if answer.xyxy is None:
        return None
    written = Box(*answer.xyxy, prompt.answer_frame, *prompt.answer_size)
    return convert(written, Frame.FILE, prompt.target.width, prompt.target.height)


def answer_reward(said: ParsedText, truth: str, alpha: float) -> AnswerReward:
    """(1 - α)·correct + α·format; correct is an exact match once both texts are normalised."""
    correct = float(said.text is not None and normalised(said.text) == normalised(truth))
    return AnswerReward((1 - alpha) * correct + alpha * said.well_formed, correct, float(said.well_formed))


def judge(completion: Completion, text: str, prompt: TrainingPrompt, reward: BoxReward) -> Rollout:
    """Completion -> parsed answer -> reward, of its box or, for a question, of its text."""
    if isinstance(prompt, QuestionRecord):
        said = parse_text(text, prompt.opened, completion.finished)
        return Rollout(completion, text, said, None, answer_reward(said, prompt.answer, reward.alpha))
    answer = parse_answer(text, prompt.opened, completion.finished)
    box = file_box(answer, prompt)
    return Rollout(completion, text, answer, box, reward(answer, box, prompt.target))
