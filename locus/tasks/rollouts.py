"""Samples -> graded rollouts: what GRPO trains on, and how every validation asks."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from locus.policy.engines import RolloutEngine
from locus.policy.inference import inference_policy
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
    engine: RolloutEngine,
    encoded: EncodedPrompts | None = None,
) -> list[tuple[RolloutGroup, VisionFeatures | None]]:
    """Samples -> graded groups with their vision features, in the order of ``samples``.

    Args:
        policy: put into evaluation mode; its `inference_policy` is made for this call where it is not one already.
        decode: [T] completion tokens -> text.
        group: G, rollouts per sample.
        seed, step: with a sample's id they fix its random numbers.
        engine: writes the completions.
        encoded: the prompts of all samples, where they are known already.
    """
    prompts = [sample.prompt for sample in samples]
    completions, features = engine(inference_policy(policy.eval()), prompts, group, sampling, seed, step, encoded)
    groups = []
    for sample, row, kept in zip(samples, completions, features, strict=True):
        rollouts = tuple(graded(task, sample, one, decode(one.token_ids)) for one in row)
        groups.append((RolloutGroup(sample, rollouts), kept))
    return groups


def graded(task: Task, sample: Sample, completion: Completion, text: str) -> Rollout:
    """A completion with its text and what the task gives for it."""
    response = Response(sample.prompt.opened + text, completion.finished)
    return Rollout(completion, text, task.grade(sample.example, response, sample.view))
