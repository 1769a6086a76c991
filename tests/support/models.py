"""Models and prompts small enough for a test, of both families, with distributions that are far from flat."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache

import numpy as np
import torch
from PIL import Image

from locus.policy.backbone import Backbone
from locus.policy.logprobs import CompletionBatch
from locus.policy.prompts import CueCollator, PixelLimits
from locus.policy.tiny import TinyArchitecture, TinyQwen2_5VL, TinyQwen3VL
from locus.policy.vlm import VLM
from locus.tasks.cue_search.cues import render_cue
from locus.types import CueExample, CuePixels, Frame, PromptRecord

FAMILIES: dict[str, tuple[type[TinyArchitecture], Frame]] = {
    "qwen3_vl": (TinyQwen3VL, Frame.UNIT1000),
    "qwen2_5_vl": (TinyQwen2_5VL, Frame.PROCESSED),
}
SMALLEST = {
    "text_layers": 2,
    "text_width": 64,
    "text_heads": 2,
    "text_kv_heads": 1,
    "text_mlp": 96,
    "vision_layers": 2,
    "vision_width": 64,
    "vision_heads": 2,
    "vision_mlp": 96,
}
SCALE = 10.0
"""On all matrices of a random model: as initialised (std 0.02) its tokens are all alike and hide errors."""
SIZES = (((96, 80), (8, 12, 40, 44)), ((64, 128), (5, 60, 37, 124)), ((80, 64), (20, 10, 68, 42)))
"""Images (width, height) with a crop each, such that no two prompts are of one length."""


def backbone(family: str, **settings: object) -> Backbone:
    """A backbone of the smallest sizes; settings that `Backbone` has not are the architecture's."""
    architecture, frame = FAMILIES[family]
    own = {name: settings.pop(name) for name in list(settings) if name in Backbone.__dataclass_fields__}
    return Backbone(**{"frame": frame, "architecture": architecture(**(SMALLEST | settings))} | own)


def tiny_vlm(family: str, scale: float = SCALE, **settings: object) -> VLM:
    """A policy in evaluation mode with large random weights; the same ones at every call."""
    vlm = backbone(family, **settings).load().eval()
    with torch.no_grad():
        for parameter in vlm.parameters():
            if parameter.ndim > 1:
                parameter.mul_(scale)
    return vlm


@lru_cache
def collator(family: str) -> CueCollator:
    """The collator of a family, with the processor's own pixel limits."""
    return CueCollator(backbone(family).processor(), FAMILIES[family][1], PixelLimits())


def sample(size: tuple[int, int], box: tuple[float, float, float, float], name: str = "0") -> CuePixels:
    """A corpus row with its pictures: noise, so that no two patches are alike."""
    rng = np.random.default_rng([*size, *(int(side) for side in box)])
    image = Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))
    ratio = (box[2] - box[0]) * (box[3] - box[1]) / (size[0] * size[1])
    example = CueExample(f"example-{name}", f"image-{name}", f"{name}.png", *size, box, ratio, "tiny")
    return CuePixels(example, image, render_cue(image, box))


def prompts(family: str, sizes: Sequence = SIZES) -> list[PromptRecord]:
    """Prompt records of images of different sizes, in order."""
    return collator(family)([sample(size, box, str(i)) for i, (size, box) in enumerate(sizes)])


def text_prompt(family: str, text: str = "Where is the red star?") -> PromptRecord:
    """A prompt without any picture."""
    record = prompts(family, SIZES[:1])[0]
    ids = torch.tensor(collator(family).encode(text))
    return replace(
        record,
        input_ids=ids,
        mm_token_type_ids=torch.zeros_like(ids),
        pixel_values=record.pixel_values[:0],
        image_grid_thw=record.image_grid_thw[:0],
    )


def token_ids(lengths: Sequence[Sequence[int]], seed: int = 0) -> list[list[torch.Tensor]]:
    """Random completions of the given lengths, [B][G]; ordinary tokens only."""
    generator = torch.Generator().manual_seed(seed)
    return [[torch.randint(0, 1500, (length,), generator=generator) for length in group] for group in lengths]


LENGTHS = ((7, 3, 5), (1, 9, 4), (6, 6, 2))
"""Of the completions of three groups."""


def completions(lengths: Sequence[Sequence[int]] = LENGTHS, seed: int = 0) -> CompletionBatch:
    """Random completions of different lengths as a batch."""
    return CompletionBatch.of(token_ids(lengths, seed), torch.device("cpu"))


def gradients(vlm: VLM, objective: Callable[[], torch.Tensor]) -> dict[str, torch.Tensor]:
    """Gradients of a scalar by parameter; a parameter that gets none is absent."""
    vlm.zero_grad(set_to_none=True)
    objective().backward()
    found = {name: p.grad.clone() for name, p in vlm.named_parameters() if p.grad is not None}
    vlm.zero_grad(set_to_none=True)
    return found
