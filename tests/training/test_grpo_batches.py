"""Mini-batches, epochs and micro-batches: as many updates as asked, and memory changes no number."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from locus.policy.logprobs import CompletionBatch, SeparateScorer
from locus.policy.lora import LoRA
from locus.training.grpo import GRPOModule
from locus.training.loss import Loss
from locus.types import LossTerms
from tests.support.miniature import GROUP, LARGE_BUDGET, PROMPTS, SMALL_BUDGET, Run, first_batch, fit, frozen_copy, grpo

SPLIT_BUDGET = 182
"""Tokens of a prompt and of one or two completions."""


class RecordingLoss(Loss):
    """Keeps the largest log-ratio and the sizes of each call."""

    def __call__(self, logprobs: torch.Tensor, old_logprobs: torch.Tensor, *arguments: Any) -> LossTerms:
        terms = super().__call__(logprobs, old_logprobs, *arguments)
        self.calls.append((terms.metrics["max_log_ratio"], logprobs.shape[0], arguments[-1]))
        return terms

    @property
    def calls(self) -> list:
        return self.__dict__.setdefault("_calls", [])


def test_mini_batches_and_epochs(spread: None):
    """2 mini-batches in 2 epochs: 4 updates of 2 prompts each; from the second on the policy is no longer the old one.

    The old log-probs are fixed before the first update: without that the ratio is always 1 and clipping never acts.
    """
    loss = RecordingLoss(kl_coefficient=0.0)
    module, data = grpo(lr=0.1, mini_batches=2, epochs=2, loss=loss)
    run = fit(module, data)
    assert module.updates_per_step == len(run.optimizer.rates) == 4
    ratios, sizes, totals = zip(*loss.calls, strict=True)
    assert sizes == (2, 2, 2, 2)
    assert ratios[0] < 1e-5 and min(ratios[1:]) > 1e-4
    assert [total.sequences for total in totals] == [2 * GROUP] * 4
    assert run.rows[0]["train/max_log_ratio"] == max(ratios)
    assert run.rows[0]["train/rollout_mismatch"] < 1e-4  # measured before the first update only


@pytest.mark.parametrize(("prompts", "mini_batches"), [(6, 4), (3, 2), (4, 4), (5, 2)])
def test_a_step_takes_as_many_updates_as_it_says(spread: None, prompts: int, mini_batches: int):
    """``updates_per_rollout`` sets the warm-up and is recorded; prompts that do not divide must not change it."""
    module, data = grpo(prompts=prompts, mini_batches=mini_batches, group_size=2)
    taken = len(fit(module, data).optimizer.gradients)
    assert taken == module.updates_per_step == mini_batches


def score_with(module: GRPOModule, budget: int) -> None:
    """Makes the update, and not the rollout, obey a token budget."""
    module.token_budget = budget


def with_both_budgets(updates: int, train_vision: bool = True) -> list[Run]:
    """The same step in one micro-batch and in three."""
    runs, sizes = [], []
    for budget in (LARGE_BUDGET, SMALL_BUDGET):
        loss = RecordingLoss(kl_coefficient=0.5)
        module, data = grpo(train_vision=train_vision, budget=budget, epochs=updates, loss=loss, prompts=3)
        runs.append(fit(module, data))
        sizes.append([size for _, size, _ in loss.calls])
    assert sizes == [[3] * updates, [1, 1, 1] * updates]
    return runs


@pytest.mark.parametrize("train_vision", [True, False])
@pytest.mark.parametrize("updates", [1, 2])
def test_micro_batches_do_not_change_the_gradient(spread: None, train_vision: bool, updates: int):
    """A mean of means: micro-batches of different token counts then weigh wrongly."""
    runs = with_both_budgets(updates, train_vision)
    for pair in zip(*(run.optimizer.gradients for run in runs), strict=True):
        one, other = (torch.cat([g.flatten() for g in gradients]) for gradients in pair)
        assert float((one - other).norm() / one.norm()) < 1e-5


@pytest.mark.parametrize("weights", [None, LoRA(rank=4)])
@pytest.mark.parametrize("updates", [1, 2])
def test_a_group_in_parts_is_the_group(spread: None, weights: LoRA | None, updates: int):
    """Parts that are normalised by themselves, old or reference log-probs of another row, metrics counted twice."""
    runs, calls = [], []
    for split in (False, True):
        loss = RecordingLoss(kl_coefficient=0.5)
        module, data = grpo(weights=weights, epochs=updates, loss=loss, prompts=3)
        if split:
            score_with(module, SPLIT_BUDGET)
        runs.append(fit(module, data))
        calls.append(len(loss.calls))
    assert calls[0] == updates and calls[1] >= 2 * 3 * updates
    for pair in zip(*(run.optimizer.gradients for run in runs), strict=True):
        one, other = (torch.cat([g.flatten() for g in gradients]) for gradients in pair)
        assert float((one - other).norm() / one.norm()) < 1e-5
    one, other = ({n: v for n, v in run.rows[0].items() if n.startswith("train/")} for run in runs)
    assert one == pytest.approx(other, rel=1e-4, abs=1e-5)


def test_micro_batches_do_not_change_the_metrics(spread: None):
    """A scalar in the logs that depends on the memory at hand: runs on two machines could not be compared."""
    one, other = (run.rows[0] for run in with_both_budgets(updates=2))
    found = {name: value for name, value in one.items() if name.startswith("train/")}
    found.pop("train/rollout_mismatch")  # rounding
    assert abs(found["train/loss"]) > 1e-3 and found["train/kl"] > 0
    assert found == pytest.approx({name: other[name] for name in found}, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("budget", [LARGE_BUDGET, SMALL_BUDGET])
def test_fixed_logprobs_belong_to_their_prompts(budget: int):
    """Old and reference log-probs at another prompt's or rollout's place: micro-batches have an order of their own."""
    module, data = grpo(budget=budget, epochs=2)
    with torch.no_grad():
        for parameter in module.policy.parameters():
            parameter *= 1.5
    scored = [module.with_advantages(group, features) for group, features in module.rolled(first_batch(data), step=0)]
    order = [i for prompts in module.prompt_batches(scored) for i in prompts.groups]
    assert order != list(range(PROMPTS))  # another order than the batch's
    for entry in module.with_fixed_logprobs(scored):
        batch = CompletionBatch.of([entry.token_ids], module.device)
        with torch.no_grad():
            for found, vlm in ((entry.old, module.policy), (entry.reference, frozen_copy(module))):
                expected = SeparateScorer()(vlm, [entry.group.sample.prompt], batch, 1.0).logprobs[0]
                width = expected.shape[-1]
                torch.testing.assert_close(found[:, :width], expected, rtol=0, atol=1e-5)
                assert not found[:, width:].any()


def test_learning_rate_warms_up_and_is_logged(spread: None):
    """Warm-up of half of 4 updates: 1/2, 1, 1, 1 of the rate; the logged rate is the one the step was taken with."""
    module, data = grpo(steps=4, lr=0.01, warmup_ratio=0.5)
    run = fit(module, data)
    assert run.optimizer.rates == pytest.approx([0.005, 0.01, 0.01, 0.01])
    assert [row["train/lr"] for row in run.rows] == pytest.approx(run.optimizer.rates)
