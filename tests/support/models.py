"""Models and prompts small enough for a test, of both families, with distributions that are far from flat."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache

import numpy as np
import pyarrow as pa
import torch
from PIL import Image

from locus.policy.backbone import Backbone
from locus.policy.logprobs import CompletionBatch
from locus.policy.prompts import PixelLimits, PromptBuilder
from locus.policy.tiny import TinyArchitecture, TinyQwen2_5VL, TinyQwen3VL
from locus.policy.vlm import VLM
from locus.tasks.cue_search.corpus import SCHEMA, Corpus, CueTable
from locus.tasks.cue_search.task import CueSearch
from locus.tasks.datamodule import SampleMaker
from locus.types import CueExample, Frame, Prompt, Sample

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
def builder(family: str) -> PromptBuilder:
    """The prompt builder of a family, with the processor's own pixel limits."""
    return PromptBuilder(backbone(family).processor(), PixelLimits())


def example(size: tuple[int, int], box: tuple[float, float, float, float], name: str = "0") -> CueExample:
    """A corpus row of an image of `NoiseImages`."""
    ratio = (box[2] - box[0]) * (box[3] - box[1]) / (size[0] * size[1])
    path = ",".join(str(int(side)) for side in (*size, *box)) + f",{name}.png"
    return CueExample(f"example-{name}", f"image-{name}", path, *size, box, ratio, "tiny")


class NoiseImages:
    """Opens images of noise, in which no two patches are alike; the path of an `example` says which."""

    def open(self, path: str) -> Image.Image:
        """The same for a path."""
        numbers = [int(side) for side in path.split(",")[:-1]]
        pixels = np.random.default_rng(numbers).integers(0, 256, (numbers[1], numbers[0], 3), dtype=np.uint8)
        return Image.fromarray(pixels)


def cue_task(examples: Sequence[CueExample], **parts: object) -> CueSearch:
    """Cue search on these examples of `NoiseImages`, for training and validation alike."""
    names = (
        "example_id",
        "image_id",
        "image_path",
        "width",
        "height",
        "box",
        "area_ratio",
        "bin",
        "label",
        "cue_scale",
    )
    columns = {name: [getattr(one, name) for one in examples] for name in names}
    tables = {split: CueTable(pa.table(columns, schema=SCHEMA), split) for split in ("train", "validation")}
    return CueSearch(Corpus(**tables, seed=0, asked={}), NoiseImages(), **parts)


def sample_maker(family: str, examples: Sequence[CueExample], pixels: PixelLimits | None = None) -> SampleMaker:
    """Makes samples of cue search on these examples."""
    make = builder(family) if pixels is None else PromptBuilder(backbone(family).processor(), pixels)
    return SampleMaker(cue_task(examples), make, FAMILIES[family][1])


def samples(family: str, sizes: Sequence = SIZES, pixels: PixelLimits | None = None) -> list[Sample]:
    """Cue-search samples of images of different sizes, in order."""
    examples = [example(size, box, str(i)) for i, (size, box) in enumerate(sizes)]
    make = sample_maker(family, examples, pixels)
    return [make(one) for one in examples]


def prompts(family: str, sizes: Sequence = SIZES) -> list[Prompt]:
    """Their prompts."""
    return [one.prompt for one in samples(family, sizes)]


def text_prompt(family: str, text: str = "Where is the red star?") -> Prompt:
    """A prompt without any picture."""
    prompt = prompts(family, SIZES[:1])[0]
    ids = torch.tensor(builder(family).encode(text))
    return replace(
        prompt,
        input_ids=ids,
        mm_token_type_ids=torch.zeros_like(ids),
        pixels=replace(prompt.pixels, levels=prompt.pixels.levels[:0]),
        image_grid_thw=prompt.image_grid_thw[:0],
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
