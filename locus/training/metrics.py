"""The scalars of a run, from its rollouts and updates."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence

import torch

from locus.policy.logprobs import TokenScores
from locus.types import LossTerms, QuestionRecord, RolloutGroup, Status


class TokenSums:
    """Adds up what the updates of one step report."""

    def __init__(self) -> None:
        self._sums: Counter[str] = Counter()
        self._tokens = 0
        self._loss = 0.0
        self._updates: list[float] = []
        self._largest: dict[str, float] = {"max_log_ratio": 0.0, "rollout_mismatch": 0.0}

    def add(self, terms: LossTerms, scores: TokenScores, groups: Sequence[RolloutGroup]) -> None:
        """One micro-batch. Rollout and scored log-probs are compared before the first update, while they must agree."""
        metrics = dict(terms.metrics)
        self._largest["max_log_ratio"] = max(self._largest["max_log_ratio"], metrics.pop("max_log_ratio"))
        self._sums.update(metrics)
        self._sums["entropy"] += scores.entropy.sum().item()
        self._loss += terms.loss.item()
        self._tokens += terms.tokens
        if not self._updates:
            written = torch.cat([r.completion.logprobs for group in groups for r in group.rollouts])
            gap = (scores.logprobs.detach()[scores.mask].cpu() - written).abs().max().item()
            self._largest["rollout_mismatch"] = max(self._largest["rollout_mismatch"], gap)

    def add_update(self, grad_norm: float) -> None:
        """One optimiser step; skipped if the norm is not finite."""
        self._updates.append(grad_norm)

    def means(self) -> dict[str, float]:
        """Means over completion tokens, loss and gradient norm (before clipping) per update, the largest deviations."""
        means = {name: total / self._tokens for name, total in self._sums.items()}
        means["loss"] = self._loss / len(self._updates)
        taken = [norm for norm in self._updates if math.isfinite(norm)]
        means["grad_norm"] = sum(taken) / len(taken) if taken else math.nan
        means["skipped_updates"] = float(len(self._updates) - len(taken))
        return means | self._largest


def rollout_metrics(groups: Sequence[RolloutGroup]) -> dict[str, float]:
    """Means over a step's cue-search rollouts, and the share of right answers among those of questions, if any."""
    rollouts, answers = [], []
    for group in groups:
        (answers if isinstance(group.prompt, QuestionRecord) else rollouts).extend(group.rollouts)
    metrics = {
        "reward": [r.reward.total for r in rollouts],
        "iou": [r.reward.iou for r in rollouts],
        "format": [r.reward.format for r in rollouts],
        "nonzero_iou": [float(r.reward.iou > 0) for r in rollouts],
        "parsed": [float(r.answer.status == Status.OK) for r in rollouts],
        "truncated": [float(not r.completion.finished) for r in rollouts],
        "completion_length": [float(len(r.completion.token_ids)) for r in rollouts],
        "question_accuracy": [r.reward.correct for r in answers],
    }
    return {name: sum(values) / len(values) for name, values in metrics.items() if values}


def validation_metrics(groups: Sequence[RolloutGroup]) -> dict[str, float]:
    """Mean IoU, accuracy at IoU 0.5 and 0.75, format and reward, over all samples and ``<bin>/…`` by area bin."""
    bins: dict[str, list[RolloutGroup]] = defaultdict(list)
    for group in groups:
        bins[group.prompt.example.bin].append(group)
    metrics = _grounding(groups)
    for name in sorted(bins):
        metrics |= {f"{name}/{key}": value for key, value in _grounding(bins[name]).items()}
    return metrics


def _grounding(groups: Sequence[RolloutGroup]) -> dict[str, float]:
    rewards = [rollout.reward for group in groups for rollout in group.rollouts]
    count = len(rewards)
    return {
        "mean_iou": sum(reward.iou for reward in rewards) / count,
        "acc@0.5": sum(reward.iou >= 0.5 for reward in rewards) / count,
        "acc@0.75": sum(reward.iou >= 0.75 for reward in rewards) / count,
        "format": sum(reward.format for reward in rewards) / count,
        "reward": sum(reward.total for reward in rewards) / count,
    }
