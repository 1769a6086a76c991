"""The clipped surrogate with a KL penalty, and its variants.

Departures between "GRPO" implementations that change results are arguments here, never hidden: ratio per token or per
sequence, asymmetric and dual clipping, the KL estimator and its clamps, and how tokens are averaged.
Shapes: B prompts, G rollouts per prompt, T completion tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from locus.errors import by_name, number
from locus.types import LossTerms

MAX_LOG_RATIO = 20.0
"""Log-ratios are clamped to ± this before any exp: its gradient overflows first (NaN, then a ruined policy)."""


@dataclass(frozen=True)
class Totals:
    """Of the whole mini-batch, so that micro-batches add up to its mean."""

    tokens: int
    sequences: int
    max_length: int
    """The limit of new tokens, not the longest completion."""


Average = Callable[[torch.Tensor, Totals], torch.Tensor]
"""[B, G, T] mask and totals -> each token's weight."""
KLEstimator = Callable[[torch.Tensor], torch.Tensor]
"""Log-ratio of reference to policy -> each token's KL."""


def token_mean(mask: torch.Tensor, totals: Totals) -> torch.Tensor:
    """Every token of the mini-batch weighs the same (DAPO, arXiv 2503.14476, eq. 12; EasyR1, TRL default)."""
    return mask / totals.tokens


def sequence_mean(mask: torch.Tensor, totals: Totals) -> torch.Tensor:
    """Mean over a completion's tokens, then over completions (DeepSeekMath, arXiv 2402.03300, eq. 3)."""
    return mask / mask.sum(-1, keepdim=True).clamp(min=1) / totals.sequences


def constant_length(mask: torch.Tensor, totals: Totals) -> torch.Tensor:
    """Sum over tokens by a constant length (Dr. GRPO, arXiv 2503.20783): long answers are not favoured."""
    return mask / (totals.sequences * totals.max_length)


def k1(log_ratio: torch.Tensor) -> torch.Tensor:
    """Unbiased, can be negative; log_ratio = log reference - log policy (Schulman 2020, joschu.net/blog/kl-approx).

    As a loss it does not hold the policy to the reference: its gradient is that of log policy, whose expectation under
    the policy is zero. The value is the KL's, the gradient is not.
    """
    return -log_ratio


def k2(log_ratio: torch.Tensor) -> torch.Tensor:
    """Half the squared log-ratio: biased, low variance, cannot overflow.

    On-policy its expected gradient is that of KL(policy ‖ reference).
    """
    return 0.5 * log_ratio.square()


def k3(log_ratio: torch.Tensor) -> torch.Tensor:
    """exp(r) - r - 1: unbiased and never negative.

    On-policy its expected gradient is that of KL(reference ‖ policy), the same to first order near the reference.
    """
    return log_ratio.exp() - log_ratio - 1


AVERAGES: dict[str, Average] = {one.__name__: one for one in (sequence_mean, token_mean, constant_length)}
KL_ESTIMATORS: dict[str, KLEstimator] = {one.__name__: one for one in (k1, k2, k3)}
"""By the names that conf/algorithm has."""


@dataclass(frozen=True)
class Loss:
    """L = -surrogate + kl_coefficient · KL(policy ‖ reference), averaged by ``average``."""

    clip_low: float = 0.2
    clip_high: float = 0.2
    dual_clip: float | None = None
    """Bound on the loss of a negative advantage, in units of it (arXiv 1912.09729); None for none."""
    sequence_ratio: bool = False
    """One ratio per completion, the geometric mean of its tokens' (GSPO, arXiv 2507.18071)."""
    average: str = "sequence_mean"
    """How tokens are averaged, one of `AVERAGES`."""
    kl_coefficient: float = 0.01
    kl_estimator: str = "k3"
    """One of `KL_ESTIMATORS`."""
    kl_clamp: float | None = None
    """Bound on each token's KL, as EasyR1 has it (10); None for none."""

    def __post_init__(self) -> None:
        by_name("algorithm.loss.average", self.average, AVERAGES)
        by_name("algorithm.loss.kl_estimator", self.kl_estimator, KL_ESTIMATORS)
        number("algorithm.loss.clip_low", self.clip_low, 0, 1)
        number("algorithm.loss.clip_high", self.clip_high, 0)
        number("algorithm.loss.kl_coefficient", self.kl_coefficient, 0)
        if self.dual_clip is not None:
            number("algorithm.loss.dual_clip", self.dual_clip, 1, above=True)
        if self.kl_clamp is not None:
            number("algorithm.loss.kl_clamp", self.kl_clamp, 0, above=True)

    def __call__(
        self,
        logprobs: torch.Tensor,
        old_logprobs: torch.Tensor,
        reference_logprobs: torch.Tensor | None,
        advantages: torch.Tensor,
        mask: torch.Tensor,
        totals: Totals,
    ) -> LossTerms:
        """The loss of a micro-batch, as its share of the mini-batch's loss.

        Args:
            logprobs: [B, G, T] under the policy, with gradient.
            old_logprobs: [B, G, T] under the policy that wrote the rollouts.
            reference_logprobs: [B, G, T]; None where there is no KL term.
            advantages: [B, G].
            mask: [B, G, T] bool.
            totals: of the mini-batch.
        """
        weights = AVERAGES[self.average](mask, totals)
        log_ratio = torch.where(mask, logprobs - old_logprobs, 0)
        if self.sequence_ratio:
            log_ratio = (log_ratio.sum(-1) / mask.sum(-1).clamp(min=1))[..., None].expand_as(log_ratio)
        ratio = log_ratio.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()
        per_token, clipped = self._surrogate(ratio, advantages[..., None].expand_as(ratio))
        loss = (weights * per_token).sum()
        metrics = {
            "clip_fraction": (clipped & mask).sum().item(),
            "max_log_ratio": log_ratio.detach().abs().max().item(),
        }
        if reference_logprobs is not None:
            kl = self._kl(torch.where(mask, reference_logprobs - logprobs, 0))
            loss = loss + self.kl_coefficient * (weights * kl).sum()
            metrics["kl"] = kl[mask].sum().item()
        return LossTerms(loss, metrics, int(mask.sum()))

    def _surrogate(self, ratio: torch.Tensor, advantages: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """[B, G, T] loss per token and where clipping decided it (PPO, arXiv 1707.06347, eq. 7)."""
        unclipped = -advantages * ratio
        bounded = -advantages * ratio.clamp(1 - self.clip_low, 1 + self.clip_high)
        loss, clipped = torch.maximum(unclipped, bounded), bounded > unclipped
        if self.dual_clip is not None:
            ceiling = -advantages * self.dual_clip
            above = (advantages < 0) & (loss > ceiling)
            loss, clipped = torch.where(above, ceiling, loss), clipped | above
        return loss, clipped

    def _kl(self, log_ratio: torch.Tensor) -> torch.Tensor:
        kl = KL_ESTIMATORS[self.kl_estimator](log_ratio.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO))
        return kl if self.kl_clamp is None else kl.clamp(-self.kl_clamp, self.kl_clamp)
