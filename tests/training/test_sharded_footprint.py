"""What a device gathers whole where devices share the weights, planned against the copies that a run makes."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch

from locus.policy.inference import fixed, inference_policy
from locus.policy.logprobs import PackedScorer
from locus.policy.lora import LoRA
from locus.policy.reference import reference_of
from locus.policy.rollouts import RolloutDecoding
from locus.policy.sharding import Sharding
from locus.policy.vlm import VLM
from locus.training.algorithm import Algorithm
from locus.training.grpo import shares_prompts
from locus.training.loss import Loss
from locus.training.plan import Planned
from locus.training.step_sizes import StepSizes
from locus.types import Sampling
from tests.support.models import backbone, prompts

FAMILY = "qwen3_vl"


def held(vlm: VLM) -> int:
    """Bytes of a policy's weights, each memory once."""
    tensors = [*vlm.parameters(), *vlm.buffers()]
    return sum({one.untyped_storage()._cdata: one.nbytes for one in tensors}.values())


def test_prompts_are_not_shared_where_weights_are():
    """A plan of a graph that is held during the rollout, whose weights are a copy's, which no update trains."""
    policy, of = backbone(FAMILY).outline(), prompts(FAMILY)
    algorithm = Algorithm(group_size=2, loss=Loss(kl_coefficient=0.1))
    limits = algorithm, 4, 10_000, RolloutDecoding(10_000)
    assert shares_prompts(policy, of, *limits)
    assert not shares_prompts(policy, of, *limits, sharded=True)


def test_fine_tuning_keeps_no_features():
    """Features of all of a step's images where nothing rolls out: each micro-batch encodes its own."""
    own = backbone(FAMILY, train_vision=False)
    sizes = StepSizes(prompts(FAMILY)[:1], 1, Sampling(max_new_tokens=4), 4, 500, RolloutDecoding(500))
    planned = Planned(own, None, PackedScorer(), torch.optim.AdamW, sizes, False)
    tuned = replace(planned, sizes=replace(sizes, rolls_out=False))
    kept = planned.footprint.features
    assert kept > 0 and planned.footprint.vision == 0
    assert tuned.footprint.features == 0 and tuned.footprint.vision == kept


@pytest.mark.parametrize("adapters", [False, True])
def test_whole_copies_are_planned_as_they_are_gathered(adapters: bool):
    """A plan that fits and a run that does not: copies that roll out, that are the reference, that score off-policy.

    Under bfloat16 linear layers are cast, but not what adapters are added to, and a tied head apart for rollouts alone.
    """
    own = backbone(FAMILY, reference_dtype="bfloat16", train_vision=False)
    weights: Any = LoRA(4) if adapters else None

    def sharded(load: Any = own.load) -> VLM:
        """As ranks share it: one that has all of it, and an outline."""
        policy, outline = load(), load()
        for one in (policy, outline):
            if weights:
                weights(one)
        policy.sharding = Sharding(outline)
        return policy

    policy = sharded()
    with torch.autocast("cpu", torch.bfloat16):
        rollout = held(inference_policy(policy))
        with reference_of(policy, partial(sharded, own.load_reference)).on(policy.device) as reference:
            scoring = held(reference)
        with fixed(policy) as old:
            scoring = max(scoring, held(old))
    sizes = StepSizes(prompts(FAMILY)[:1], 2, Sampling(4), 4, 500, RolloutDecoding(500), updates=2)
    # A policy with adapters has no reference of its own to offload.
    sizes = replace(sizes, precision=torch.bfloat16, offloads_reference=adapters)
    found = Planned(own, weights, PackedScorer(), torch.optim.AdamW, sizes, True, 2, sharded=True).footprint
    assert (found.rollout_weights, found.gathered_scoring) == (rollout, scoring)
    named = [(one, name) for name, one in policy.named_parameters() if ".language_model.layers." not in name]
    grown = sum(one.nbytes for one, _ in named if one.requires_grad)
    assert found.gathered_update == sum(one.nbytes for one, _ in named) + grown
    assert adapters == (grown == 0)
    alone = replace(found, gathered_scoring=0, gathered_update=0).phases
    assert found.phases["reference"] - alone["reference"] == scoring
    assert found.phases["update"] - alone["update"] == found.gathered_update
