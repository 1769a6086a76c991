"""GRPO's steps through a Lightning trainer: the first update, the frozen reference, the vision tower and adapters."""

from __future__ import annotations

import weakref
from typing import Any

import pytest
import torch

from locus.errors import LocusError
from locus.policy.engines import Written
from locus.policy.lora import LoRA
from locus.policy.reference import FrozenCopy
from locus.training.loss import Loss
from tests.support.miniature import (
    FAMILY,
    GROUP,
    LARGE_BUDGET,
    PROMPTS,
    SMALL_BUDGET,
    copies,
    fit,
    frozen_copy,
    grpo,
    unchanged,
)
from tests.support.models import backbone


# --- The first step -------------------------------------------------------------------------------------------
def test_first_step_on_policy(spread: None):
    """On-policy at step 1 the ratio is 1, the reference is the policy, and the surrogate's value is a mean of
    advantages; a deviation is a fault in scoring, sampling or the copy."""
    run = fit(*grpo())
    (row,) = run.rows
    assert row["train/max_log_ratio"] == 0
    assert row["train/clip_fraction"] == 0
    assert row["train/kl"] == pytest.approx(0, abs=1e-9)
    assert row["train/rollout_mismatch"] < 1e-4
    assert row["train/grad_norm"] > 0 and row["train/skipped_updates"] == 0
    assert 0 < row["train/reward"] < 1 and row["train/zero_spread_groups"] < 1
    for group, advantages in run.steps[0]["groups"]:
        assert len(group.rollouts) == GROUP
        assert advantages.mean().item() == pytest.approx(0, abs=1e-6)
    assert run.module.finished_steps == 1


def test_a_step_raises_the_chance_of_rewarded_completions(spread: None):
    """A sign error in the advantage or the loss trains the opposite and still looks busy."""
    module, data = grpo(lr=1e-2, loss=Loss(kl_coefficient=0.0))
    start = {name: value.clone() for name, value in module.policy.state_dict().items()}
    run = fit(module, data)
    entries = [entry for entry in run.steps[0]["groups"] if entry[1].abs().max() > 0]
    assert entries
    scored = [module.with_advantages(group, None) for group, _ in entries]
    with torch.no_grad():
        after = module.score(module.policy, scored).logprobs.sum(-1)
        module.policy.load_state_dict(start)
        before = module.score(module.policy, scored).logprobs.sum(-1)
    assert ((after - before) * torch.stack([advantages for _, advantages in entries])).sum() > 0


def test_gradient_is_that_of_the_definition(spread: None):
    """GRPO's first update written out once more: the mean over rollouts of the mean over tokens of A · log-prob."""
    module, data = grpo(loss=Loss(kl_coefficient=0.0))
    policy = backbone(FAMILY).load().train()
    run = fit(module, data)
    loss = torch.tensor(0.0)
    for group, _ in run.steps[0]["groups"]:
        rewards = torch.tensor(group.rewards)
        advantages = (rewards - rewards.mean()) / (rewards.std() + 1e-6) if rewards.std() > 0 else rewards * 0
        for advantage, rollout in zip(advantages, group.rollouts, strict=True):
            prompt, ids = group.sample.prompt, rollout.completion.token_ids
            logits = policy.model(
                input_ids=torch.cat([prompt.input_ids, ids])[None],
                mm_token_type_ids=torch.cat([prompt.mm_token_type_ids, torch.zeros_like(ids)])[None],
                pixel_values=prompt.pixel_values,
                image_grid_thw=prompt.image_grid_thw,
            ).logits[0, prompt.length - 1 : -1]
            logits[:, policy.forbidden] = float("-inf")
            logprobs = logits.log_softmax(-1).gather(1, ids[:, None])
            loss = loss - advantage * logprobs.mean() / (PROMPTS * GROUP)
    loss.backward()
    expected = torch.cat([p.grad.flatten() for p in policy.parameters()])
    found = torch.cat([g.flatten() for g in run.optimizer.gradients[0]])
    assert float((found - expected).norm() / expected.norm()) < 1e-4


# --- The reference --------------------------------------------------------------------------------------------
def test_reference_stays_and_policy_moves(spread: None):
    """A reference that is trained, saved in checkpoints, handed to the optimiser, or shares weights with the policy."""
    module, data = grpo(steps=3, lr=0.1)
    reference = frozen_copy(module)
    first = copies(reference)
    assert unchanged(module.policy, first)
    run = fit(module, data)
    assert unchanged(reference, first) and not unchanged(module.policy, first)
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in reference.parameters())
    assert not reference.training
    own = {id(parameter) for parameter in reference.parameters()}
    assert not own & {id(p) for group in run.optimizer.param_groups for p in group["params"]}
    assert not own & {id(p) for p in module.parameters()}
    assert all(name.startswith("policy.") for name in module.state_dict())
    assert run.rows[0]["train/kl"] == pytest.approx(0, abs=1e-9) and run.rows[-1]["train/kl"] > 1e-7


def test_without_a_kl_term_there_is_no_reference():
    """Memory for a second model that nothing uses."""
    module, _ = grpo(loss=Loss(kl_coefficient=0.0))
    assert module.reference is None


def test_kl_term_pulls_back_to_the_reference():
    """A KL term of the wrong sign drives the policy away. All rewards are 0 here: it acts alone, on a moved policy."""
    module, data = grpo(steps=1, lr=0.01, loss=Loss(kl_coefficient=1.0))
    with torch.no_grad():
        generator = torch.Generator().manual_seed(0)
        for parameter in module.policy.parameters():
            parameter += 0.02 * torch.randn(parameter.shape, generator=generator)
    moved = copies(module.policy)
    run = fit(module, data)
    scored = [module.with_advantages(group, None) for group, _ in run.steps[0]["groups"]]

    @torch.no_grad()
    def kl() -> float:
        reference = module.score(frozen_copy(module), scored)
        log_ratio = (reference.logprobs - module.score(module.policy, scored).logprobs)[reference.mask]
        return (log_ratio.exp() - log_ratio - 1).mean().item()  # k3

    after = kl()
    module.policy.load_state_dict(moved)
    assert run.rows[0]["train/kl"] == pytest.approx(kl(), rel=1e-4)
    assert 0 < after < kl()


# --- The vision tower -----------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("train_vision", "budget", "expected"),
    [(False, LARGE_BUDGET, 1), (False, SMALL_BUDGET, 1), (True, LARGE_BUDGET, 2), (True, SMALL_BUDGET, 3)],
)
def test_how_often_a_picture_is_encoded(spread: None, train_vision: bool, budget: int, expected: int):
    """Frozen: once per prompt and step, for rollout, reference and policy. Trained: once for the policy and once for
    the reference, and where a step has several micro-batches, once more for the update."""
    module, data = grpo(steps=2, train_vision=train_vision, budget=budget)
    images = []

    def add(tower: torch.nn.Module, arguments: tuple, keywords: dict) -> None:
        images.append(len(keywords["grid_thw"] if "grid_thw" in keywords else arguments[1]))

    for vlm in (module.policy, frozen_copy(module)):
        vlm.model.model.visual.register_forward_pre_hook(add, with_kwargs=True)
    fit(module, data)
    assert sum(images) == 2 * PROMPTS * 2 * expected  # two images a prompt, two steps


@pytest.mark.parametrize("train_vision", [True, False])
def test_features_that_no_update_can_use_are_gone_before_it(spread: None, train_vision: bool):
    """Gigabytes of a step's pictures held through the update, where it encodes them anew: their tower has changed."""
    module, data = grpo(train_vision=train_vision, budget=SMALL_BUDGET)
    engine, update, features, alive = module.engine, module.update, [], []

    def watched(*arguments: Any) -> Written:
        completions, found = engine(*arguments)
        features.extend(weakref.ref(one.embeddings) for one in found)
        return completions, found

    module.engine = watched
    module.update = lambda *arguments: alive.append(sum(one() is not None for one in features)) or update(*arguments)
    fit(module, data)
    assert len(features) == PROMPTS and alive == [0 if train_vision else PROMPTS]


def test_frozen_tower_stays_and_the_rest_trains(spread: None):
    """Weight decay or momentum that moves frozen weights."""
    module, data = grpo(steps=2, train_vision=False, lr=0.1)
    before = copies(module.policy)
    fit(module, data)
    moved = {name for name, value in module.policy.state_dict().items() if not torch.equal(value, before[name])}
    assert moved and not any(".visual." in name for name in moved)


@pytest.mark.parametrize("train_vision", [True, False])
def test_a_bfloat16_reference_is_the_same_to_its_eight_bits(
    spread: None, monkeypatch: pytest.MonkeyPatch, train_vision: bool
):
    """Float32 features or log-probs that a reference of another type cannot take, and one that stays on the device."""
    released: list[FrozenCopy] = []
    monkeypatch.setattr(FrozenCopy, "release", lambda reference: released.append(reference))
    kl = {}
    for dtype in ("float32", "bfloat16"):
        module, data = grpo(steps=3, lr=0.3, train_vision=train_vision, loss=Loss(kl_coefficient=0.1))
        settings = {"train_vision": train_vision, "reference_dtype": dtype}
        module.reference = FrozenCopy(backbone(FAMILY, **settings).load_reference())
        kl[dtype] = fit(module, data).rows[-1]["train/kl"]
        assert released.pop() is module.reference and not released
    assert kl["float32"] > 1e-4 and kl["bfloat16"] == pytest.approx(kl["float32"], rel=0.2)


# --- Adapters -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("train_vision", [True, False])
@pytest.mark.parametrize("epochs", [1, 2])
def test_adapters_switched_off_are_as_good_as_a_second_copy(spread: None, train_vision: bool, epochs: int):
    """A reference that is the policy itself: adapters left on or off, their gradients cut, dropped or doubled."""
    runs = []
    for copied in (False, True):
        settings = {"steps": 3, "lr": 0.3, "epochs": epochs, "train_vision": train_vision}
        module, data = grpo(**settings, weights=LoRA(rank=4), loss=Loss(kl_coefficient=1.0))
        if copied:
            module.reference = FrozenCopy(backbone(FAMILY, train_vision=train_vision).load())
        runs.append(fit(module, data))
    shared, separate = runs
    for one, other in zip(shared.rows, separate.rows, strict=True):
        timed = {name for name in one if name.startswith(("time/", "memory/"))}
        assert {name: one[name] for name in one if name not in timed} == {n: other[n] for n in other if n not in timed}
    assert unchanged(shared.module, copies(separate.module))
    assert shared.rows[0]["train/max_log_ratio"] == 0 or epochs > 1
    assert shared.rows[-1]["train/kl"] > 1e-6


def test_only_adapters_train_and_only_they_are_saved(spread: None):
    """Backbone weights that move by weight decay, optimiser states or checkpoints of the whole model, and adapters
    that are loaded onto another backbone."""
    module, data = grpo(steps=2, lr=0.3, weights=LoRA(rank=4))
    before = copies(module.policy)
    run = fit(module, data)
    moved = {name for name, value in module.policy.state_dict().items() if not torch.equal(value, before[name])}
    adapters = {name for name in before if ".lora_" in name}
    assert moved == adapters and len(adapters) == 2 * len(module.policy.adapters) > 0
    sizes = sum(parameter.numel() for group in run.optimizer.param_groups for parameter in group["params"])
    assert sizes == sum(before[name].numel() for name in adapters)

    checkpoint = {"state_dict": module.state_dict()}
    module.on_save_checkpoint(checkpoint)
    assert set(checkpoint["state_dict"]) == {f"policy.{name}" for name in adapters}
    again, _ = grpo(steps=2, weights=LoRA(rank=4, seed=7))
    again.on_load_checkpoint(checkpoint)
    again.load_state_dict(checkpoint["state_dict"])
    assert unchanged(again, copies(module)) and again.finished_steps == 2

    full, _ = grpo(steps=2)
    other, _ = grpo(steps=2, weights=LoRA(rank=8))
    for wrong in (full, other):
        with pytest.raises(LocusError, match="another model"):
            wrong.load_state_dict(checkpoint["state_dict"])
    with torch.no_grad():
        again.policy.model.get_input_embeddings().weight += 1e-3
    with pytest.raises(LocusError, match=r"another backbone.*backbone\.path"):
        again.on_load_checkpoint(checkpoint)
