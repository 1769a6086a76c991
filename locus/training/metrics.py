"""The scalars of a run, from its rollouts and updates."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from torch.nn.utils.rnn import pad_sequence

from locus import ranks
from locus.policy.logprobs import TokenScores
from locus.types import LossTerms, RolloutGroup


class TokenSums:
    """Adds up what the updates of one step report."""

    def __init__(self) -> None:
        self._sums: Counter[str] = Counter()
        self._tokens = self._scored = 0
        self._entropy = 0.0
        self._loss = 0.0
        self._updates: list[float] = []
        self._largest: dict[str, float] = {"max_log_ratio": 0.0, "rollout_mismatch": 0.0}

    def add(self, terms: LossTerms, scores: TokenScores, groups: Sequence[RolloutGroup]) -> None:
        """One micro-batch. Rollout and scored log-probs are compared before the first update, while they must agree."""
        metrics = dict(terms.metrics)
        self._largest["max_log_ratio"] = max(self._largest["max_log_ratio"], metrics.pop("max_log_ratio"))
        self._sums.update(metrics)
        self._entropy += scores.entropy.sum().item()
        self._scored += int(scores.mask.sum())
        self._loss += terms.loss.item()
        self._tokens += terms.tokens
        if not self._updates:
            written = pad_sequence([r.completion.logprobs for group in groups for r in group.rollouts], True)
            gap = (scores.logprobs.detach().flatten(0, 1).cpu() - written)[scores.mask.flatten(0, 1).cpu()].abs().max()
            self._largest["rollout_mismatch"] = max(self._largest["rollout_mismatch"], gap.item())

    def add_update(self, grad_norm: float) -> None:
        """One optimiser step; skipped if the norm is not finite."""
        self._updates.append(grad_norm)

    def means(self) -> dict[str, float]:
        """Means over completion tokens (entropy: also over those that are left out of the loss), loss and gradient norm
        (before clipping) per update, the largest deviations. Over all ranks, of which each must ask."""
        numbers = self._tokens, self._entropy, self._scored, self._loss
        parts = ranks.exchanged((self._sums, numbers, self._largest))
        sums: Counter[str] = Counter()
        for one, *_ in parts:
            sums.update(one)
        tokens, entropy, scored, loss = (sum(column) for column in zip(*(part[1] for part in parts), strict=True))
        largest = {name: max(part[2][name] for part in parts) for name in self._largest}
        means = {name: total / max(1, tokens) for name, total in sums.items()}
        means |= {"entropy": entropy / scored, "loss": loss / len(self._updates)}
        taken = [norm for norm in self._updates if math.isfinite(norm)]
        means["grad_norm"] = sum(taken) / len(taken) if taken else math.nan
        means["skipped_updates"] = float(len(self._updates) - len(taken))
        return means | largest
