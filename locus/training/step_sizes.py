"""What a step works on, as far as its memory and time depend on it.

Shapes: B prompts, G rollouts per prompt, P prompt tokens, T completion tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from locus.policy.decoding import GROWTH
from locus.policy.rollouts import DecodeStep, RolloutDecoding
from locus.policy.static_decoding import fixed_shape
from locus.types import Prompt, Sampling


@dataclass(frozen=True)
class StepSizes:
    """What a step works on."""

    prompts: Sequence[Prompt]
    """B of one rollout batch; their pixels may be blank."""
    group: int
    sampling: Sampling
    tokens: int
    """Of a completion that is neither short nor long; ``sampling`` has the most."""
    token_budget: int
    decoding: RolloutDecoding
    updates: int = 1
    """Optimiser steps per rollout batch."""
    epochs: int = 1
    """Passes over it, among which they are divided."""
    rolls_out: bool = True
    """False for supervised fine-tuning."""
    shares_prompts: bool = False
    """Whether rollout and update share the encoded prompts, see `locus.training.grpo.shares_prompts`."""
    offloads_reference: bool = False
    """Whether the reference leaves the device between its turns."""
    precision: torch.dtype | None = None
    """Of mixed precision; None without."""
    on_gpu: bool = False
    """There optimisers step over all parameters at once, which takes copies of them."""

    @property
    def mini_batch(self) -> Sequence[Prompt]:
        """The prompts of an optimiser step."""
        return self.prompts[: -(-len(self.prompts) * self.epochs // self.updates)]

    @property
    def scored_tokens(self) -> int:
        """Tokens of an update's micro-batch, at most."""
        per_prompt = max(prompt.length for prompt in self.mini_batch) + self.group * self.tokens
        return min(self.token_budget, len(self.mini_batch) * per_prompt)

    @property
    def cached_tokens(self) -> int:
        """Tokens whose keys and values are held while decoding, at most."""
        if self.decoding.step != DecodeStep.DYNAMIC:
            written = self.group * (self.sampling.max_new_tokens - 1)
            longest = max(prompt.length for prompt in self.prompts)
            slots, width = fixed_shape(len(self.prompts), longest, written, self.decoding.budget)
            return slots * (width + written)
        return min(self.decoding.budget, len(self.prompts) * self.tokens_per_prompt)

    @property
    def tokens_per_prompt(self) -> int:
        """Of the longest prompt and its rows' buffers once they are as long as they get."""
        length = self.sampling.max_new_tokens - 1
        written = min(length, -(-length // GROWTH) * GROWTH)
        return max(prompt.length for prompt in self.prompts) + self.group * written

    @property
    def rows(self) -> int:
        """Rows that are decoded at a time."""
        return self.group * min(len(self.prompts), max(1, self.cached_tokens // self.tokens_per_prompt))
