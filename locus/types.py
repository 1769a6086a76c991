"""Frozen dataclasses that pass between the stages; of locus it knows only the errors.

Shapes: B prompts, G rollouts per prompt, P prompt tokens, T completion tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Protocol

from locus.errors import number, whole

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
    UNIT = "unit"
    """0-1 along each side, relative: fractions."""


XYXY = tuple[float, float, float, float]
"""The left, upper, right and lower edge of a box."""


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
    def xyxy(self) -> XYXY:
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
    box: XYXY
    """The target box: xyxy, file frame, padding included."""
    area_ratio: float
    """Share of the image that the object covers, 0-1, before padding; the bin goes by it."""
    bin: str
    """Name of the area bin: tiny, small, medium or large."""
    label: str = ""
    cue_scale: float = 1.0
    """The cue is rendered at this multiple of the crop's size in the file."""
    split: str = "train"
    """train or validation."""

    @property
    def target(self) -> Box:
        return Box(*self.box, Frame.FILE, self.width, self.height)


@dataclass(frozen=True, slots=True, eq=False)
class Query:
    """What a task asks of a policy: text and images, no tokens. Boxes are of the first image."""

    text: str
    images: tuple[Image, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Pixels:
    """Patches of images as the processor has resized them: an eighth of the bytes of what the vision tower takes."""

    levels: torch.Tensor
    """[patches, channels, values] uint8."""
    table: torch.Tensor
    """[channels, 256] float32: what the processor makes of each level, to the last bit."""
    frames: int
    """How often the vision tower takes each patch, for a still image stands for as many frames of a film."""

    def values(self, device: torch.device | None = None) -> torch.Tensor:
        """[patches, channels * frames * values] float32, as the processor gives them."""
        levels, table = self.levels.to(device), self.table.to(device)
        patches, channels, values = levels.shape
        normalised = table.new_empty(patches, channels, self.frames, values)
        for channel in range(channels):
            looked_up = table[channel].index_select(0, levels[:, channel].flatten().int())
            normalised[:, channel] = looked_up.view(patches, 1, values)
        return normalised.flatten(1)


@dataclass(frozen=True, slots=True, eq=False)
class Prompt:
    """One prompt, ready for a model. It owns its pixels: nothing slices flat pixel tensors by sample."""

    prompt_id: str
    input_ids: torch.Tensor
    """[P] int64, unpadded, image placeholders expanded."""
    mm_token_type_ids: torch.Tensor
    """[P] int64: 0 text, 1 image, 2 video."""
    pixels: Pixels
    """Of all its images."""
    image_grid_thw: torch.Tensor
    """[images, 3] int64."""
    processed_size: tuple[float, float]
    """Width and height of the first image as the vision tower sees it; zero without one."""
    opened: str = ""
    """What the chat template already opened for the completion, e.g. ``<think>\\n``."""

    @property
    def length(self) -> int:
        return int(self.input_ids.shape[0])

    @property
    def pixel_values(self) -> torch.Tensor:
        """[patches of all its images, patch values] float32, computed now."""
        return self.pixels.values()


class Example(Protocol):
    """What a task can ask about: a question, a crop. Small: pixels are opened when it is asked."""

    @property
    def example_id(self) -> str: ...


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """An example as one policy meets it."""

    example: Any
    prompt: Prompt
    view: View


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
    """A response's answer, or the reason why there is none."""

    status: Status
    xyxy: XYXY | None
    """Numbers as written, in the frame the policy speaks; None unless a box was asked for and status is ok."""
    well_formed: bool
    """One think block, then one answer block, and nothing else: for a box one in brackets, else any text."""
    text: str | None = None
    """Of the answer block, without space around it; None unless a text was asked for and status is ok."""


@dataclass(frozen=True, slots=True)
class Grade:
    """What a response earns, with its parts."""

    total: float
    """The reward that GRPO maximises."""
    parts: Mapping[str, float]
    """Name -> value in [0, 1], 1 at best: logged as ``train/<part>`` and ``val/<part>``."""
    status: Status
    columns: Mapping[str, Any] = field(default_factory=dict)
    """Of the response, for ``rollouts.parquet`` and ``validation.parquet``."""


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
    """A completion, its text and its grade."""

    completion: Completion
    text: str
    """Without what the chat template opened."""
    grade: Grade


@dataclass(frozen=True, slots=True, eq=False)
class RolloutGroup:
    """The G rollouts of one sample."""

    sample: Sample
    rollouts: tuple[Rollout, ...]

    @property
    def rewards(self) -> list[float]:
        return [rollout.grade.total for rollout in self.rollouts]


@dataclass(frozen=True, slots=True)
class Sampling:
    """How completions are drawn."""

    temperature: float = 1.0
    top_p: float = 1.0
    max_new_tokens: int = 128

    def __post_init__(self) -> None:
        number("temperature", self.temperature, 0)
        number("top_p", self.top_p, 0, 1, above=True)
        whole("max_new_tokens", self.max_new_tokens)


@dataclass(frozen=True, slots=True, eq=False)
class LossTerms:
    """The loss of a micro-batch and what is logged with it; sums, so that micro-batches add up."""

    loss: torch.Tensor
    """Scalar with gradient, already divided by the mini-batch's normaliser."""
    metrics: dict[str, Any]
    """Sums over completion tokens, by name; divided by ``tokens`` when logged."""
    tokens: int
