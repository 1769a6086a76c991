"""What writes the completions of a training: one small interface, so that it need not be this process itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from locus.policy.rollouts import DecodeStep, RolloutDecoding, encode_in_parts, sample_groups, sample_in_turn
from locus.policy.vlm import VLM, EncodedPrompts, VisionFeatures
from locus.types import Completion, Prompt, Sampling

Written = tuple[list[list[Completion]], list[VisionFeatures | None]]
"""Of each prompt its completions, and its images' features where the engine has them."""


class RolloutEngine(Protocol):
    """Writes completions with the policy's weights of now."""

    def __call__(
        self,
        policy: VLM,
        prompts: Sequence[Prompt],
        group: int,
        sampling: Sampling,
        seed: int,
        step: int,
        encoded: EncodedPrompts | None = None,
    ) -> Written:
        """Called once per step, validation batch and refill, without gradient; of several ranks by each that has a
        share of the prompts, which in small batches are not all.

        Args:
            policy: an `inference_policy`: its weights are those to write with, adapters merged.
            prompts: N prompts.
            group: G completions for each.
            seed, step: with a prompt's id they fix the random numbers, where an engine can be told them.
            encoded: the prompts under ``policy``, where they are known already; an engine may leave them.

        Returns:
            N lists of G completions, with the log-probs that they were sampled with, which `rollout_mismatch` compares
            to the trainer's own; and the features of each prompt's images, or None, which are then computed again.
        """


@dataclass(frozen=True)
class LocalEngine:
    """Decodes here, with the policy itself."""

    token_budget: int
    """Padded tokens of prompts encoded at a time."""
    decode_budget: int
    """See `RolloutDecoding`."""
    decode_step: DecodeStep | str = DecodeStep.DYNAMIC
    decoding: RolloutDecoding = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "decoding", RolloutDecoding(self.decode_budget, self.decode_step))

    def __call__(
        self,
        policy: VLM,
        prompts: Sequence[Prompt],
        group: int,
        sampling: Sampling,
        seed: int,
        step: int,
        encoded: EncodedPrompts | None = None,
    ) -> Written:
        numbers = group, sampling, seed, step
        if encoded is not None:
            return sample_groups(policy, prompts, encoded, *numbers), list(encoded.features)
        features: dict[int, VisionFeatures] = {}

        def encode(indices: Sequence[int]) -> EncodedPrompts:
            entering = encode_in_parts(policy, [prompts[i] for i in indices], self.token_budget)
            features.update(zip(indices, entering.features, strict=True))
            return entering

        completions = sample_in_turn(policy, prompts, encode, *numbers, self.decoding)
        return completions, [features[i] for i in range(len(prompts))]
