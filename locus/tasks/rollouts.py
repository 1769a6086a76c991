"""Samples -> graded rollouts: what GRPO trains on, and how every validation asks."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from locus.policy.rollouts import micro_batches, sample_groups
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
    encoded: EncodedPrompts | None = None,
) -> list[tuple[RolloutGroup, VisionFeatures]]:
    """Samples -> graded groups with their vision features, in the order of ``samples``.

    Args:
        decode: [T] completion tokens -> text.
        group: G, rollouts per sample.
        seed, step: with a sample's id they fix its random numbers.
        token_budget: padded tokens decoded at a time.
        encoded: the prompts of all samples, where they are known already.
    """
    policy.eval()
    done: dict[int, tuple[RolloutGroup, VisionFeatures]] = {}
    prompts = [sample.prompt for sample in samples]
    parts = [range(len(prompts))] if encoded else micro_batches(prompts, group * sampling.max_new_tokens, token_budget)
    for indices in parts:
        batch = [prompts[i] for i in indices]
        known = encoded or policy.encode(batch)
        completions = sample_groups(policy, batch, known, group, sampling, seed, step)
        for i, row, features in zip(indices, completions, known.features, strict=True):
            rollouts = tuple(graded(task, samples[i], one, decode(one.token_ids)) for one in row)
            done[i] = RolloutGroup(samples[i], rollouts), features
    return [done[i] for i in range(len(samples))]


def graded(task: Task, sample: Sample, completion: Completion, text: str) -> Rollout:
    """A completion with its text and what the task gives for it."""
    response = Response(sample.prompt.opened + text, completion.finished)
    return Rollout(completion, text, task.grade(sample.example, response, sample.view))
