"""Image + cue -> a prompt record, through the model's own processor and chat template."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from transformers import ProcessorMixin

from locus.boxes import frame_size
from locus.errors import LocusError
from locus.tasks.cue_search.prompts import cue_search_messages
from locus.types import CuePixels, Frame, PromptRecord, QuestionPrompt


@dataclass(frozen=True)
class PixelLimits:
    """A resize before the processor's own, so that the area lies within limits; with neither limit it does nothing.

    EasyR1 does so (min 262,144, max 4,194,304 px, sides truncated to whole pixels): a 20x24 crop becomes 467x560, then
    476x560 in a processor of factor 28.
    """

    min_pixels: int | None = None
    max_pixels: int | None = None

    def __post_init__(self) -> None:
        for name in ("min_pixels", "max_pixels"):
            if (limit := getattr(self, name)) is not None and limit < 1:
                raise LocusError(f"pixels.{name}={limit}: give at least 1, or null for none")

    def __call__(self, image: Image.Image) -> Image.Image:
        """Returns the image, resized (bicubic) only where a limit asks for it."""
        area = image.width * image.height
        factor = 1.0
        if self.max_pixels is not None and area > self.max_pixels:
            factor = math.sqrt(self.max_pixels / area)
        if self.min_pixels is not None and area < self.min_pixels:
            factor = math.sqrt(self.min_pixels / area)
        if factor == 1.0:
            return image
        size = max(1, int(image.width * factor)), max(1, int(image.height * factor))
        return image.resize(size, Image.Resampling.BICUBIC)


class CueCollator:
    """Makes one `PromptRecord` of each sample; a batch is a list of them, for each owns its pixels."""

    def __init__(self, processor: ProcessorMixin, frame: Frame, pixels: PixelLimits):
        self.processor = processor
        self.frame = frame
        self.pixels = pixels
        self.text = self._text()
        self.opened = opened_by_template(self.text)

    def _text(self, expression: str = "") -> str:
        """The chat template's text of a prompt."""
        messages = cue_search_messages(self.frame, expression)
        return self.processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)

    @property
    def patch_size(self) -> int:
        """Side of a vision patch, in pixels of the processed image."""
        return self.processor.image_processor.patch_size

    def __call__(self, samples: Sequence[CuePixels]) -> list[PromptRecord]:
        """Samples -> prompt records, in order."""
        return [self.record(sample) for sample in samples]

    def record(self, sample: CuePixels) -> PromptRecord:
        """One sample -> its prompt record; raises LocusError when the processor refuses the picture."""
        example = sample.example
        expression = sample.cue if isinstance(sample.cue, str) else ""
        pictures = [sample.image] if expression else [sample.image, sample.cue]
        text = self._text(expression) if expression else self.text
        try:
            inputs = self.processor(
                text=[text], images=[self.pixels(picture) for picture in pictures], return_tensors="pt"
            )
        except ValueError as error:  # the processor refuses sides of ratio over 200
            raise LocusError(f"{example.image_path}: the processor refuses the image or its cue: {error}") from error
        rows, columns = inputs["image_grid_thw"][0, 1:].tolist()
        processed = (columns * self.patch_size, rows * self.patch_size)
        return PromptRecord(
            example=example,
            input_ids=inputs["input_ids"][0],
            mm_token_type_ids=inputs["mm_token_type_ids"][0].long(),
            pixel_values=inputs["pixel_values"],
            image_grid_thw=inputs["image_grid_thw"],
            target=example.target,
            answer_frame=self.frame,
            answer_size=frame_size(self.frame, (example.width, example.height), processed),
            opened=self.opened,
            expression=expression,
        )

    def decode(self, token_ids: torch.Tensor) -> str:
        """[T] completion tokens -> text, special tokens removed."""
        return self.processor.tokenizer.decode(token_ids, skip_special_tokens=True)

    def encode(self, text: str) -> list[int]:
        """Text of a completion -> token ids, nothing added."""
        return self.processor.tokenizer.encode(text, add_special_tokens=False)


@dataclass(frozen=True, eq=False)
class PictureInputs:
    """Processed pictures of one question."""

    pixels: torch.Tensor
    """[patches, patch values] float32."""
    grids: torch.Tensor
    """[images, 3] int64."""


class QuestionCollator:
    """Makes prompts of one image: with a question, or up to the image, for many questions to follow it.

    `prompt` makes one of any number of images; they are processed apart (`picture_inputs`), once for all questions.
    """

    def __init__(self, processor: ProcessorMixin, pixels: PixelLimits):
        self.processor, self.pixels = processor, pixels
        self._around: dict[int, tuple[str, str]] = {}
        self.before, self.after = self._around_question(1)
        self.opened = opened_by_template(self.after)

    def _around_question(self, images: int) -> tuple[str, str]:
        """The chat template's text before and after the question, with this many images before it; rendered once."""
        if images in self._around:
            return self._around[images]
        marker = "\0question\0"
        content = [{"type": "image"}] * images + [{"type": "text", "text": marker}]
        text = self.processor.apply_chat_template(
            [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
        )
        before, after = text.split(marker)
        self._around[images] = before, after
        return before, after

    def turn(self, question: str) -> str:
        """What follows the image in a prompt: the question, and all up to the completion."""
        return question + self.after

    def image_prompts(self, images: Sequence[Image.Image]) -> list[QuestionPrompt]:
        """One prompt an image, ending where its question would begin."""
        return self._prompts([str(index) for index in range(len(images))], images, [self.before] * len(images), "")

    def question_prompts(
        self, ids: Sequence[str], images: Sequence[Image.Image], questions: Sequence[str]
    ) -> list[QuestionPrompt]:
        """Whole prompts, one for each (id, image, question)."""
        texts = [self.before + self.turn(question) for question in questions]
        return self._prompts(ids, images, texts, self.opened)

    def picture_inputs(self, images: Sequence[Image.Image]) -> PictureInputs:
        """Images -> what the vision tower takes; raises LocusError when the processor refuses one."""
        if not images:
            return PictureInputs(torch.empty(0, 0), torch.empty(0, 3, dtype=torch.long))
        try:
            made = self.processor.image_processor([self.pixels(image) for image in images], return_tensors="pt")
        except ValueError as error:  # sides of ratio over 200
            raise LocusError(f"the processor refuses the image: {error}") from error
        return PictureInputs(made["pixel_values"], made["image_grid_thw"])

    def prompt(self, prompt_id: str, pictures: PictureInputs, question: str) -> QuestionPrompt:
        """The images in their order, then the question."""
        image_processor, image_token = self.processor.image_processor, self.processor.image_token
        before, after = self._around_question(len(pictures.grids))
        first, *rest = before.split(image_token)
        counts = [int(grid.prod()) // image_processor.merge_size**2 for grid in pictures.grids]
        head = first + "".join(image_token * count + part for count, part in zip(counts, rest, strict=True))
        shown = torch.tensor(self.encode(head))
        asked = torch.tensor(self.encode(question + after))
        types = torch.cat([(shown == self.processor.image_token_id).long(), torch.zeros_like(asked)])
        input_ids, size = torch.cat([shown, asked]), (0, 0)
        if counts:
            _, rows, columns = pictures.grids[0].tolist()
            size = columns * image_processor.patch_size, rows * image_processor.patch_size
        return QuestionPrompt(prompt_id, input_ids, types, pictures.pixels, pictures.grids, size, self.opened)

    def _prompts(
        self, ids: Sequence[str], images: Sequence[Image.Image], texts: list[str], opened: str
    ) -> list[QuestionPrompt]:
        # In one call: the processor's own overhead is ten times the work on a small image.
        pictures = self.processor.image_processor([self.pixels(image) for image in images], return_tensors="pt")
        grids = pictures["image_grid_thw"]
        pixels = pictures["pixel_values"].split(grids.prod(-1).tolist())
        image_processor, image_token = self.processor.image_processor, self.processor.image_token
        prompts = []
        for prompt_id, text, values, grid in zip(ids, texts, pixels, grids, strict=True):
            tokens = int(grid.prod()) // image_processor.merge_size**2
            input_ids = torch.tensor(self.encode(text.replace(image_token, image_token * tokens, 1)))
            types = (input_ids == self.processor.image_token_id).long()
            size = int(grid[2]) * image_processor.patch_size, int(grid[1]) * image_processor.patch_size
            prompts.append(QuestionPrompt(prompt_id, input_ids, types, values, grid[None], size, opened))
        return prompts

    def encode(self, text: str) -> list[int]:
        """Text -> token ids, nothing added."""
        return self.processor.tokenizer.encode(text, add_special_tokens=False)

    def decode(self, token_ids: torch.Tensor) -> str:
        """[T] completion tokens -> text, special tokens removed."""
        return self.processor.tokenizer.decode(token_ids, skip_special_tokens=True)


def opened_by_template(prompt: str) -> str:
    """What the generation prompt already opened, e.g. ``<think>\\n`` (Qwen3-VL-Thinking); else an empty string.

    The completion continues it, so the parser reads both together.
    """
    start = prompt.rfind("<think>")
    tail = prompt[start:] if start >= 0 else ""
    return tail if tail.strip() == "<think>" else ""
