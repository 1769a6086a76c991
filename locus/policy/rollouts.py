"""Sampling G completions per prompt: one prefill per prompt, many prompts decoded together.

Random numbers are a prompt's own (`sampling`), so its completions are the same whatever is decoded beside it.
Shapes: N prompts in all, G rollouts per prompt, P prompt tokens, T completion tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

import torch

from locus.errors import LocusError, by_name, whole
from locus.policy.cohorts import CohortDecoder
from locus.policy.decoding import cast, joined
from locus.policy.inference import compute_dtype
from locus.policy.sampling import Draft
from locus.policy.static_decoding import StaticDecoder
from locus.policy.vlm import VLM, EncodedPrompts
from locus.types import Completion, Prompt, Sampling


class DecodeStep(StrEnum):
    """How one token is decoded for all rows."""

    DYNAMIC = "dynamic"
    """Buffers grow, finished rows are retired."""
    STATIC = "static"
    """All shapes are fixed; what is finished is computed in vain."""
    COMPILED = "compiled"
    """The same through torch.compile: CUDA graphs on a GPU."""


@dataclass(frozen=True)
class RolloutDecoding:
    """How rollouts are decoded, and how much is held meanwhile."""

    budget: int
    """Cached tokens: those of the prompts, and those that the rows' buffers hold."""
    step: DecodeStep | str = DecodeStep.DYNAMIC

    def __post_init__(self) -> None:
        whole("rollout.decode_budget", self.budget)
        by_name("rollout.decode_step", self.step, {step.value: step for step in DecodeStep})


@torch.no_grad()
def sample_groups(
    policy: VLM,
    prompts: Sequence[Prompt],
    encoded: EncodedPrompts,
    group: int,
    sampling: Sampling,
    seed: int,
    step: int,
) -> list[list[Completion]]:
    """Writes ``group`` completions for each prompt of one batch.

    Args:
        policy: in evaluation mode; see `inference_policy`.
        prompts: N prompts; the batch must fit in memory.
        encoded: the same prompts, after `VLM.encode`.
        seed, step: with the prompt's id they fix the random numbers.

    Returns:
        N lists of G completions, in the order of ``prompts``.
    """
    draft = Draft(policy, prompts, group, sampling, seed, step)
    CohortDecoder(policy, prompts, draft, lambda indices: encoded).run(range(len(prompts)))
    return draft.completions()


@torch.no_grad()
def sample_in_turn(
    policy: VLM,
    prompts: Sequence[Prompt],
    encode: Callable[[Sequence[int]], EncodedPrompts],
    group: int,
    sampling: Sampling,
    seed: int,
    step: int,
    decoding: RolloutDecoding,
) -> list[list[Completion]]:
    """As `sample_groups`, for more prompts than are held at a time: they wait, and enter when there is room.

    Args:
        policy: see `inference_policy`.
        encode: indices of prompts that enter -> these, encoded; a prompt may be asked for again.
        decoding: the budget of what is held, and the way of the step.

    Raises:
        LocusError: a prompt alone exceeds the budget.
    """
    check_decode_room(prompts, group, sampling.max_new_tokens, decoding.budget)
    order = sorted(range(len(prompts)), key=lambda i: (prompts[i].length, prompts[i].prompt_id))
    draft = Draft(policy, prompts, group, sampling, seed, step)
    if decoding.step == DecodeStep.DYNAMIC:
        CohortDecoder(policy, prompts, draft, encode, decoding.budget).run(order)
    else:
        compiled = decoding.step == DecodeStep.COMPILED
        StaticDecoder(policy, prompts, draft, encode, decoding.budget, compiled).run(order)
    return draft.completions()


def check_decode_room(prompts: Sequence[Prompt], group: int, max_new_tokens: int, budget: int) -> None:
    """Raises LocusError unless each prompt fits the budget together with its completions at their longest."""
    longest = max(prompts, key=lambda prompt: prompt.length)
    tokens = longest.length + group * (max_new_tokens - 1)
    if tokens > budget:
        raise LocusError(
            f"prompt {longest.prompt_id} and its completions have {tokens} tokens, the budget is {budget}: raise "
            "rollout.decode_budget, or lower pixels.max_pixels or rollout.sampling.max_new_tokens"
        )


def encode_in_parts(policy: VLM, prompts: Sequence[Prompt], token_budget: int) -> EncodedPrompts:
    """As `VLM.encode`, in micro-batches of ``token_budget`` padded tokens; the prompts ascend in length.

    Keys and values are in the type that is computed in, as decoding holds them.
    """
    parts, dtype = [], compute_dtype(policy)
    for indices in micro_batches(prompts, token_budget):
        part = policy.encode([prompts[i] for i in indices])
        parts.append(replace(part, prefill=cast(part.prefill, dtype)))
    if len(parts) == 1:
        return parts[0]
    features = [feature for part in parts for feature in part.features]
    hidden, next_position = (torch.cat([getattr(part, name) for part in parts]) for name in ("hidden", "next_position"))
    return EncodedPrompts(features, hidden, joined([part.prefill for part in parts]), next_position)


def micro_batches(prompts: Sequence[Prompt], budget: int) -> list[list[int]]:
    """Indices of prompts, grouped so that a padded micro-batch holds at most ``budget`` tokens.

    Prompts are ordered by length, then id: little padding, and the same micro-batches whatever the order they came in.

    Args:
        prompts: B prompts.
        budget: of B'·P padded tokens; a single prompt above it is refused, never truncated.

    Raises:
        LocusError: a prompt alone exceeds the budget.
    """
    order = sorted(range(len(prompts)), key=lambda i: (prompts[i].length, prompts[i].prompt_id))
    batches: list[list[int]] = []
    for index in order:
        tokens = prompts[index].length
        if tokens > budget:
            raise LocusError(
                f"prompt {prompts[index].prompt_id} has {tokens} tokens, the budget is {budget}: raise "
                "rollout.token_budget, or lower pixels.max_pixels"
            )
        if batches and (len(batches[-1]) + 1) * tokens <= budget:  # ascending, so this prompt is the longest
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches
