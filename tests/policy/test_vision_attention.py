"""Attention of the vision towers: a few calls for all segments, equal to one call per segment."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

from locus.policy.vision_attention import NAME, by_runs
from locus.policy.vlm import VLM
from locus.types import Prompt
from tests.support.group_forward import FAMILY, largest_relative
from tests.support.models import FAMILIES, SIZES, backbone, gradients, prompts, tiny_vlm

ODD = (((300, 200), (8, 12, 40, 44)), ((64, 128), (5, 60, 37, 124)))
"""Images that windows do not divide: whole windows, both edges, and a corner."""


class Calls(TorchFunctionMode):
    """Counts calls of SDPA."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_function__(self, function, types, arguments=(), keywords=None):
        self.count += function is F.scaled_dot_product_attention
        return function(*arguments, **(keywords or {}))


def seen(vlm: VLM, records: list[Prompt], implementation: str) -> tuple[torch.Tensor, dict[str, torch.Tensor], int]:
    """Features of all pictures, the tower's gradients, and calls of SDPA, with this attention in the tower."""
    vlm.model.set_attn_implementation({"vision_config": implementation})
    kept: list[torch.Tensor] = []

    def objective() -> torch.Tensor:
        with Calls() as calls:
            parts = [part for one in vlm.vision_features(records) for part in (one.embeddings, *one.deepstack)]
        kept[:] = torch.cat(parts).detach(), torch.tensor(calls.count)
        weights = torch.randn(kept[0].shape, generator=torch.Generator().manual_seed(3))
        return (torch.cat(parts) * weights).sum()

    grads = gradients(vlm, objective)
    return kept[0], grads, int(kept[1])


@FAMILY
@pytest.mark.parametrize("sizes", [SIZES, ODD])
def test_features_and_gradients_are_those_of_a_call_per_segment(family: str, sizes: tuple):
    """Patches that attend to another window's or image's, or outputs at other patches' places; full layers, too."""
    vlm, records = tiny_vlm(family, scale=3.0), prompts(family, sizes)
    ours, gradient, few = seen(vlm, records, NAME)
    stock, expected, many = seen(vlm, records, "sdpa")
    torch.testing.assert_close(ours, stock, rtol=0, atol=1e-5)
    assert largest_relative(gradient, expected) < 1e-5
    assert few <= many
    other, _, _ = seen(vlm, prompts(family, [SIZES[0]] * len(records)), NAME)
    assert other.shape != ours.shape or (other - ours).abs().max() > 1e-2


def test_calls_follow_the_rows_of_windows_not_their_number():
    """The loop over windows back again: neighbours of one size share a call, and a picture is one segment itself."""
    (record,) = prompts("qwen2_5_vl", (((700, 812), (8, 12, 40, 44)),))
    vlm = tiny_vlm("qwen2_5_vl", vision_layers=3)  # two windowed layers, a full one
    _, _, few = seen(vlm, [record], NAME)
    _, _, many = seen(vlm, [record], "sdpa")
    pictures = len(record.image_grid_thw)
    rows = sum(-(-int(grid[1]) // 8) for grid in record.image_grid_thw)
    assert few <= 2 * (2 * rows) + pictures < many / 2


def test_segments_against_a_dense_mask():
    """An independent way: all patches at once under a block-diagonal mask; lengths in no order, one of them 0."""
    generator = torch.Generator().manual_seed(0)
    bounds = [0, 3, 7, 10, 10, 11, 15, 18]
    query, key, value = torch.randn(3, 1, 2, 18, 4, generator=generator)
    segment = torch.zeros(18, dtype=torch.long)
    for number, (start, end) in enumerate(pairwise(bounds)):
        segment[start:end] = number
    mask = segment[:, None] == segment
    dense = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=0.3)
    packed = [states[0].transpose(0, 1) for states in (query, key, value)]
    torch.testing.assert_close(by_runs(packed, bounds, 0.3), dense[0].transpose(0, 1), rtol=0, atol=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_loaded_vision_tower_attends_by_segments(family: str):
    """A tower that is left at one call per window, or given the group attention, where a plan never comes."""
    assert backbone(family).load().model.config.vision_config._attn_implementation == NAME
