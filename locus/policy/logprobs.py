"""Log-probs of completions: prompt and pictures encoded once per group, or, for tests, G separate plain rows.

Log-probs are float32, of the distribution the rollout sampled from: at its temperature, vision tokens masked.
Shapes: B prompts, G rollouts per prompt, P prompt tokens, T completion tokens, D width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch.nn.utils.rnn import pad_sequence
from torch.utils.checkpoint import checkpoint

from locus.policy.vlm import VLM, EncodedPrompts, VisionFeatures
from locus.types import Prompt


@dataclass(frozen=True, eq=False)
class CompletionBatch:
    """Completions of B groups, padded on the right."""

    token_ids: torch.Tensor
    """[B, G, T] int64."""
    mask: torch.Tensor
    """[B, G, T] bool, False at padding."""

    @classmethod
    def of(cls, groups: Sequence[Sequence[torch.Tensor]], device: torch.device) -> CompletionBatch:
        """From B groups of G token-id tensors, each of its own length."""
        rows = [row for group in groups for row in group]
        ids = pad_sequence(rows, True, 0)
        mask = torch.arange(ids.shape[1]) < torch.tensor([len(row) for row in rows])[:, None]
        shape = (len(groups), len(groups[0]), -1)
        return cls(ids.view(shape).to(device), mask.view(shape).to(device))


@dataclass(frozen=True, eq=False)
class TokenScores:
    """What scoring yields, zero at padding."""

    logprobs: torch.Tensor
    """[B, G, T] float32."""
    entropy: torch.Tensor
    """[B, G, T] float32, without gradient."""
    mask: torch.Tensor
    """[B, G, T] bool."""


class Scorer(Protocol):
    """Scores the completions of each prompt under a policy."""

    def __call__(
        self,
        policy: VLM,
        prompts: Sequence[Prompt],
        completions: CompletionBatch,
        temperature: float,
        features: Sequence[VisionFeatures] | None = None,
        encoded: EncodedPrompts | None = None,
    ) -> TokenScores:
        """features: of these prompts' images, where they are known already (frozen vision tower).

        encoded: these prompts under ``policy``, where they are known already (on-policy update).
        """


def sampling_logits(policy: VLM, hidden: torch.Tensor, temperature: float) -> torch.Tensor:
    """[..., D] -> [..., V] float32 logits of the sampling distribution; the one place that defines it."""
    logits = policy.lm_head(hidden).float()
    if temperature not in (0.0, 1.0):  # 0 is greedy, whose log-probs are those at 1
        logits = logits / temperature
    return logits.index_fill(-1, policy.forbidden, torch.finfo(torch.float32).min)


def head_scores(
    policy: VLM, hidden: torch.Tensor, targets: torch.Tensor, temperature: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """hidden [N, D], targets [N] -> log-probs [N] and entropy [N]."""
    logits = sampling_logits(policy, hidden, temperature)
    normaliser = logits.logsumexp(-1)
    logprobs = logits.gather(-1, targets[:, None])[:, 0] - normaliser
    with torch.no_grad():
        entropy = normaliser - ((logits - normaliser[:, None]).exp() * logits).sum(-1)
    return logprobs, entropy


@dataclass(frozen=True)
class PackedScorer:
    """The group forward: one encoded prompt a group, logits only where completion tokens are predicted."""

    chunk: int = 8192
    """Positions that hold full-vocabulary logits at a time; chunks are recomputed in the backward pass."""

    def __call__(
        self,
        policy: VLM,
        prompts: Sequence[Prompt],
        completions: CompletionBatch,
        temperature: float,
        features: Sequence[VisionFeatures] | None = None,
        encoded: EncodedPrompts | None = None,
    ) -> TokenScores:
        encoded = policy.encode(prompts, features) if encoded is None else encoded
        hidden = policy.completion_hidden(encoded, completions.token_ids)
        mask = completions.mask
        states, targets = hidden[mask], completions.token_ids[mask]  # [N, D], [N]: padding never meets the head
        parts = []
        for start in range(0, len(targets), self.chunk):
            arguments = (policy, states[start : start + self.chunk], targets[start : start + self.chunk], temperature)
            many = len(targets) > self.chunk and torch.is_grad_enabled()
            parts.append(checkpoint(head_scores, *arguments, use_reentrant=False) if many else head_scores(*arguments))
        logprobs, entropy = (torch.cat(part) for part in zip(*parts, strict=True))
        zeros = torch.zeros(mask.shape, device=mask.device)
        return TokenScores(zeros.masked_scatter(mask, logprobs), zeros.masked_scatter(mask, entropy), mask)


@dataclass(frozen=True)
class SeparateScorer:
    """The plain path: every rollout its own row through the stock forward, pictures encoded again each time."""

    def __call__(
        self,
        policy: VLM,
        prompts: Sequence[Prompt],
        completions: CompletionBatch,
        temperature: float,
        features: Sequence[VisionFeatures] | None = None,
        encoded: EncodedPrompts | None = None,
    ) -> TokenScores:
        logprobs = torch.zeros(completions.mask.shape, device=policy.device)
        entropy = torch.zeros_like(logprobs)
        for b, prompt in enumerate(prompts):
            for g in range(completions.mask.shape[1]):
                length = int(completions.mask[b, g].sum())
                target = completions.token_ids[b, g, :length]
                ids = torch.cat([prompt.input_ids.to(policy.device), target])[None]
                types = torch.cat([prompt.mm_token_type_ids, torch.zeros(length, dtype=torch.long)])[None]
                images = {}
                if len(prompt.image_grid_thw):
                    images = {"pixel_values": prompt.pixel_values, "image_grid_thw": prompt.image_grid_thw}
                    images = {name: value.to(policy.device) for name, value in images.items()}
                hidden = policy.model.model(
                    input_ids=ids, mm_token_type_ids=types.to(policy.device), use_cache=False, **images
                ).last_hidden_state[0, prompt.length - 1 : -1]
                logprobs[b, g, :length], entropy[b, g, :length] = head_scores(policy, hidden, target, temperature)
        return TokenScores(logprobs, entropy, completions.mask)
