"""Attention-in-Box: the maps against transformers' own, the shares against hand-worked ones."""

from __future__ import annotations

from copy import deepcopy

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText

from locus.analysis.attention import attention_in_box, attention_maps, coverage
from locus.policy.group_attention import WatchedContinuation
from locus.types import Box, Frame
from tests.support.models import FAMILIES, builder, completions, tiny_vlm
from tests.support.models import prompts as cue_prompts


@pytest.mark.parametrize("kv_heads", [1, 2])
@pytest.mark.parametrize("family", FAMILIES)
def test_maps_are_those_of_eager_attention(family: str, kv_heads: int):
    """Another position, layer or head order; padding that draws attention; a grid read by columns."""
    vlm = tiny_vlm(family, text_kv_heads=kv_heads)
    images = [Image.effect_noise(size, 90).convert("RGB") for size in ((96, 64), (64, 128))]
    texts = ["What colour is the star?", "Is there a red ring?"]
    prompts = [builder(family).build(str(i), text, images[i : i + 1]) for i, text in enumerate(texts)]
    stock = AutoModelForImageTextToText.from_config(deepcopy(vlm.model.config), attn_implementation="eager").eval()
    stock.load_state_dict(vlm.model.state_dict())
    for prompt, maps in zip(prompts, attention_maps(vlm, prompts), strict=True):
        with torch.no_grad():
            weights = stock(
                input_ids=prompt.input_ids[None],
                mm_token_type_ids=prompt.mm_token_type_ids[None],
                pixel_values=prompt.pixel_values,
                image_grid_thw=prompt.image_grid_thw,
                output_attentions=True,
            ).attentions
        image = prompt.mm_token_type_ids.bool()
        expected = torch.stack([layer[0, :, -1, image].mean(0) for layer in weights])
        _, rows, columns = prompt.image_grid_thw[0].tolist()
        assert maps.shape == (len(weights), rows // 2, columns // 2)
        np.testing.assert_allclose(maps.reshape(len(weights), -1), expected, atol=1e-5)


@pytest.mark.parametrize("kv_heads", [1, 2])
def test_a_continuation_can_be_watched(kv_heads: int):
    """Scores of another head, row or layer: the pretraining would push the wrong ones to the evidence."""
    vlm = tiny_vlm("qwen3_vl", text_kv_heads=kv_heads)
    prompts, batch, plans = cue_prompts("qwen3_vl"), completions(), []

    def plan(*layout: object) -> WatchedContinuation:
        plans.append(WatchedContinuation(*layout, (1,), 2))
        return plans[0]

    with torch.no_grad():
        vlm.completion_hidden(vlm.encode(prompts), batch.token_ids, torch.ones_like(batch.mask), plan)
        (scores,) = plans[0].scores  # [B, G, heads, T-1, P]
        stock = AutoModelForImageTextToText.from_config(deepcopy(vlm.model.config), attn_implementation="eager").eval()
        stock.load_state_dict(vlm.model.state_dict())
        for b, prompt in enumerate(prompts):
            row = batch.token_ids[b, 1, :-1]
            types = torch.cat([prompt.mm_token_type_ids, torch.zeros_like(row)])[None]
            expected = stock(
                input_ids=torch.cat([prompt.input_ids, row])[None],
                mm_token_type_ids=types,
                pixel_values=prompt.pixel_values,
                image_grid_thw=prompt.image_grid_thw,
                output_attentions=True,
            ).attentions[1][0, :, prompt.length :, : prompt.length]  # [heads, T-1, P]
            found = scores[b, 1, ..., : prompt.length].softmax(-1)
            np.testing.assert_allclose(found, expected / expected.sum(-1, keepdim=True), atol=1e-5)


def test_shares_by_hand():
    """Two layers on a 2x3 grid, box over the upper left cell and a tenth of its right neighbour."""
    boxes = [Box(0, 0, 33, 30, Frame.FILE, 90, 60)]
    assert (coverage(boxes, 2, 3) > 0).tolist() == [[True, True, False], [False, False, False]]
    maps = np.array([[[0.4, 0.1, 0.1], [0.1, 0.1, 0.0]], [[0.0, 0.0, 0.1], [0.1, 0.0, 0.0]]])
    found = attention_in_box(maps, boxes)
    assert found.by_layer == pytest.approx((0.5 / 0.8, 0.0))
    assert found.mean == pytest.approx(0.5 / 1.0) and found.peak and found.area == pytest.approx(2 / 6)
    assert found.covered == pytest.approx(0.41) and found.peak_by_layer == (True, False)
    assert not attention_in_box(maps, [Box(60, 30, 90, 60, Frame.FILE, 90, 60)]).peak


def test_coverage_by_hand():
    """Overlapping boxes counted twice, a box beyond the image, rows and columns swapped."""
    boxes = [Box(0, 0, 20, 10, Frame.FILE, 40, 20), Box(10, 0, 30, 5, Frame.FILE, 40, 20)]
    assert coverage(boxes, 1, 2).tolist() == [pytest.approx([0.5, 0.125])]
    assert coverage(boxes, 2, 1).ravel() == pytest.approx([0.625, 0.0])
    assert coverage([Box(-5, -5, 400, 200, Frame.UNIT1000, 100, 100)], 3, 3).tolist() == np.ones((3, 3)).tolist()
    # 196 of 1,400 px in 50 columns is 7 cells; as a float 7.000000000000001.
    assert (coverage([Box(0, 0, 196, 10, Frame.FILE, 1400, 10)], 1, 50) > 0).sum() == 7
    rng = np.random.default_rng(0)
    corners = np.sort(rng.uniform(0, 1, (2, 3, 2)), axis=0)
    boxes = [Box(*low, *high, Frame.FILE, 1, 1) for low, high in zip(*corners, strict=True)]
    fine = (np.arange(700) + 0.5) / 700
    inside = np.zeros((700, 700), dtype=bool)
    for box in boxes:
        inside |= ((fine > box.y1) & (fine < box.y2))[:, None] & ((fine > box.x1) & (fine < box.x2))
    np.testing.assert_allclose(coverage(boxes, 7, 5), inside.reshape(7, 100, 5, 140).mean((1, 3)), atol=0.02)
