"""The group forward is exact: one packed row per prompt scores as G separate rows of stock transformers do."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode

from locus.errors import LocusError
from locus.policy import logprobs
from locus.policy.logprobs import CompletionBatch, PackedScorer, SeparateScorer, _LogSoftmaxAt
from locus.policy.rollouts import sample_groups
from locus.policy.vlm import VLM
from locus.types import Sampling
from tests.support.group_forward import (
    CPU,
    ENTROPY,
    FAMILY,
    HEADS,
    LOGPROB,
    RELATIVE,
    largest_relative,
    packed_gradients,
    stock_model,
    weighted,
)
from tests.support.models import LENGTHS, completions, gradients, prompts, text_prompt, tiny_vlm, token_ids


# --- Packed rows against separate rows ------------------------------------------------------------------------
@FAMILY
@HEADS
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_packed_logprobs_are_those_of_separate_rows(family: str, kv_heads: int, temperature: float):
    """A wrong mask, position or image place in the packed row; a temperature that only one path applies."""
    vlm, batch = tiny_vlm(family, text_kv_heads=kv_heads), completions()
    with torch.no_grad():
        packed = PackedScorer()(vlm, prompts(family), batch, temperature)
        separate = SeparateScorer()(vlm, prompts(family), batch, temperature)
    assert packed.logprobs.dtype == torch.float32
    torch.testing.assert_close(packed.logprobs, separate.logprobs, rtol=0, atol=LOGPROB)
    torch.testing.assert_close(packed.entropy, separate.entropy, rtol=0, atol=ENTROPY)
    assert torch.equal(packed.mask, batch.mask) and not packed.logprobs[~batch.mask].any()
    assert packed.entropy[batch.mask].mean() < 6.6  # of ln 1,700 = 7.4: a flat distribution would hide errors


@FAMILY
@pytest.mark.parametrize("temperature", [0.0, 1.0, 0.5])
def test_scores_by_definition(family: str, temperature: float):
    """Log-probs and entropy of softmax(logits / temperature) without the vision tokens, from a stock model's logits.

    Greedy rollouts, temperature 0, are scored at 1.
    """
    vlm, (record, *_), ids = tiny_vlm(family), prompts(family), token_ids(((9,),))[0][0]
    with torch.no_grad():
        logits = stock_model(vlm)(
            input_ids=torch.cat([record.input_ids, ids])[None],
            mm_token_type_ids=torch.cat([record.mm_token_type_ids, torch.zeros_like(ids)])[None],
            pixel_values=record.pixel_values,
            image_grid_thw=record.image_grid_thw,
        ).logits[0, record.length - 1 : -1]
        scores = PackedScorer()(vlm, [record], CompletionBatch.of([[ids]], CPU), temperature)
    allowed = [token for token in range(logits.shape[-1]) if token not in vlm.forbidden.tolist()]
    distribution = torch.distributions.Categorical(logits=logits[:, allowed].double() / (temperature or 1))
    expected = distribution.log_prob(torch.tensor([allowed.index(token) for token in ids]))
    torch.testing.assert_close(scores.logprobs[0, 0], expected.float(), rtol=0, atol=LOGPROB)
    torch.testing.assert_close(scores.entropy[0, 0], distribution.entropy().float(), rtol=0, atol=ENTROPY)


@FAMILY
@HEADS
def test_packed_gradients_are_those_of_separate_rows(family: str, kv_heads: int):
    """A path that the gradient does not take, e.g. through the shared prompt, the pictures or DeepStack."""
    vlm = tiny_vlm(family, text_kv_heads=kv_heads)
    separate = gradients(vlm, lambda: weighted(SeparateScorer()(vlm, prompts(family), completions(), 1.0)))
    packed = packed_gradients(vlm, family)
    assert packed.keys() == {name for name, _ in vlm.named_parameters()}
    assert all(gradient.abs().max() > 0 for gradient in packed.values())
    assert largest_relative(packed, separate) < RELATIVE


@FAMILY
def test_frozen_vision_tower_gets_no_gradient_and_leaves_the_others_unchanged(family: str):
    """A frozen tower that still trains, or freezing that also cuts the language model's gradient."""
    trained = packed_gradients(tiny_vlm(family), family)
    frozen = packed_gradients(tiny_vlm(family, train_vision=False), family)
    assert any(".visual." in name for name in trained)
    text = {name: gradient for name, gradient in trained.items() if ".visual." not in name}
    assert largest_relative(frozen, text) < 1e-6


@FAMILY
def test_completions_of_one_token(family: str):
    """T = 1 feeds no completion token at all: the row is the prompt alone."""
    vlm, batch = tiny_vlm(family), completions(((1, 1), (1, 1), (1, 1)))
    with torch.no_grad():
        packed = PackedScorer()(vlm, prompts(family), batch, 1.0).logprobs
        separate = SeparateScorer()(vlm, prompts(family), batch, 1.0).logprobs
    torch.testing.assert_close(packed, separate, rtol=0, atol=LOGPROB)


@FAMILY
def test_vision_tokens_have_no_probability_when_scored(family: str):
    """Scores that count tokens which are never sampled: the ratio of rollout and update would not be 1."""
    vlm = tiny_vlm(family)
    token = int(vlm.forbidden[0])
    batch = CompletionBatch.of([[torch.tensor([5, 6])]], CPU)
    bias = vlm.lm_head.register_forward_hook(lambda module, inputs, logits: logits.index_fill(-1, vlm.forbidden, 99.0))
    with torch.no_grad():
        biased = PackedScorer()(vlm, prompts(family)[:1], batch, 1.0).logprobs
        bias.remove()
        plain = PackedScorer()(vlm, prompts(family)[:1], batch, 1.0).logprobs
        stray = CompletionBatch.of([[torch.tensor([token])]], CPU)
        assert PackedScorer()(vlm, prompts(family)[:1], stray, 1.0).logprobs.item() < -1e30
    assert torch.equal(biased, plain)


# --- Vision features ------------------------------------------------------------------------------------------
@FAMILY
def test_features_passed_in_equal_recomputed_ones(family: str):
    """Features kept from the rollout that land in other places, or of which the DeepStack part is lost."""
    vlm, records, batch = tiny_vlm(family, train_vision=False), prompts(family), completions()
    with torch.no_grad():
        features = [vlm.vision_features([record])[0] for record in records]
        given = PackedScorer()(vlm, records, batch, 1.0, features).logprobs
        computed = PackedScorer()(vlm, records, batch, 1.0).logprobs
    torch.testing.assert_close(given, computed, rtol=0, atol=LOGPROB)


@FAMILY
@pytest.mark.parametrize("wrong", ["too few", "of another prompt"])
def test_features_that_do_not_fit_the_prompt_are_refused(family: str, wrong: str):
    """Features that are scattered into other prompts' places without a word; the total may still be right."""
    vlm, records = tiny_vlm(family), prompts(family)[:2]
    features = vlm.vision_features(records)
    assert len(features[0].embeddings) != len(features[1].embeddings)
    swapped = {"too few": [features[0], features[0]], "of another prompt": features[::-1]}[wrong]
    with pytest.raises(LocusError, match="image features"):
        vlm.encode(records, swapped)


@FAMILY
@pytest.mark.parametrize("images", [True, False])
def test_prompts_without_pictures(family: str, images: bool):
    """A text-only prompt, alone or beside one with pictures, scores as in a row of its own."""
    vlm = tiny_vlm(family)
    records = [text_prompt(family), *(prompts(family)[:1] if images else [text_prompt(family, "Which is it?")])]
    batch = completions(LENGTHS[:2])
    with torch.no_grad():
        packed = PackedScorer()(vlm, records, batch, 1.0).logprobs
        separate = SeparateScorer()(vlm, records, batch, 1.0).logprobs
    torch.testing.assert_close(packed, separate, rtol=0, atol=LOGPROB)


# --- Memory savers and precisions -----------------------------------------------------------------------------
@FAMILY
def test_chunked_head_is_exact(family: str, monkeypatch: pytest.MonkeyPatch):
    """Chunks that drop, repeat or reorder positions, or that lose the gradient; 43 positions in chunks of 16."""
    vlm, batch = tiny_vlm(family), completions()
    assert int(batch.mask.sum()) == 43
    whole = packed_gradients(vlm, family)
    sizes, head_scores = [], logprobs.head_scores

    def spied(policy: VLM, hidden: torch.Tensor, *arguments: object) -> tuple[torch.Tensor, torch.Tensor]:
        sizes.append(len(hidden))
        return head_scores(policy, hidden, *arguments)

    monkeypatch.setattr(logprobs, "head_scores", spied)
    chunked = packed_gradients(vlm, family, chunk=16)
    assert sizes[:3] == [16, 16, 11] and len(sizes) == 6  # each once more in the backward pass
    assert largest_relative(chunked, whole) < 1e-5
    with torch.no_grad():
        one, two = (PackedScorer(chunk=chunk)(vlm, prompts(family), batch, 1.0) for chunk in (8192, 16))
    torch.testing.assert_close(one.logprobs, two.logprobs, rtol=0, atol=1e-5)
    torch.testing.assert_close(one.entropy, two.entropy, rtol=0, atol=1e-5)


@FAMILY
def test_gradient_checkpointing_gives_the_same_gradients(family: str):
    """Checkpointed layers that lose the attention plan, or a setting that does nothing."""
    plain = packed_gradients(tiny_vlm(family).train(), family)
    vlm, calls = tiny_vlm(family, gradient_checkpointing=True).train(), []
    vlm.model.model.language_model.layers[0].mlp.register_forward_pre_hook(lambda *_: calls.append(1))
    checkpointed = packed_gradients(vlm, family)
    assert len(calls) == 4  # prompts and completions, each computed again in the backward pass
    assert largest_relative(checkpointed, plain) < 1e-5


@FAMILY
def test_gradient_checkpointing_with_a_frozen_vision_tower(family: str):
    """Reentrant checkpointing loses all gradients when a layer's input needs none."""
    plain = packed_gradients(tiny_vlm(family, train_vision=False).train(), family)
    vlm = tiny_vlm(family, train_vision=False, gradient_checkpointing=True).train()
    assert largest_relative(packed_gradients(vlm, family), plain) < 1e-5


class Called(TorchFunctionMode):
    """Names of all torch functions that are called inside."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.add(function.__name__)
        return function(*args, **(kwargs or {}))


def test_entropy_calls_nothing_that_autocast_puts_into_bfloat16():
    """NaN on every GPU: there autocast rounds the factors of a product, and masked logits to minus infinity."""
    # Of aten/src/ATen/autocast_mode.h, what multiplies rows; the CPU's list has no vecdot, so that no CPU run shows it.
    lowered = {"linear", "matmul", "mm", "mv", "bmm", "addmm", "baddbmm", "einsum", "vecdot", "linalg_vecdot"}
    logits = torch.randn(3, 5).index_fill_(-1, torch.tensor([1]), torch.finfo(torch.float32).min)
    with Called() as called:
        _, entropy = _LogSoftmaxAt.apply(logits, torch.tensor([0, 2, 3]))
    assert "exp_" in called.names and not called.names & lowered
    expected = torch.distributions.Categorical(logits=logits[:, [0, 2, 3, 4]]).entropy()
    torch.testing.assert_close(entropy, expected, rtol=0, atol=1e-6)


@FAMILY
def test_bfloat16_autocast_runs_and_is_close(family: str):
    """A dtype that does not fit somewhere under mixed precision; log-probs stay float32."""
    vlm, records = tiny_vlm(family, scale=4.0), prompts(family)
    exact = PackedScorer()(vlm, records, completions(), 1.0)
    with torch.autocast("cpu", torch.bfloat16):
        written = sample_groups(vlm, records, vlm.encode(records), 2, Sampling(max_new_tokens=4), seed=0, step=0)
        mixed = PackedScorer()(vlm, records, completions(), 1.0)
    mixed.logprobs.sum().backward()
    assert mixed.entropy.isfinite().all() and mixed.entropy.dtype == torch.float32
    assert mixed.logprobs.dtype == written[0][0].logprobs.dtype == torch.float32
    assert all(bool(p.grad.isfinite().all()) for p in vlm.parameters())
    difference = (mixed.logprobs - exact.logprobs).abs()
    assert 0 < difference.max() < 0.1  # bfloat16 has 8 bits: 2^-8 of logits of size 1 to 5
