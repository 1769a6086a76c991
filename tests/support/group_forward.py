"""What tests of the group forward measure, and how far two exact ways may lie apart."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForImageTextToText

from locus.policy.logprobs import PackedScorer, TokenScores
from locus.policy.vlm import VLM
from tests.support.models import FAMILIES, completions, gradients, prompts

FAMILY = pytest.mark.parametrize("family", FAMILIES)
HEADS = pytest.mark.parametrize("kv_heads", [1, 2])  # of two query heads: grouped-query attention, and not
LOGPROB, ENTROPY, RELATIVE = 1e-5, 5e-5, 1e-4
CPU = torch.device("cpu")


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
