"""Text and images -> a prompt, through the model's own processor and chat template."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from PIL import Image
from transformers import ProcessorMixin

from locus.errors import LocusError
from locus.policy.families.qwen_vl import QwenVL
from locus.policy.family import Family
from locus.types import Pixels, Prompt

AS_LEVELS = {"do_rescale": False, "do_normalize": False, "return_tensors": "pt"}
"""Has an image processor resize and cut into patches only: levels of colour, 0 to 255 (uint8)."""


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
        if self.min_pixels is not None and self.max_pixels is not None and self.min_pixels > self.max_pixels:
            raise LocusError(
                f"pixels.min_pixels={self.min_pixels} is above pixels.max_pixels={self.max_pixels}: lower the first, "
                "or give null for none"
            )

    def __call__(self, image: Image.Image) -> Image.Image:
        """Returns the image, resized (bicubic) only where a limit asks for it."""
        size = self.size(*image.size)
        return image if size == image.size else image.resize(size, Image.Resampling.BICUBIC)

    def size(self, width: int, height: int) -> tuple[int, int]:
        """Width and height that an image of these gets."""
        area = width * height
        factor = 1.0
        if self.max_pixels is not None and area > self.max_pixels:
            factor = math.sqrt(self.max_pixels / area)
        if self.min_pixels is not None and area < self.min_pixels:
            factor = math.sqrt(self.min_pixels / area)
        return (width, height) if factor == 1.0 else (max(1, int(width * factor)), max(1, int(height * factor)))


@dataclass(frozen=True, eq=False)
class PictureInputs:
    """Processed images of one prompt."""

    pixels: Pixels
    grids: torch.Tensor
    """[images, 3] int64."""


class PromptBuilder:
    """Makes prompts of any number of images with a text behind them.

    Images are processed apart (`picture_inputs`), so that many questions about one image share the work; a prompt is,
    token for token, what the processor makes of the chat template.
    """

    def __init__(self, processor: ProcessorMixin, pixels: PixelLimits, family: Family | None = None):
        self.processor: Any = processor  # ProcessorMixin lacks what every family has, as image_token
        self.pixels = pixels
        self.family: Family = QwenVL() if family is None else family
        self._around: dict[int, tuple[str, str]] = {}
        self._trims = False
        self.before, self.after = self._around_text(1)
        self._table = level_table(self.processor.image_processor)
        self.opened = opened_by_template(self.after)

    @property
    def patch_size(self) -> int:
        """Side of a vision patch, in pixels of the processed image."""
        return self.processor.image_processor.patch_size

    def build(self, prompt_id: str, text: str, images: Sequence[Image.Image]) -> Prompt:
        """The images in their order, then the text; raises LocusError when the processor refuses one."""
        return self.prompt(prompt_id, self.picture_inputs(images), text)

    def picture_inputs(self, images: Sequence[Image.Image]) -> PictureInputs:
        """Images -> what the vision tower takes; raises LocusError when the processor refuses one."""
        if not images:
            return PictureInputs(self._pixels(torch.empty(0, dtype=torch.uint8)), torch.empty(0, 3, dtype=torch.long))
        try:
            inputs = self.processor.image_processor([self.pixels(image) for image in images], **AS_LEVELS)
        except ValueError as error:  # sides of ratio over 200
            raise LocusError(f"the processor refuses the image: {error}") from error
        return PictureInputs(self._pixels(inputs["pixel_values"]), inputs["image_grid_thw"])

    def prompt(self, prompt_id: str, pictures: PictureInputs, text: str) -> Prompt:
        """A whole prompt of processed images."""
        before, after = self._around_text(len(pictures.grids))
        shown = text if len(pictures.grids) or not self._trims else text.lstrip()
        return self._prompt(prompt_id, pictures, before, self._trimmed(shown) + after, self.opened)

    def blank(self, sizes: Sequence[tuple[int, int]]) -> PictureInputs:
        """What images of these (width, height) would be, by the processor's own resize rule, without their pixels;
        raises LocusError as `picture_inputs` does."""
        own = self.processor.image_processor
        try:
            sides = [self.family.grid(own, *self.pixels.size(*size)) for size in sizes]
        except ValueError as error:  # sides of ratio over 200
            raise LocusError(f"the processor refuses the image: {error}") from error
        grids = torch.tensor(sides, dtype=torch.long).view(-1, 3)
        empty = torch.zeros(1, len(self._table), own.patch_size**2, dtype=torch.uint8)
        levels = empty.expand(int(grids.prod(-1).sum()), -1, -1)
        return PictureInputs(Pixels(levels, self._table, own.temporal_patch_size), grids)

    def image_prompts(self, images: Sequence[Image.Image]) -> list[Prompt]:
        """One prompt per image, ending where its question would begin: questions follow as completions."""
        # In one call: the processor's own overhead is ten times the work on a small image.
        pictures = self.picture_inputs(images)
        levels = pictures.pixels.levels.split(pictures.grids.prod(-1).tolist())
        parts = [
            PictureInputs(replace(pictures.pixels, levels=one), grid[None])
            for one, grid in zip(levels, pictures.grids, strict=True)
        ]
        return [self._prompt(str(index), part, self.before, "", "") for index, part in enumerate(parts)]

    def turn(self, question: str) -> str:
        """What follows the image in a prompt: the question, and all up to the completion."""
        return self._trimmed(question) + self.after

    def _trimmed(self, text: str) -> str:
        """What the template leaves of a text at the end of a turn: Qwen3.5's takes white space away."""
        return text.rstrip() if self._trims else text

    def encode(self, text: str) -> list[int]:
        """Text -> token ids, nothing added."""
        return self.processor.tokenizer.encode(text, add_special_tokens=False)

    def decode(self, token_ids: torch.Tensor) -> str:
        """[T] completion tokens -> text, special tokens removed."""
        return self.processor.tokenizer.decode(token_ids, skip_special_tokens=True)

    def _pixels(self, patches: torch.Tensor) -> Pixels:
        """[patches, channels * frames * values] levels, each frame the same, as one frame's."""
        image_processor = self.processor.image_processor
        values, frames = image_processor.patch_size**2, image_processor.temporal_patch_size
        levels = patches.view(-1, len(self._table), frames, values)[:, :, 0].contiguous()
        return Pixels(levels, self._table, frames)

    def _prompt(self, prompt_id: str, pictures: PictureInputs, before: str, rest: str, opened: str) -> Prompt:
        image_processor, image_token = self.processor.image_processor, self.processor.image_token
        first, *others = before.split(image_token)
        counts = [self.family.image_tokens(image_processor, grid) for grid in pictures.grids]
        head = first + "".join(image_token * count + part for count, part in zip(counts, others, strict=True))
        if not counts:  # no image token parts the two, and tokens may span the seam
            head, rest = "", head + rest
        shown, asked = (torch.tensor(self.encode(part), dtype=torch.long) for part in (head, rest))
        types = torch.cat([(shown == self.processor.image_token_id).long(), torch.zeros_like(asked)])
        size = (0.0, 0.0)
        if counts:
            _, rows, columns = pictures.grids[0].tolist()
            size = columns * self.patch_size, rows * self.patch_size
        ids = torch.cat([shown, asked])
        return Prompt(prompt_id, ids, types, pictures.pixels, pictures.grids, size, opened)

    def _around_text(self, images: int) -> tuple[str, str]:
        """The chat template's text before and after a prompt's own, with this many images before it; rendered once."""
        if images not in self._around:
            marker = "\0text\0"
            content = [{"type": "image"}] * images + [{"type": "text", "text": marker + " "}]
            text = self.processor.apply_chat_template(
                [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
            )
            before, after = text.split(marker)
            self._trims = not after.startswith(" ")
            self._around[images] = before, after.removeprefix(" ")
        return self._around[images]


def level_table(image_processor: Any) -> torch.Tensor:
    """[channels, 256] float32: what an image processor makes of each of the 256 levels of each channel.

    Read off an image that has them all, so that looking a level up gives the processor's own value to the last bit, on
    any device. Raises LocusError for a processor that does not give levels.
    """
    side = image_processor.patch_size * image_processor.merge_size
    width = side * math.ceil(256 / side)
    ramp = torch.arange(side * width, dtype=torch.int).remainder(256).to(torch.uint8).view(1, side, width)
    image, still = Image.fromarray(ramp[0].numpy()).convert("RGB"), {"do_resize": False, "return_tensors": "pt"}
    levels, values = (image_processor([image], **still | how)["pixel_values"] for how in (AS_LEVELS, {}))
    if levels.dtype != torch.uint8:
        raise LocusError(f"{type(image_processor).__name__} is not supported: it gives no whole levels of colour")
    shape = -1, 3, image_processor.temporal_patch_size * image_processor.patch_size**2
    table = torch.empty(3, 256)
    for channel in range(3):
        table[channel][levels.view(shape)[:, channel].long()] = values.view(shape)[:, channel]
    return table


def opened_by_template(prompt: str) -> str:
    """What the generation prompt already opened, e.g. ``<think>\\n`` (Qwen3-VL-Thinking); else an empty string.

    The completion continues it, so the parser reads both together.
    """
    start = prompt.rfind("<think>")
    tail = prompt[start:] if start >= 0 else ""
    return tail if tail.strip() == "<think>" else ""
