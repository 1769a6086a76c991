"""Prompts that are planned from sizes alone, against those that are made of pictures."""

from __future__ import annotations

import pytest
import torch

from locus.policy.prompts import PixelLimits
from tests.support.models import FAMILIES, SIZES, example, sample_maker

LIMITS = {"own": PixelLimits(), "easyr1": PixelLimits(9_000, 10_000)}


@pytest.mark.parametrize("limits", LIMITS)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_planned_prompt_is_the_real_one_without_pixels(family: str, limits: str):
    """A plan of other sizes than the processor's own rule gives, or of another text: memory and time of another run."""
    examples = [example(size, box, str(i)) for i, (size, box) in enumerate(SIZES)]
    make = sample_maker(family, examples, LIMITS[limits])
    for one in examples:
        text, sizes = make.task.outline(one, FAMILIES[family][1])
        planned, real = make.builder.prompt(one.example_id, make.builder.blank(sizes), text), make(one).prompt
        assert torch.equal(planned.input_ids, real.input_ids)
        assert torch.equal(planned.image_grid_thw, real.image_grid_thw)
        assert planned.pixels.levels.shape == real.pixels.levels.shape
