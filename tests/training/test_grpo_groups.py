"""Groups without spread: they train nothing, are counted, and are replaced only when asked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from locus.tasks import rollouts
from locus.tasks.datamodule import TaskDataModule
from locus.training.grpo import GRPOModule
from locus.training.loss import Loss
from locus.training.scored_groups import ScoredGroup
from locus.types import RolloutGroup
from tests.support.miniature import GROUP, PROMPTS, TOKENS, alternating, copies, first_batch, fit, grpo, unchanged


def test_groups_without_spread_have_no_advantage_and_are_counted():
    """Rounding divided by a tiny std would train on noise. Rewards of an untrained policy are all zero."""
    module, data = grpo(loss=Loss(kl_coefficient=0.0))
    before = copies(module.policy)
    run = fit(module, data)
    assert run.rows[0]["train/zero_spread_groups"] == 1
    assert all(torch.equal(advantages, torch.zeros(GROUP)) for _, advantages in run.steps[0]["groups"])
    assert unchanged(module.policy, before)


def test_share_of_groups_without_spread(monkeypatch: pytest.MonkeyPatch):
    """One group of four with rewards that differ: 0.75 have none."""
    module, data = grpo()
    chosen = first_batch(data)[0].prompt.prompt_id
    monkeypatch.setattr(rollouts, "graded", alternating(lambda name: name == chosen))
    run = fit(module, data)
    assert run.rows[0]["train/zero_spread_groups"] == 0.75
    found = {group.sample.prompt.prompt_id: advantages for group, advantages in run.steps[0]["groups"]}
    half = 3**0.5 / 2  # rewards 0, 1, 0, 1 less 0.5, over their unbiased std, sqrt(1/3)
    torch.testing.assert_close(found.pop(chosen), torch.tensor([-half, half] * 2), rtol=0, atol=1e-5)
    assert len(found) == 3 and not torch.stack(list(found.values())).any()


def refilled(
    monkeypatch: pytest.MonkeyPatch, good: Callable[[str], bool], refill: int
) -> tuple[list[RolloutGroup], list[RolloutGroup], int, list[tuple[int, int, int]]]:
    """Groups before and after the refill, how many had no spread, and the draws asked for.

    Groups of prompts of which ``good`` holds have rewards that differ.
    """
    monkeypatch.setattr(rollouts, "graded", alternating(good))
    module, data = grpo(refill=refill)
    asked, draw = [], module.draw
    module.draw = lambda *arguments: asked.append(arguments[:3]) or draw(*arguments)
    groups = module.roll_out(first_batch(data), module.sampling, GROUP, step=5)
    after, without_spread = module.refill(groups, step=5)
    return [group for group, _ in groups], [group for group, _ in after], without_spread, asked


def test_refill_replaces_groups_without_spread_only(monkeypatch: pytest.MonkeyPatch):
    """Good groups thrown away, a batch that shrinks, or a refill that puts in groups without spread.

    Or fresh groups in other places, which leaves what has no spread to the last mini-batch, whose update is noise.
    """
    _, data = grpo()
    bad = {sample.prompt.prompt_id for sample in first_batch(data)[1:3]}
    before, after, without_spread, asked = refilled(monkeypatch, lambda name: name not in bad, refill=10)
    assert without_spread == 2 and len(after) == PROMPTS
    for group, one in zip(before, after, strict=True):
        assert (group is not one) == (group.sample.prompt.prompt_id in bad)  # the very same, where it was
    assert not any(group.sample.prompt.prompt_id in bad for group in after)
    assert asked[0] == (5, 0, 2)
    assert [attempt for _, attempt, _ in asked] == list(range(len(asked))) and len(asked) <= 10


def test_refill_gives_up_after_its_attempts(monkeypatch: pytest.MonkeyPatch):
    """A loop for ever where no prompt gives spread; the batch keeps its size and its first groups."""
    before, after, without_spread, asked = refilled(monkeypatch, lambda name: False, refill=3)
    attempts = [(5, attempt, PROMPTS) for attempt in range(3)]
    assert without_spread == PROMPTS and asked == attempts[: len(asked)] and asked  # or the corpus runs out of prompts
    assert all(one is other for one, other in zip(before, after, strict=True))


def test_no_refill_unless_asked(monkeypatch: pytest.MonkeyPatch):
    """Rollouts, the dearest part of a step, spent without being asked for; and the order is left alone."""
    before, after, without_spread, asked = refilled(monkeypatch, lambda name: False, refill=0)
    assert without_spread == PROMPTS and asked == []
    assert all(one is other for one, other in zip(before, after, strict=True))


def test_refill_puts_no_prompt_in_twice(monkeypatch: pytest.MonkeyPatch):
    """A prompt's random numbers go by step and id: drawn twice in a step it brings the same rollouts, counted twice.

    12 examples, 4 in the batch, 2 of them drawn anew, in 10 steps: chance finds one.
    """
    module, data = grpo(refill=1)
    batch = first_batch(data)
    bad = {sample.prompt.prompt_id for sample in batch[1:3]}
    monkeypatch.setattr(rollouts, "graded", alternating(lambda name: name not in bad))
    for step in range(10):
        after, _ = module.refill(module.roll_out(batch, module.sampling, GROUP, step), step)
        names = Counter(group.sample.prompt.prompt_id for group, _ in after)
        assert max(names.values()) == 1, f"step {step}: {names}"


# --- Long completions -----------------------------------------------------------------------------------------
def ending(**algorithm: object) -> tuple[GRPOModule, TaskDataModule]:
    """A module whose completions end at many tokens, some at once and some not before the limit; no KL term."""
    module, data = grpo(loss=Loss(kl_coefficient=0.0, average="token_mean"), **algorithm)
    module.policy.end_token_ids = tuple(range(0, 1800, 6))
    return module, data


def test_a_long_completion_earns_less():
    """Rewards are all zero, so that advantages are those of the lengths; the task's reward stays as it is."""
    module, data = ending(overlong_penalty=0.5, overlong_buffer=1.0, divide_by_std=False)
    run = fit(module, data)
    penalties = []
    for group, advantages in run.steps[0]["groups"]:
        earned = torch.tensor([-0.5 * len(one.completion.token_ids) / TOKENS for one in group.rollouts])
        torch.testing.assert_close(advantages, earned - earned.mean(), rtol=0, atol=1e-6)
        assert set(group.rewards) == {0.0}
        penalties.append(earned.mean())
    assert len({len(one.completion.token_ids) for group, _ in run.steps[0]["groups"] for one in group.rollouts}) > 2
    assert run.rows[0]["train/length_penalty"] == pytest.approx(float(torch.stack(penalties).mean()))
    assert run.rows[0]["train/zero_spread_groups"] == 1  # a refill goes by what the task gives
    assert "train/length_penalty" not in fit(*ending()).rows[0]


def test_truncated_completions_do_not_train(spread: None, monkeypatch: pytest.MonkeyPatch):
    """A gradient, or a share of the mean, of completions that the limit cut; advantages and entropy that change."""
    masked, whole = (fit(*ending(mask_truncated=mask)) for mask in (True, False))
    groups = [group for group, _ in whole.steps[0]["groups"]]
    for (_, one), (_, other) in zip(masked.steps[0]["groups"], whole.steps[0]["groups"], strict=True):
        assert torch.equal(one, other)
    tokens = {finished: 0 for finished in (True, False)}
    for rollout in (rollout for group in groups for rollout in group.rollouts):
        tokens[rollout.completion.finished] += len(rollout.completion.token_ids)
    assert min(tokens.values()) > 0

    def without_truncated(self: GRPOModule, group: RolloutGroup, *rest: Any) -> ScoredGroup:
        entry = attach(self, group, *rest)
        finished = torch.tensor([rollout.completion.finished for rollout in group.rollouts])
        return replace(entry, advantages=entry.advantages * finished)

    attach = GRPOModule.with_advantages
    monkeypatch.setattr(GRPOModule, "with_advantages", without_truncated)
    zeroed = fit(*ending())
    for one, other in zip(masked.optimizer.gradients[0], zeroed.optimizer.gradients[0], strict=True):
        torch.testing.assert_close(one, other * sum(tokens.values()) / tokens[True], rtol=1e-4, atol=1e-7)
    assert masked.rows[0]["train/entropy"] == pytest.approx(whole.rows[0]["train/entropy"], rel=1e-6)


def test_a_batch_of_truncated_completions_trains_nothing(spread: None):
    """A mean over no token at all: NaN, and a run that stops after five."""
    module, data = grpo(mask_truncated=True)
    module.policy.end_token_ids = ()
    before = copies(module.policy)
    run = fit(module, data)
    assert unchanged(module.policy, before)
    assert (run.rows[0]["train/loss"], run.rows[0]["train/skipped_updates"]) == (0, 0)
