"""Floating-point operations of a model's passes, counted from its layers; weights may be on the meta device."""

from __future__ import annotations

from collections.abc import Sequence
from time import perf_counter
from typing import Any

import torch
from torch import nn

SIDE = 2048
"""Of the matrices whose product gives the rate."""
PRODUCTS = 5


def linear_weights(part: nn.Module) -> int:
    """Weights that multiply every token that passes through ``part``."""
    return sum(one.in_features * one.out_features for one in part.modules() if isinstance(one, nn.Linear))


def image_flops(visual: Any, images: Sequence[int]) -> float:
    """A vision tower (Qwen2.5-VL, Qwen3-VL) on images of so many patches each, before they are merged."""
    settings = visual.config
    full, window = settings.depth, 0
    if hasattr(settings, "window_size"):
        window = (settings.window_size // settings.patch_size) ** 2
        full = len(settings.fullatt_block_indexes)
    pairs = sum(full * one**2 + (settings.depth - full) * one * min(window, one) for one in images)
    patches = sum(images)
    merged = patches // settings.spatial_merge_size**2
    dense = patches * (linear_weights(visual.blocks) + visual.patch_embed.proj.weight.numel())
    mergers = linear_weights(visual.merger) + linear_weights(getattr(visual, "deepstack_merger_list", nn.ModuleList()))
    return 2 * (dense + merged * mergers) + 4 * settings.hidden_size * pairs


def linear_layers(text: Any) -> int:
    """Layers of linear attention, whose work grows with the tokens alone."""
    return list(getattr(text, "layer_types", None) or []).count("linear_attention")


def text_flops(model: Any, tokens: float, pairs: float) -> float:
    """The language model on so many tokens, of which ``pairs`` (query, key) attend."""
    text = model.config.get_text_config()
    head = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    linear = linear_layers(text)
    attended = 4 * text.num_attention_heads * head * (text.num_hidden_layers - linear) * pairs
    if linear:  # each token reads a head's matrix twice and writes it once
        matrix = text.linear_num_value_heads * text.linear_key_head_dim * text.linear_value_head_dim
        attended += 6 * linear * matrix * tokens
    return 2 * tokens * linear_weights(model.model.language_model.layers) + attended


def prompt_flops(model: Any, lengths: Sequence[float]) -> float:
    """Prompts of these lengths through the language model: each token attends to itself and those before."""
    return text_flops(model, sum(lengths), sum(length * (length + 1) / 2 for length in lengths))


def completion_flops(model: Any, lengths: Sequence[float], tokens: float) -> float:
    """One completion behind each prompt, with the head at each of its tokens; the last is predicted, not fed."""
    fed, count = max(tokens - 1, 0), len(lengths)
    pairs = fed * sum(lengths) + count * fed * (fed + 1) / 2
    return text_flops(model, count * fed, pairs) + count * head_flops(model, tokens)


def head_flops(model: Any, tokens: float) -> float:
    """Logits of so many tokens."""
    return 2 * tokens * model.lm_head.weight.numel()


def matrix_rate(threads: int) -> float:
    """Floating-point operations per second of the best of a few large float32 products on the CPU."""
    torch.set_num_threads(threads)
    one, other = torch.randn(2, SIDE, SIDE)
    seconds = []
    for _ in range(PRODUCTS):
        start = perf_counter()
        one @ other
        seconds.append(perf_counter() - start)
    return 2 * SIDE**3 / min(seconds)
