"""Samples -> graded rollouts: what GRPO trains on, and how every validation asks."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from locus.policy.inference import inference_policy
from locus.policy.rollouts import RolloutDecoding, encode_in_parts, sample_groups, sample_in_turn
from locus.policy.vlm import VLM, EncodedPrompts, VisionFeatures
from locus.tasks.task import Task
from locus.types import Completion, Response, Rollout, RolloutGroup, Sample, Sampling


@torch.no_grad()
def roll_out(
    policy: VLM,
    task: Task,
    samples: Sequence[Sample],
    decode: Callable[[torch.Tensor], str],
    sampling: Sampling,
    group: int,
    seed: int,
    step: int,
    token_budget: int,
    decoding: RolloutDecoding,
    encoded: EncodedPrompts | None = None,
) -> list[tuple[RolloutGroup, VisionFeatures]]:
    """Samples -> graded groups with their vision features, in the order of ``samples``.

    Args:
        policy: put into evaluation mode; its `inference_policy` is made for this call where it is not one already.
        decode: [T] completion tokens -> text.
        group: G, rollouts per sample.
        seed, step: with a sample's id they fix its random numbers.
        token_budget: padded tokens of prompts encoded at a time.
        decoding: what is held while decoding, and how.
        encoded: the prompts of all samples, where they are known already; they are decoded together.
    """
    prompts = [sample.prompt for sample in samples]
    numbers = group, sampling, seed, step
    features: dict[int, VisionFeatures] = {}
    policy = inference_policy(policy.eval())
    if encoded is not None:
        completions = sample_groups(policy, prompts, encoded, *numbers)
        features |= enumerate(encoded.features)
    else:

        def encode(indices: Sequence[int]) -> EncodedPrompts:
            entering = encode_in_parts(policy, [prompts[i] for i in indices], token_budget)
            features.update(zip(indices, entering.features, strict=True))
            return entering

        completions = sample_in_turn(policy, prompts, encode, *numbers, decoding)
    groups = []
    for i, (sample, row) in enumerate(zip(samples, completions, strict=True)):
        rollouts = tuple(graded(task, sample, one, decode(one.token_ids)) for one in row)
        groups.append((RolloutGroup(sample, rollouts), features[i]))
    return groups


def graded(task: Task, sample: Sample, completion: Completion, text: str) -> Rollout:
    """A completion with its text and what the task gives for it."""
    response = Response(sample.prompt.opened + text, completion.finished)
    return Rollout(completion, text, task.grade(sample.example, response, sample.view))
