"""Frozen dataclasses that pass between the stages. Layer 0: imports nothing of locus.

Shapes: B prompts, G rollouts per prompt, P prompt tokens, T completion tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import torch
    from PIL.Image import Image


class Frame(StrEnum):
    """The coordinate system of a box."""

    FILE = "file"
    """Pixels of the image on disk, as stored (EXIF orientation is not applied)."""
    PROCESSED = "processed"
    """Pixels of the image as the vision tower sees it: grid times patch size."""
    UNIT1000 = "unit1000"
    """0-1000 along each side, relative."""


@dataclass(frozen=True, slots=True)
class Box:
    """An xyxy box, float, half-open, in a named frame. Example: ``Box(10, 20, 42, 60, Frame.FILE, 640, 480)``."""

    x1: float
    y1: float
    x2: float
    y2: float
    frame: Frame
    width: float
    """Width of the frame, in its own units."""
    height: float
    """Height of the frame, in its own units."""

    @property
    def xyxy(self) -> tuple[float, float, float, float]:
        return (self.x1, self.y1, self.x2, self.y2)

    @property
    def area_ratio(self) -> float:
        """Share of the frame's area, 0-1."""
        return (self.x2 - self.x1) * (self.y2 - self.y1) / (self.width * self.height)


@dataclass(frozen=True, slots=True)
class View:
    """How a policy sees one sample: the frame it writes boxes in, and the size of the first image as processed."""

    frame: Frame
    processed: tuple[float, float] | None = None
    """Width and height as the vision tower sees it, from the grid of this very sample; None where nobody says."""


@dataclass(frozen=True, slots=True)
class Response:
    """What a policy answered."""

    text: str
    """What the chat template opened, then the completion, special tokens removed."""
    finished: bool = True
    """False when the token limit cut it."""


@dataclass(frozen=True, slots=True, eq=False)
class ImageTable:
    """All images and boxes of a source as columns: M images, N boxes. Boxes are xyxy in the file frame."""

    image_id: tuple[str, ...]
    """[M] unique ids; the train/validation split is by them."""
    path: tuple[str, ...]
    """[M] what the source's ``open`` takes: a file path, or ``scene://<family>/<index>``."""
    width: np.ndarray
    """[M] int64, pixels on disk."""
    height: np.ndarray
    """[M] int64."""
    box_image: np.ndarray
    """[N] int64: row of the image that the box lies in; ascending."""
    boxes: np.ndarray
    """[N, 4] float64."""
    labels: tuple[str, ...]
    """[N] category or description; empty where unknown."""


@dataclass(frozen=True, slots=True)
class CueExample:
    """One row of the corpus: a crop chosen in an image. Pixels are not in it.

    Example: ``CueExample("coco-9-51", "coco-9", "train2017/9.jpg", 640, 480, (1.0, 2.0, 40.0, 38.0), 0.0046,
    "tiny", "bowl")``.
    """

    example_id: str
    image_id: str
    image_path: str
    width: int
    height: int
    box: tuple[float, float, float, float]
    """The target box: xyxy, file frame, padding included."""
    area_ratio: float
    """Share of the image that the object covers, 0-1, before padding; the bin goes by it."""
    bin: str
    """Name of the area bin: tiny, small, medium or large."""
    label: str = ""
    cue_scale: float = 1.0
    """The cue is rendered at this multiple of the crop's size in the file."""

    @property
    def target(self) -> Box:
        return Box(*self.box, Frame.FILE, self.width, self.height)


@dataclass(frozen=True, slots=True)
class CuePixels:
    """A corpus row with its pictures, as the dataset yields it."""

    example: CueExample
    image: Image
    cue: Image | str
    """The picture of the crop, or the expression that stands for it in the prompt."""


@dataclass(frozen=True, slots=True, eq=False)
class PromptRecord:
    """One prompt, ready for a model. It owns its pixels: nothing slices flat pixel tensors by sample."""

    example: CueExample
    input_ids: torch.Tensor
    """[P] int64, unpadded, image placeholders expanded."""
    mm_token_type_ids: torch.Tensor
    """[P] int64: 0 text, 1 image, 2 video."""
    pixel_values: torch.Tensor
    """[patches of all its images, patch values] float32."""
    image_grid_thw: torch.Tensor
    """[images, 3] int64; the full image first, then the cue unless an expression stands for it."""
    target: Box
    """The target box in the file frame."""
    answer_frame: Frame
    """The frame in which the policy writes boxes."""
    answer_size: tuple[float, float]
    """Width and height of the answer frame for this very image."""
    opened: str = ""
    """What the chat template already opened for the completion, e.g. ``<think>\\n``."""
    expression: str = ""
    """What stands for the cue; empty where the cue is shown."""

    @property
    def prompt_id(self) -> str:
        return self.example.example_id

    @property
    def length(self) -> int:
        return int(self.input_ids.shape[0])


@dataclass(frozen=True, slots=True, eq=False)
class QuestionPrompt:
    """A prompt with a question behind its images, or with one image alone, whose questions follow as completions."""

    prompt_id: str
    input_ids: torch.Tensor
    """[P] int64, unpadded, image placeholders expanded."""
    mm_token_type_ids: torch.Tensor
    """[P] int64: 0 text, 1 image."""
    pixel_values: torch.Tensor
    """[patches, patch values] float32."""
    image_grid_thw: torch.Tensor
    """[images, 3] int64."""
    processed_size: tuple[float, float]
    """Width and height of the first image as the vision tower sees it; zero without one."""
    opened: str = ""
    """What the chat template already opened for the completion."""

    @property
    def length(self) -> int:
        return int(self.input_ids.shape[0])


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class QuestionRecord(QuestionPrompt):
    """A training prompt that is an ordinary question about its image, with its right answer."""

    question: str
    answer: str
    image_path: str


Prompt = PromptRecord | QuestionPrompt
"""What a model can encode."""
TrainingPrompt = PromptRecord | QuestionRecord
"""What a policy is trained on: a completion can be judged."""


class Status(StrEnum):
    """What became of a completion's answer."""

    OK = "ok"
    TRUNCATED = "truncated"
    """Stopped by the token limit before the answer was complete."""
    NO_ANSWER_TAG = "no_answer_tag"
    NO_BOX = "no_box"
    """An answer without four numbers in brackets."""
    INVALID_BOX = "invalid_box"
    """Four numbers that are no box: not finite, or of no area."""


@dataclass(frozen=True, slots=True)
class ParsedAnswer:
    """A completion's answer: numbers as written, or the reason why there are none."""

    status: Status
    xyxy: tuple[float, float, float, float] | None
    """In the frame the policy speaks; None unless status is ok."""
    well_formed: bool
    """One think block, then one answer block with one box in brackets and nothing else."""


@dataclass(frozen=True, slots=True)
class ParsedText:
    """A completion's answer to a question, or the reason why there is none."""

    status: Status
    text: str | None
    """Of the answer block, without space around it; None unless status is ok."""
    well_formed: bool
    """One think block, then one answer block that is not empty, and nothing else."""


@dataclass(frozen=True, slots=True)
class Reward:
    """The reward of one rollout with its parts; total = (1 - α)·localisation + α·format."""

    total: float
    localisation: float
    format: float
    iou: float
    """Plain IoU of the parsed box, whatever the localisation reward is."""


@dataclass(frozen=True, slots=True)
class AnswerReward:
    """The reward of one rollout of a question with its parts; total = (1 - α)·correct + α·format."""

    total: float
    correct: float
    """1 for the right answer, else 0."""
    format: float


@dataclass(frozen=True, slots=True, eq=False)
class Completion:
    """One sampled answer as token ids."""

    token_ids: torch.Tensor
    """[T] int64, with the end token if it was reached."""
    logprobs: torch.Tensor
    """[T] float32: log-probs under the sampling distribution's temperature, before top-p."""
    finished: bool
    """Reached an end token."""


@dataclass(frozen=True, slots=True, eq=False)
class Rollout:
    """A completion, its text, its parsed answer and its reward."""

    completion: Completion
    text: str
    answer: ParsedAnswer | ParsedText
    box: Box | None
    """The parsed box in the file frame; of a question there is none."""
    reward: Reward | AnswerReward


@dataclass(frozen=True, slots=True, eq=False)
class RolloutGroup:
    """The G rollouts of one prompt."""

    prompt: TrainingPrompt
    rollouts: tuple[Rollout, ...]

    @property
    def rewards(self) -> list[float]:
        return [rollout.reward.total for rollout in self.rollouts]


@dataclass(frozen=True, slots=True)
class Sampling:
    """How completions are drawn."""

    temperature: float = 1.0
    top_p: float = 1.0
    max_new_tokens: int = 128


@dataclass(frozen=True, slots=True, eq=False)
class LossTerms:
    """The loss of a micro-batch and what is logged with it; sums, so that micro-batches add up."""

    loss: torch.Tensor
    """Scalar with gradient, already divided by the mini-batch's normaliser."""
    metrics: dict[str, Any]
    """Sums over completion tokens, by name; divided by ``tokens`` when logged."""
    tokens: int
