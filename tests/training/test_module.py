"""What every training module does: skipped updates, validation, and the position that a checkpoint holds."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning import Trainer
from omegaconf import OmegaConf
from torch.utils.data import DataLoader

from locus.errors import LocusError
from locus.policy import split_groups
from locus.policy.engines import LocalEngine
from locus.policy.inference import inference_policy
from locus.policy.logprobs import PackedScorer, TokenScores
from locus.policy.lora import LoRA
from locus.policy.rollouts import RolloutDecoding
from locus.policy.static_decoding import StaticDecoder
from locus.policy.vlm import VLM
from locus.tasks import rollouts
from locus.training.loss import Loss
from locus.types import Sampling
from tests.support.miniature import LARGE_BUDGET, SMALL_BUDGET, TOKENS, Recorder, copies, fit, graded, grpo, unchanged


# --- Non-finite losses ----------------------------------------------------------------------------------------
class Poisoned:
    """A scorer whose log-probs are NaN in the calls of these numbers, counted from 1; calls of the update only."""

    def __init__(self, calls: Sequence[int]):
        self.calls, self.count = calls, 0
        self.encode = PackedScorer().encode

    def __call__(self, policy: VLM, *arguments: Any) -> TokenScores:
        scores = PackedScorer()(policy, *arguments)
        if torch.is_grad_enabled():
            self.count += 1
            if self.count in self.calls:
                return replace(scores, logprobs=scores.logprobs * float("nan"))
        return scores


def test_a_nan_loss_skips_the_update_and_is_counted(spread: None):
    """One NaN ruins all weights for good; the step after it must go on, and the count begin anew."""
    module, data = grpo(steps=3, scorer=Poisoned([1, 3]))
    before, changed = copies(module.policy), []
    module.on_train_batch_end = lambda *_: changed.append(not unchanged(module.policy, before))
    run = fit(module, data)
    assert changed == [False, True, True]
    assert len(run.optimizer.gradients) == 1  # of three updates
    assert [row["train/skipped_updates"] for row in run.rows] == [1, 0, 1]
    assert module.skipped_in_a_row == 1  # not two: they were not in a row
    assert all(bool(value.isfinite().all()) for value in module.policy.state_dict().values())


def test_a_nan_in_a_later_micro_batch_skips_the_whole_update(spread: None):
    """The gradient of the micro-batches before it must not be applied, nor leak into the next update."""
    module, data = grpo(steps=2, scorer=Poisoned([2]), budget=SMALL_BUDGET, lr=0.0)
    run = fit(module, data)
    assert [row["train/skipped_updates"] for row in run.rows] == [1, 0]
    clean, data = grpo(steps=2, budget=SMALL_BUDGET, lr=0.0)
    second = fit(clean, data).optimizer.gradients[1]
    assert all(torch.equal(*pair) for pair in zip(run.optimizer.gradients[0], second, strict=True))


def test_a_nan_in_a_part_of_a_group_skips_the_whole_update(spread: None, monkeypatch: pytest.MonkeyPatch):
    """The parts before it leave nothing behind: not on the weights, not on the next update, not through the prompt."""
    monkeypatch.setattr(split_groups, "_parts", lambda prompt, lengths, budget: list(torch.eye(len(lengths)).bool()))
    runs = {}
    for calls in ([2], []):
        module, data = grpo(steps=2, scorer=Poisoned(calls), lr=0.0, prompts=1)
        monkeypatch.setattr(module, "encode_for_update", lambda prompts: None)
        module.token_budget = 180  # a prompt and one completion
        runs[len(calls)] = fit(module, data)
    assert [row["train/skipped_updates"] for row in runs[1].rows] == [1, 0]
    assert len(runs[1].optimizer.gradients) == 1
    pairs = zip(runs[1].optimizer.gradients[0], runs[0].optimizer.gradients[1], strict=True)
    assert all(torch.equal(*pair) for pair in pairs)


def test_a_prompt_without_room_for_a_completion_is_refused_before_it_is_rolled_out():
    """Otherwise it ends a run in whichever step a long completion happens to come, with its rollouts lost."""
    module, data = grpo()
    module.token_budget = 179
    module.roll_out = lambda *_: pytest.fail("rolled out")
    with pytest.raises(LocusError, match=r"completion of 6 have \d+ tokens, the budget is 179: raise rollout\.token_"):
        fit(module, data)


@pytest.mark.parametrize("step", ["dynamic", "static"])
def test_training_decodes_as_it_is_told(step: str, monkeypatch: pytest.MonkeyPatch):
    """A step in one micro-batch decodes the prompts that the update has encoded: as it is set."""
    module, data = grpo()
    module.decoding, seen = RolloutDecoding(LARGE_BUDGET, step), []
    module.engine = LocalEngine(LARGE_BUDGET, LARGE_BUDGET, step)
    run = StaticDecoder.run
    monkeypatch.setattr(StaticDecoder, "run", lambda *arguments: (seen.append(1), run(*arguments)))
    fit(module, data)
    assert bool(seen) == (step == "static")


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_a_gradient_that_is_not_finite_skips_the_update(spread: None, value: float):
    """The loss may be finite and its gradient not; clipping by an infinite norm makes 0 and NaN of the gradients."""
    module, data = grpo(clip_norm=1.0)
    next(module.policy.parameters()).register_hook(lambda gradient: torch.full_like(gradient, value))
    before = copies(module.policy)
    run = fit(module, data)
    assert unchanged(module.policy, before)
    assert run.rows[0]["train/skipped_updates"] == 1


def test_too_many_skipped_updates_stop_the_run(spread: None, compose_app):
    """A run that does nothing for days: the error names the step, and a key that exists."""
    module, data = grpo(steps=5, scorer=Poisoned([2, 3, 4]), max_skipped=3)
    before = copies(module.policy)
    with pytest.raises(LocusError, match=r"3 updates in a row .* at step 3\b") as error:
        fit(module, data)
    named = re.findall(r"\b[a-z]\w*(?:\.[a-z]\w*)+", str(error.value))
    assert named == ["optimizer.make.lr"] and OmegaConf.select(compose_app("train"), named[0]) is not None
    assert not unchanged(module.policy, before)  # step 0 was taken
    assert all(bool(value.isfinite().all()) for value in module.policy.state_dict().values())


def test_gradient_is_clipped():
    """A norm that is reported but not bounded."""
    module, data = grpo(clip_norm=1e-3, loss=Loss(kl_coefficient=0.0))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rollouts, "graded", graded(lambda ids, sample: int(ids.sum()) % 2))
        run = fit(module, data)
    norm = torch.cat([gradient.flatten() for gradient in run.optimizer.gradients[0]]).norm().item()
    assert run.rows[0]["train/grad_norm"] > 1e-2 and norm == pytest.approx(1e-3, rel=1e-3)


def test_progress_bar(spread: None):
    """A bar without the reward, IoU or KL: hours in which nobody sees that nothing is learned."""
    shown = fit(*grpo()).module.trainer.progress_bar_metrics
    assert {"train/reward", "train/iou", "train/kl", "train/loss"} <= shown.keys()


# --- Validation and the run's position ------------------------------------------------------------------------
def test_validation_is_the_same_each_time_and_leaves_training_alone(spread: None):
    """Validation that draws from the training's random numbers: switching it on would change the run."""
    module, data = grpo()
    module.validation_sampling = Sampling(max_new_tokens=TOKENS)  # drawn, not greedy
    logger = Recorder()
    trainer = Trainer(accelerator="cpu", logger=logger, enable_checkpointing=False, enable_progress_bar=False)
    for _ in range(2):
        trainer.validate(module, data, verbose=False)
    first, second = (row for row in logger.rows if "val/reward" in row)
    assert first == second
    assert {"val/mean_iou", "val/acc@0.5", "val/acc@0.75", "val/format", "val/any/mean_iou"} <= first.keys()
    (batch,) = data.val_dataloader()
    groups = [group for group, _ in module.roll_out(batch, module.validation_sampling, 1, step=-1)]
    assert first["val/reward"] == sum(group.rewards[0] for group in groups) / 4
    run, fresh = fit(module.train(), data), fit(*grpo())
    assert [g.rewards for g, _ in run.steps[0]["groups"]] == [g.rewards for g, _ in fresh.steps[0]["groups"]]


def test_validation_holds_no_pictures_but_its_batchs():
    """The pixels of all held-out prompts at once: 6 GB of 500 pictures of 4 million pixels each."""
    module, data = grpo()
    summarise, held = module.task.validation_metrics, []
    module.task.validation_metrics = lambda groups: held.extend(groups) or summarise(groups)
    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
    trainer.validate(module, data, verbose=False)
    assert len(held) == 4 and sum(group.sample.prompt.pixels.levels.numel() for group in held) == 0


def test_rollouts_of_a_phase_share_one_copy_that_no_update_leaves_stale():
    """Adapters merged at every call; or, worse, rollouts of the weights before the update."""
    module, data = grpo()
    LoRA(4, 6.0)(module.policy)
    batch = next(iter(data.train_dataloader()))

    def asked() -> list[list[int]]:
        groups = module.roll_out(batch, Sampling(max_new_tokens=TOKENS), 2, step=0)
        return [rollout.completion.token_ids.tolist() for group, _ in groups for rollout in group.rollouts]

    def step() -> None:
        with torch.no_grad():
            for layer in module.policy.adapters.values():
                layer.lora_B["default"].weight.normal_(std=0.5)

    module.trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False)
    module.optimizers = lambda: SimpleNamespace(step=step)
    module.lr_schedulers = lambda: SimpleNamespace(step=lambda: None)
    before, state = asked(), module.state_dict().keys()
    with module.rollout_phase():
        first = module.rollout_policy()
        assert asked() == before and module.rollout_policy() is first is not module.policy
        assert module.state_dict().keys() == state  # a copy is no part of a checkpoint
        module.apply_update(finite=True)
        assert module.rollout_policy() is not first
        after = asked()
    assert module.rollout_policy() is not module.rollout_policy()
    assert before != after == asked()


def test_validation_makes_one_copy(monkeypatch: pytest.MonkeyPatch):
    """Adapters merged for every batch, a copy that is kept while training, or one of the validation before."""
    module, data = grpo()
    LoRA(4, 6.0)(module.policy)
    made: list[VLM] = []

    def spied(policy: VLM) -> VLM:
        made.append(inference_policy(policy))
        return made[-1]

    monkeypatch.setattr("locus.training.module.inference_policy", spied)
    (batch,) = data.val_dataloader()
    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
    data.val_dataloader = lambda: DataLoader([batch] * 3, batch_size=None)
    for count in (1, 2):
        trainer.validate(module, data, verbose=False)
        assert len(made) == count and module._inference is None


def test_checkpoint_holds_the_runs_position():
    """A resumed run that counts from zero repeats the random numbers of its first steps."""
    module, _ = grpo()
    module.finished_steps, module.skipped_in_a_row = 17, 1
    checkpoint: dict[str, Any] = {}
    module.on_save_checkpoint(checkpoint)
    other, _ = grpo()
    other.on_load_checkpoint(checkpoint)
    assert (other.finished_steps, other.skipped_in_a_row) == (17, 1)
