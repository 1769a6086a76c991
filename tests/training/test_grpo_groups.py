"""Groups without spread: they train nothing, are counted, and are replaced only when asked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest
import torch

from locus.tasks import rollouts
from locus.training.loss import Loss
from locus.types import RolloutGroup
from tests.support.miniature import GROUP, PROMPTS, alternating, copies, first_batch, fit, grpo, unchanged


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
    """Good groups thrown away, a batch that shrinks, or a refill that puts in groups without spread."""
    _, data = grpo()
    bad = {sample.prompt.prompt_id for sample in first_batch(data)[1:3]}
    before, after, without_spread, asked = refilled(monkeypatch, lambda name: name not in bad, refill=10)
    assert without_spread == 2 and len(after) == PROMPTS
    kept = [group for group in before if group.sample.prompt.prompt_id not in bad]
    assert all(any(group is one for one in after) for group in kept)  # the very same
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
