"""What tests of the group forward measure, and how far two exact ways may lie apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from transformers import AutoModelForImageTextToText

from locus.policy.joined_attention import SHORT
from locus.policy.logprobs import PackedScorer, TokenScores
from locus.policy.vlm import VLM
from locus.types import Prompt
from tests.support.models import FAMILIES, completions, gradients, prompts

FAMILY = pytest.mark.parametrize("family", FAMILIES)
HEADS = pytest.mark.parametrize("kv_heads", [1, 2])  # of two query heads: grouped-query attention, and not
LOGPROB, ENTROPY, RELATIVE = 1e-5, 5e-5, 1e-4
CPU = torch.device("cpu")
WIDTH = 16
"""Of a head in `packed_states`."""
LAYOUTS = {
    "ragged": ([[3, 1, 7], [5, 0, 2]], [11, 8]),
    "a prompt without rows": ([[2, 4], [0, 0], [1, 3]], [6, 9, 4]),
    "several buckets": ([[SHORT - 1, 2 * SHORT + 3], [SHORT + 1, 1]], [5, 40]),
    "one row": ([[6]], [70]),
}
"""Lengths of the rows, and of the prompts."""


def weighted(scores: TokenScores) -> torch.Tensor:
    """A sum in which every token has a weight of its own, so that no two may be swapped unseen."""
    generator = torch.Generator().manual_seed(5)
    return (scores.logprobs * torch.randn(scores.logprobs.shape, generator=generator)).sum()


def largest_relative(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> float:
    """The worst relative difference of any parameter's gradient."""
    assert found.keys() == expected.keys()
    return max(float((found[name] - g).norm() / g.norm()) for name, g in expected.items())


def packed_gradients(vlm: VLM, family: str, chunk: int = 8192) -> dict[str, torch.Tensor]:
    """Gradients of `weighted` through the packed rows."""
    return gradients(vlm, lambda: weighted(PackedScorer(chunk)(vlm, prompts(family), completions(), 1.0)))


def stock_model(vlm: VLM) -> torch.nn.Module:
    """The same weights in a model that knows nothing of the group attention."""
    config = type(vlm.model.config).from_dict(vlm.model.config.to_dict())
    stock = AutoModelForImageTextToText.from_config(config, attn_implementation="sdpa").eval()
    stock.load_state_dict(vlm.model.state_dict())
    return stock


def packed_states(lengths: Sequence[Sequence[int]], prompt_tokens: Sequence[int], heads: int, kv_heads: int,
           dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:  # fmt: skip
    """Query, key and value of a pack, keys and values of its prompts; as in a layer, tokens before heads in memory."""
    generator = torch.Generator().manual_seed(0)
    tokens, size, longest = sum(map(sum, lengths)), len(lengths), max(prompt_tokens)
    shapes = [(tokens, n, WIDTH) for n in (heads, kv_heads, kv_heads)] + [(size, kv_heads, longest, WIDTH)] * 2
    return [torch.randn(shape, generator=generator, dtype=dtype).requires_grad_() for shape in shapes]


def blank_prompt(name: str, length: int) -> Prompt:
    """A prompt of this many tokens."""
    ids = torch.zeros(length, dtype=torch.long)
    return Prompt(name, ids, ids, torch.zeros(0), torch.zeros(2, 3, dtype=torch.long), (64, 64))


def generated(stock: Any, vlm: VLM, prompt: Prompt, tokens: int) -> list[int]:
    """Greedy token ids of transformers' own ``generate`` behind one prompt."""
    ids = stock.generate(
        input_ids=prompt.input_ids[None],
        attention_mask=torch.ones_like(prompt.input_ids[None]),
        mm_token_type_ids=prompt.mm_token_type_ids[None],
        pixel_values=prompt.pixel_values,
        image_grid_thw=prompt.image_grid_thw,
        do_sample=False,
        max_new_tokens=tokens,
        eos_token_id=list(vlm.end_token_ids),
        suppress_tokens=vlm.forbidden.tolist(),
    )
    return ids[0, prompt.length :].tolist()
