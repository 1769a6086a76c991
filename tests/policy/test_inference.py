"""What rollouts run on: weights cast once, adapters merged, keys in the type that is computed in."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from locus.policy.cohorts import CohortDecoder
from locus.policy.inference import compute_dtype, inference_policy
from locus.policy.logprobs import CompletionBatch, PackedScorer
from locus.policy.lora import LoRA, merged_state
from locus.policy.rollouts import sample_groups
from locus.policy.sampling import Draft
from locus.policy.vlm import VLM
from locus.types import Sampling
from tests.support.group_forward import CPU, FAMILY
from tests.support.models import prompts, tiny_vlm

MIXED = torch.autocast("cpu", torch.bfloat16, cache_enabled=False)
"""As Lightning opens it."""
SAMPLING = Sampling(max_new_tokens=12)


@pytest.fixture(autouse=True)
def no_gradient():
    """Rollouts have none."""
    with torch.no_grad():
        yield


def adapted(family: str, **settings: object) -> VLM:
    """A policy whose adapters change it."""
    vlm = tiny_vlm(family, **settings)
    LoRA(4, 6.0)(vlm)
    generator = torch.Generator().manual_seed(0)
    for layer in vlm.adapters.values():
        layer.lora_B["default"].weight.normal_(std=0.3, generator=generator)
    return vlm.eval()


class Casts(TorchDispatchMode):
    """Counts changes of type: of weights, and of tensors that are as large as a layer's keys of the prompts."""

    def __init__(self, vlm: VLM, cache: int):
        super().__init__()
        self.weights, self.cache, self.counts = {p.data_ptr() for p in vlm.parameters()}, cache, Counter()

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        if function is torch.ops.aten._to_copy.default:
            tensor = arguments[0]
            self.counts["weights"] += tensor.data_ptr() in self.weights
            self.counts["caches"] += tensor.numel() >= self.cache
        return function(*arguments, **(keywords or {}))


@FAMILY
def test_weights_and_caches_are_not_cast_at_every_token(family: str):
    """Autocast without its cache: 7 weights a layer and the prompts' keys and values at each decoded token."""
    vlm, records = tiny_vlm(family), prompts(family)
    vlm.end_token_ids = (-1,)
    with MIXED:
        encoded = vlm.encode(records)
        cache = encoded.prefill.keys[0].numel()
        counts = []
        for policy in (vlm, inference_policy(vlm)):
            with Casts(policy, cache) as casts:
                draft = Draft(policy, records, 2, SAMPLING, 0, 0)
                CohortDecoder(policy, records, draft, lambda indices: encoded).run(range(3))
            counts.append((casts.counts["weights"], casts.counts["caches"]))
    (per_token, _), (once, once_cached) = counts
    assert per_token >= 7 * 2 * (SAMPLING.max_new_tokens - 1)  # the spy sees what it is there for
    assert once == 0
    assert once_cached <= 2 * 2  # keys and values of two layers, when they enter


@FAMILY
def test_mixed_precision_gives_the_same_bits(family: str):
    """A residual stream, a norm or an embedding in bfloat16, which autocast leaves in float32."""
    vlm, records = tiny_vlm(family), prompts(family)
    vlm.end_token_ids = tuple(range(0, 1800, 9))
    with MIXED:
        encoded = vlm.encode(records)
        draft = Draft(vlm, records, 4, SAMPLING, 0, 0)
        CohortDecoder(vlm, records, draft, lambda indices: encoded).run(range(3))
        copied = inference_policy(vlm)
        again = copied.encode(records)
        ours = sample_groups(copied, records, again, 4, SAMPLING, 0, 0)
    assert torch.equal(again.hidden, encoded.hidden) and encoded.hidden.dtype == torch.float32
    for one, other in zip(sum(ours, []), sum(draft.completions(), []), strict=True):
        assert torch.equal(one.token_ids, other.token_ids) and torch.equal(one.logprobs, other.logprobs)


def test_the_policy_itself_serves_where_nothing_is_gained():
    """A copy of all weights at every step of a float32 run, or of a model that is in bfloat16 as a whole."""
    vlm = tiny_vlm("qwen3_vl")
    assert inference_policy(vlm) is vlm and compute_dtype(vlm) == torch.float32
    half = tiny_vlm("qwen3_vl", dtype="bfloat16")
    assert inference_policy(half) is half
    with MIXED:
        copied = inference_policy(vlm)
        assert compute_dtype(vlm) == torch.bfloat16 and inference_policy(copied) is copied
        assert inference_policy(half) is half


@pytest.mark.parametrize("mixed", [False, True])
def test_a_copy_leaves_the_policy_as_it_was(mixed: bool):
    """Weights of the policy cast or merged in place: it would train in bfloat16, or twice its adapters."""
    vlm = adapted("qwen3_vl")
    before = {name: tensor.clone() for name, tensor in vlm.state_dict().items()}
    with torch.autocast("cpu", torch.bfloat16, enabled=mixed, cache_enabled=False):
        copied = inference_policy(vlm)
    after = vlm.state_dict()
    assert after.keys() == before.keys() and all(torch.equal(after[name], before[name]) for name in before)
    assert vlm.adapters and not copied.adapters and copied.training is vlm.training is False
    assert copied.model.get_input_embeddings().weight is vlm.model.get_input_embeddings().weight


@FAMILY
def test_adapters_are_merged_as_in_their_export(family: str):
    """A layer left out, its scale forgotten, or the vision tower's adapters lost."""
    vlm = adapted(family)
    merged, exported = inference_policy(vlm).model.state_dict(), merged_state(vlm)
    assert merged.keys() == exported.keys()
    assert all(torch.equal(merged[name], exported[name]) for name in exported)


def test_adapters_are_merged_in_float32_under_autocast():
    """Rollouts and validations of other weights than those that are exported, whose product autocast rounds."""
    vlm = adapted("qwen3_vl")
    exported = merged_state(vlm)
    with MIXED:
        merged, within = inference_policy(vlm).model.state_dict(), merged_state(vlm)
    assert all(torch.equal(within[name], exported[name]) for name in exported)
    weights = [f"{name}.weight" for name in vlm.adapters]
    assert weights and all(torch.equal(merged[name], exported[name].bfloat16()) for name in weights)


@FAMILY
def test_rollouts_of_merged_adapters_have_the_scores_of_the_policy(family: str):
    """Rollouts of the backbone: the ratio of the first update would not be 1."""
    vlm, records = adapted(family), prompts(family)
    merged = inference_policy(vlm)
    groups = sample_groups(merged, records, merged.encode(records), 3, SAMPLING, 0, 0)
    batch = CompletionBatch.of([[c.token_ids for c in group] for group in groups], CPU)
    scored = PackedScorer()(vlm, records, batch, 1.0).logprobs[batch.mask]
    written = torch.cat([c.logprobs for group in groups for c in group])
    torch.testing.assert_close(written, scored, rtol=0, atol=1e-4)
