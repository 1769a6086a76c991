"""Log-probs of completions: prompt and pictures encoded once per group, or, for tests, G separate plain rows.

Log-probs are float32, of the distribution the rollout sampled from: at its temperature, vision tokens masked.
Shapes: B prompts, G rollouts per prompt, P prompt tokens, T completion tokens, D width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch.nn.utils.rnn import pad_sequence
from torch.utils.checkpoint import checkpoint

from locus.policy.vlm import VLM, EncodedPrompts, VisionFeatures
from locus.types import Prompt

LOGITS_BYTES = 2**29
"""Of the logits that exist at a time when scoring: 3,500 positions of a vocabulary of 38k, 880 of one of 152k."""
BLOCK_BYTES = 2**26
"""Of the logits whose exponentials exist at a time."""


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

    def only(self, rows: torch.Tensor) -> CompletionBatch:
        """With all other rows, of [B, G] bool, empty."""
        return CompletionBatch(self.token_ids, self.mask & rows.to(self.mask.device)[..., None])


@dataclass(frozen=True, eq=False)
class TokenScores:
    """What scoring yields, zero at padding."""

    logprobs: torch.Tensor
    """[B, G, T] float32."""
    entropy: torch.Tensor
    """[B, G, T] float32, without gradient."""
    mask: torch.Tensor
    """[B, G, T] bool."""

    @classmethod
    def joined(cls, parts: Sequence[TokenScores]) -> TokenScores:
        """Of the same completions, scored in parts."""
        logprobs, entropy, mask = (
            torch.stack([getattr(part, name) for part in parts]) for name in ("logprobs", "entropy", "mask")
        )
        return cls(logprobs.sum(0), entropy.sum(0), mask.any(0))


class Scorer(Protocol):
    """Scores the completions of each prompt under a policy."""

    def encode(
        self, policy: VLM, prompts: Sequence[Prompt], features: Sequence[VisionFeatures] | None
    ) -> EncodedPrompts | None:
        """What the completions of a prompt can share, with gradient; None where they share nothing."""

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
    logits = policy.lm_head(hidden).float()  # in place from here: a copy of 1,000 x 152k logits is 0.6 GB
    if temperature not in (0.0, 1.0):  # 0 is greedy, whose log-probs are those at 1
        logits = logits.div_(temperature)
    return logits.index_fill_(-1, policy.forbidden, torch.finfo(torch.float32).min)


def head_scores(
    policy: VLM, hidden: torch.Tensor, targets: torch.Tensor, temperature: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """hidden [N, D], targets [N] -> log-probs [N] and entropy [N], the latter without gradient."""
    logprobs, entropy = _LogSoftmaxAt.apply(sampling_logits(policy, hidden, temperature), targets)
    return logprobs, entropy


class _LogSoftmaxAt(torch.autograd.Function):
    """Log-softmax at one place of each row, and its entropy: beside the logits, only their gradient is whole."""

    @staticmethod
    def forward(ctx: Any, logits: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        normaliser, entropy = logits.new_empty(len(logits)), logits.new_empty(len(logits))
        rows = max(1, BLOCK_BYTES // (4 * logits.shape[-1]))
        for start in range(0, len(logits), rows):
            here = slice(start, start + rows)
            largest = logits[here].amax(-1)
            weights = (logits[here] - largest[:, None]).exp_()
            total = weights.sum(-1)
            normaliser[here] = largest + total.log()
            # In place: autocast would multiply in bfloat16, where the masked logits are -inf, and the entropy NaN.
            entropy[here] = normaliser[here] - weights.mul_(logits[here]).sum(-1) / total
        ctx.save_for_backward(logits, targets, normaliser)
        ctx.mark_non_differentiable(entropy)
        return logits.gather(-1, targets[:, None])[:, 0] - normaliser, entropy

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None]:
        logits, targets, normaliser = ctx.saved_tensors
        gradient = (logits - normaliser[:, None]).exp_().mul_(-grads[0][:, None])
        return gradient.scatter_add_(-1, targets[:, None], grads[0][:, None]), None


@dataclass(frozen=True)
class PackedScorer:
    """The group forward: one encoded prompt a group, logits only where completion tokens are predicted."""

    chunk: int | None = None
    """Positions that hold full-vocabulary logits at a time, recomputed in the backward pass; None: `LOGITS_BYTES`."""

    def positions(self, policy: VLM) -> int:
        """Whose logits exist at a time."""
        return self.chunk or max(1, LOGITS_BYTES // (4 * policy.lm_head.out_features))

    def encode(
        self, policy: VLM, prompts: Sequence[Prompt], features: Sequence[VisionFeatures] | None
    ) -> EncodedPrompts | None:
        return policy.encode(prompts, features)

    def __call__(
        self,
        policy: VLM,
        prompts: Sequence[Prompt],
        completions: CompletionBatch,
        temperature: float,
        features: Sequence[VisionFeatures] | None = None,
        encoded: EncodedPrompts | None = None,
    ) -> TokenScores:
        encoded = encoded or policy.encode(prompts, features)
        mask = completions.mask
        states, targets = policy.completion_hidden(encoded, completions.token_ids, mask), completions.token_ids[mask]
        chunk = self.positions(policy)
        parts = []
        for start in range(0, max(1, len(targets)), chunk):  # once for no completion at all
            arguments = (policy, states[start : start + chunk], targets[start : start + chunk], temperature)
            many = len(targets) > chunk and torch.is_grad_enabled()
            parts.append(checkpoint(head_scores, *arguments, use_reentrant=False) if many else head_scores(*arguments))
        logprobs, entropy = (torch.cat(part) for part in zip(*parts, strict=True))
        zeros = torch.zeros(mask.shape, device=mask.device)
        return TokenScores(zeros.masked_scatter(mask, logprobs), zeros.masked_scatter(mask, entropy), mask)


@dataclass(frozen=True)
class SeparateScorer:
    """The plain path: every rollout its own row through the stock forward, pictures encoded again each time."""

    def encode(
        self, policy: VLM, prompts: Sequence[Prompt], features: Sequence[VisionFeatures] | None
    ) -> EncodedPrompts | None:
        return None

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
            images = {}
            if len(prompt.image_grid_thw):
                images = {"pixel_values": prompt.pixel_values, "image_grid_thw": prompt.image_grid_thw}
                images = {name: value.to(policy.device) for name, value in images.items()}
            for g in range(completions.mask.shape[1]):
                length = int(completions.mask[b, g].sum())
                if length == 0:
                    continue
                target = completions.token_ids[b, g, :length]
                ids = torch.cat([prompt.input_ids.to(policy.device), target])[None]
                types = torch.cat([prompt.mm_token_type_ids, torch.zeros(length, dtype=torch.long)])[None]
                hidden = policy.model.model(
                    input_ids=ids, mm_token_type_ids=types.to(policy.device), use_cache=False, **images
                ).last_hidden_state[0, prompt.length - 1 : -1]
                logprobs[b, g, :length], entropy[b, g, :length] = head_scores(policy, hidden, target, temperature)
        return TokenScores(logprobs, entropy, completions.mask)
