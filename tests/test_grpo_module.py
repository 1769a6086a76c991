"""Training steps as a run takes them, through a Lightning trainer on generated scenes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import count
from typing import Any

import pytest
import torch
from lightning import Trainer
from lightning.pytorch.loggers.logger import DummyLogger
from models import backbone, collator

from locus.errors import LocusError
from locus.policy.logprobs import CompletionBatch, PackedScorer, SeparateScorer, TokenScores
from locus.policy.lora import LoRA
from locus.policy.reference import FrozenCopy
from locus.policy.vlm import VLM
from locus.scenes.source import SceneSource
from locus.tasks.cue_search.corpus import Corpus, build_corpus
from locus.tasks.cue_search.crops import CropStrategy
from locus.tasks.cue_search.rationales import EmptyTargets, Targets
from locus.tasks.cue_search.reward import BoxReward, judge
from locus.tasks.datamodule import CueDataModule
from locus.training import module as policy_module
from locus.training.algorithm import Algorithm
from locus.training.grpo import GRPOModule
from locus.training.loss import Loss
from locus.training.module import PolicyModule, RunParts
from locus.training.sft import SFTModule
from locus.types import (
    Completion,
    CueExample,
    LossTerms,
    ParsedAnswer,
    PromptRecord,
    Reward,
    Rollout,
    RolloutGroup,
    Sampling,
    Status,
)

FAMILY = "qwen3_vl"
PROMPTS, GROUP, TOKENS = 4, 4, 6
"""B prompts of G rollouts of at most T tokens in each step."""
LARGE_BUDGET, SMALL_BUDGET = 10_000, 170
"""Padded tokens per micro-batch: all prompts in one, and one prompt each (it needs about 140)."""


# --- A run in miniature ---------------------------------------------------------------------------------------
@lru_cache
def scenes() -> tuple[SceneSource, Corpus]:
    """One object each on small flat canvases: 12 examples to train on, and 4."""
    source = SceneSource(24, 64, 64, [1, 1], [16, 32], gap=0, lookalikes=0.0, clutter=0.0, seed=0)
    strategy = CropStrategy({"any": (0.0, 1.0)}, {"any": 1.0}, 8, {}, {})
    return source, build_corpus(source.table(), strategy, 12, 4, seed=0)


def data_module(steps: int, prompts: int = PROMPTS) -> CueDataModule:
    source, corpus = scenes()
    return CueDataModule(corpus, source, collator(FAMILY), prompts, validation_batch=4, steps=steps, workers=0, seed=0)


class Recorder(DummyLogger):
    """Keeps what is logged, a dictionary a step."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[dict[str, float]] = []

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.rows.append(dict(metrics))


class RecordingSGD(torch.optim.SGD):
    """Keeps the gradient and the rate of each step, before it is taken."""

    def __init__(self, parameters: Any, lr: float):
        super().__init__(parameters, lr=lr)
        self.gradients: list[list[torch.Tensor]] = []
        self.rates: list[float] = []

    def step(self, closure: Callable | None = None) -> None:
        own = [parameter for group in self.param_groups for parameter in group["params"]]
        self.gradients.append([torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in own])
        self.rates.append(self.param_groups[0]["lr"])
        return super().step(closure)


@dataclass(eq=False)
class Run:
    """What a run leaves for its test."""

    module: PolicyModule
    rows: list[dict[str, float]]
    """Logged metrics, one dictionary a training step."""
    steps: list[Any] = field(default_factory=list)
    """What each training step returned."""

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        return self.module.trainer.optimizers[0]


def run_parts(steps: int, data: CueDataModule, **settings: object) -> RunParts:
    own, make = backbone(FAMILY, **settings), collator(FAMILY)
    return RunParts(own.load(), own.load, make.encode, make.decode, data.draw, steps)


def grpo(steps: int = 1, prompts: int = PROMPTS, lr: float = 1e-2, train_vision: bool = True,
         scorer: Any = None, max_skipped: int = 2, budget: int = LARGE_BUDGET, clip_norm: float = 1e9,
         warmup_ratio: float = 0.0, weights: Callable[[VLM], None] | None = None,
         **algorithm: Any) -> tuple[GRPOModule, CueDataModule]:  # fmt: skip
    """A GRPO module with its data, not yet run."""
    data = data_module(steps, prompts)
    parts = run_parts(steps, data, train_vision=train_vision)
    if weights is not None:
        weights(parts.policy)
    settings = {"group_size": GROUP, "loss": Loss(kl_coefficient=0.1)} | algorithm
    module = GRPOModule(
        parts,
        Algorithm(**settings),
        scorer or PackedScorer(),
        Sampling(max_new_tokens=TOKENS),
        reward=BoxReward(),
        validation_sampling=Sampling(temperature=0, max_new_tokens=TOKENS),
        optimizer=lambda parameters: RecordingSGD(parameters, lr=lr),
        warmup_ratio=warmup_ratio,
        clip_norm=clip_norm,
        token_budget=budget,
        max_skipped=max_skipped,
        seed=0,
    )
    return module, data


def fit(module: PolicyModule, data: CueDataModule) -> Run:
    """Runs all steps through a trainer."""
    logger, run = Recorder(), Run(module, [])
    training_step = module.training_step

    def kept(*arguments: Any) -> Any:
        run.steps.append(training_step(*arguments))
        return run.steps[-1]

    module.training_step = kept
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=1,
        logger=logger,
        limit_val_batches=0,
        log_every_n_steps=1,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, data)
    run.rows = [row for row in logger.rows if "train/grad_norm" in row]
    return run


def copies(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The weights as they are now."""
    return {name: value.clone() for name, value in model.state_dict().items()}


def unchanged(model: torch.nn.Module, before: dict[str, torch.Tensor]) -> bool:
    """Bit for bit."""
    return all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def judged(score: Callable[[torch.Tensor, PromptRecord], float]) -> Callable:
    """A `judge` whose reward is ``score`` of the tokens and the prompt."""

    def fake(completion: Completion, text: str, prompt: PromptRecord, reward: BoxReward) -> Rollout:
        total = float(score(completion.token_ids, prompt))
        answer = ParsedAnswer(Status.NO_ANSWER_TAG, None, False)
        return Rollout(completion, text, answer, None, Reward(total, total, 0.0, 0.0))

    return fake


def alternating(good: Callable[[str], bool]) -> Callable:
    """A `judge` that gives 0, 1, 0, 1 to rollouts of prompts of which ``good`` holds; to others 0.3, but for 1e-9."""
    calls = count()
    return judged(lambda ids, prompt: next(calls) % 2 if good(prompt.prompt_id) else 0.3 + 1e-9 * (next(calls) % 2))


@pytest.fixture
def spread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rewards that differ within a group: 1 where the sum of the ids is even. An untrained policy finds no box."""
    monkeypatch.setattr(policy_module, "judge", judged(lambda ids, prompt: int(ids.sum()) % 2))


def first_batch(data: CueDataModule) -> list[PromptRecord]:
    """The prompts of the first step."""
    return next(iter(data.train_dataloader()))


def frozen_copy(module: GRPOModule) -> VLM:
    """The reference's model."""
    with module.reference.on(torch.device("cpu")) as vlm:
        return vlm


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
            prompt, ids = group.prompt, rollout.completion.token_ids
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


# --- Non-finite losses ----------------------------------------------------------------------------------------
class Poisoned:
    """A scorer whose log-probs are NaN in the calls of these numbers, counted from 1; calls of the update only."""

    def __init__(self, calls: Sequence[int]):
        self.calls, self.count = calls, 0

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


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_a_gradient_that_is_not_finite_skips_the_update(spread: None, value: float):
    """The loss may be finite and its gradient not; clipping by an infinite norm makes 0 and NaN of the gradients."""
    module, data = grpo(clip_norm=1.0)
    next(module.policy.parameters()).register_hook(lambda gradient: torch.full_like(gradient, value))
    before = copies(module.policy)
    run = fit(module, data)
    assert unchanged(module.policy, before)
    assert run.rows[0]["train/skipped_updates"] == 1


def test_too_many_skipped_updates_stop_the_run(spread: None):
    """A run that does nothing for days: the error names the step."""
    module, data = grpo(steps=5, scorer=Poisoned([2, 3, 4]), max_skipped=3)
    before = copies(module.policy)
    with pytest.raises(LocusError, match=r"3 updates in a row .* at step 3\b"):
        fit(module, data)
    assert not unchanged(module.policy, before)  # step 0 was taken
    assert all(bool(value.isfinite().all()) for value in module.policy.state_dict().values())


def test_gradient_is_clipped():
    """A norm that is reported but not bounded."""
    module, data = grpo(clip_norm=1e-3, loss=Loss(kl_coefficient=0.0))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(policy_module, "judge", judged(lambda ids, prompt: int(ids.sum()) % 2))
        run = fit(module, data)
    norm = torch.cat([gradient.flatten() for gradient in run.optimizer.gradients[0]]).norm().item()
    assert run.rows[0]["train/grad_norm"] > 1e-2 and norm == pytest.approx(1e-3, rel=1e-3)


# --- Groups without spread ------------------------------------------------------------------------------------
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
    chosen = first_batch(data)[0].prompt_id
    monkeypatch.setattr(policy_module, "judge", alternating(lambda name: name == chosen))
    run = fit(module, data)
    assert run.rows[0]["train/zero_spread_groups"] == 0.75
    found = {group.prompt.prompt_id: advantages for group, advantages in run.steps[0]["groups"]}
    half = 3**0.5 / 2  # rewards 0, 1, 0, 1 less 0.5, over their unbiased std, sqrt(1/3)
    torch.testing.assert_close(found.pop(chosen), torch.tensor([-half, half] * 2), rtol=0, atol=1e-5)
    assert len(found) == 3 and not torch.stack(list(found.values())).any()


def refilled(
    monkeypatch: pytest.MonkeyPatch, good: Callable[[str], bool], refill: int
) -> tuple[list[RolloutGroup], list[RolloutGroup], int, list[tuple[int, int, int]]]:
    """Groups before and after the refill, how many had no spread, and the draws asked for.

    Groups of prompts of which ``good`` holds have rewards that differ.
    """
    monkeypatch.setattr(policy_module, "judge", alternating(good))
    module, data = grpo(refill=refill)
    asked, draw = [], module.draw
    module.draw = lambda *arguments: asked.append(arguments[:3]) or draw(*arguments)
    groups = module.roll_out(first_batch(data), module.sampling, GROUP, step=5)
    after, without_spread = module.refill(groups, step=5)
    return [group for group, _ in groups], [group for group, _ in after], without_spread, asked


def test_refill_replaces_groups_without_spread_only(monkeypatch: pytest.MonkeyPatch):
    """Good groups thrown away, a batch that shrinks, or a refill that puts in groups without spread."""
    _, data = grpo()
    bad = {record.prompt_id for record in first_batch(data)[1:3]}
    before, after, without_spread, asked = refilled(monkeypatch, lambda name: name not in bad, refill=10)
    assert without_spread == 2 and len(after) == PROMPTS
    kept = [group for group in before if group.prompt.prompt_id not in bad]
    assert all(any(group is one for one in after) for group in kept)  # the very same
    assert not any(group.prompt.prompt_id in bad for group in after)
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
    bad = {record.prompt_id for record in batch[1:3]}
    monkeypatch.setattr(policy_module, "judge", alternating(lambda name: name not in bad))
    for step in range(10):
        after, _ = module.refill(module.roll_out(batch, module.sampling, GROUP, step), step)
        names = Counter(group.prompt.prompt_id for group, _ in after)
        assert max(names.values()) == 1, f"step {step}: {names}"


# --- Mini-batches, epochs, micro-batches ----------------------------------------------------------------------
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
    groups = module.roll_out(first_batch(data), module.sampling, GROUP, step=0)
    scored = [module.with_advantages(group, features) for group, features in groups]
    assert sum(module.micro_batches(scored), []) != list(range(PROMPTS))  # another order than the batch's
    for entry in module.with_fixed_logprobs(scored):
        batch = CompletionBatch.of([entry.token_ids], module.device)
        with torch.no_grad():
            for found, vlm in ((entry.old, module.policy), (entry.reference, frozen_copy(module))):
                expected = SeparateScorer()(vlm, [entry.group.prompt], batch, 1.0).logprobs[0]
                width = expected.shape[-1]
                torch.testing.assert_close(found[:, :width], expected, rtol=0, atol=1e-5)
                assert not found[:, width:].any()


def test_learning_rate_warms_up_and_is_logged(spread: None):
    """Warm-up of half of 4 updates: 1/2, 1, 1, 1 of the rate; the logged rate is the one the step was taken with."""
    module, data = grpo(steps=4, lr=0.01, warmup_ratio=0.5)
    run = fit(module, data)
    assert run.optimizer.rates == pytest.approx([0.005, 0.01, 0.01, 0.01])
    assert [row["train/lr"] for row in run.rows] == pytest.approx(run.optimizer.rates)


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


def test_frozen_tower_stays_and_the_rest_trains(spread: None):
    """Weight decay or momentum that moves frozen weights."""
    module, data = grpo(steps=2, train_vision=False, lr=0.1)
    before = copies(module.policy)
    fit(module, data)
    moved = {name for name, value in module.policy.state_dict().items() if not torch.equal(value, before[name])}
    assert moved and not any(".visual." in name for name in moved)


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


# --- Supervised fine-tuning -----------------------------------------------------------------------------------
EMPTY = EmptyTargets()


def sft(
    steps: int, budget: int = LARGE_BUDGET, lr: float = 3e-3, targets: Targets = EMPTY, tokens: int = 16
) -> tuple[SFTModule, CueDataModule]:
    data = data_module(steps)
    optimizer: Callable = (lambda p: torch.optim.AdamW(p, lr=lr)) if steps > 1 else (lambda p: RecordingSGD(p, lr=lr))
    return SFTModule(
        run_parts(steps, data),
        PackedScorer(),
        targets,
        reward=BoxReward(),
        validation_sampling=Sampling(temperature=0, max_new_tokens=tokens),
        optimizer=optimizer,
        warmup_ratio=0.0,
        clip_norm=1.0 if steps > 1 else 1e9,
        token_budget=budget,
        max_skipped=2,
        seed=0,
    ), data


def test_sft_lowers_its_loss():
    """From about ln 1,716 = 7.4 nats a token; tags and separators are soon certain, the numbers are not."""
    run = fit(*sft(steps=20))
    losses = [row["train/loss"] for row in run.rows]
    assert losses[0] == pytest.approx(7.45, abs=0.3)
    assert losses[-1] < 0.6 * losses[0]


def test_sft_targets_earn_the_full_format_and_the_most_that_integers_can():
    """Targets in another frame or format than the reward's: SFT would then train against GRPO."""
    module, data = sft(steps=1)
    for record in first_batch(data):
        ids = module.target_ids(record, "")
        assert ids[-1] == module.policy.end_token_ids[0]
        completion = Completion(ids, torch.zeros(len(ids)), finished=True)
        rollout = judge(completion, module.decode(ids), record, BoxReward())
        assert rollout.reward.format == 1 and rollout.reward.iou > 0.9


def thought(example: CueExample) -> str:
    """Of one to five words, by the place."""
    return "there " * (1 + int(example.box[0]) % 5) + example.example_id


class Thoughts(Targets):
    """Rationales of different lengths that name their examples."""

    def rationales(self, examples):
        return map(thought, examples)


@pytest.mark.parametrize("budget", [LARGE_BUDGET, SMALL_BUDGET])
def test_sft_loss_is_that_of_the_definition(budget: int):
    """SFT's loss written out once more, with rationales of different lengths: the mean over the step's target tokens
    of -log-prob. A rationale left out, or another example's, a box in the file's frame, a mean of means."""
    module, data = sft(steps=1, budget=budget, targets=Thoughts(), tokens=48)
    policy = backbone(FAMILY).load().train()
    total, lengths = 0.0, []
    for prompt in first_batch(data):
        box = ", ".join(str(round(1000 * side / 64)) for side in prompt.example.box)  # FAMILY speaks 0-1000
        text = f"<think>{thought(prompt.example)}</think><answer>[{box}]</answer><|im_end|>"
        ids = torch.tensor(collator(FAMILY).encode(text))
        with torch.no_grad():
            logits = policy.model(
                input_ids=torch.cat([prompt.input_ids, ids])[None],
                mm_token_type_ids=torch.cat([prompt.mm_token_type_ids, torch.zeros_like(ids)])[None],
                pixel_values=prompt.pixel_values,
                image_grid_thw=prompt.image_grid_thw,
            ).logits[0, prompt.length - 1 : -1]
        logits[:, policy.forbidden] = float("-inf")
        total -= logits.log_softmax(-1).gather(1, ids[:, None]).sum().item()
        lengths.append(len(ids))
    (row,) = fit(module, data).rows
    assert len(set(lengths)) > 1
    assert row["train/loss"] == pytest.approx(total / sum(lengths), rel=1e-5)
    assert row["train/completion_length"] == sum(lengths) / len(lengths)
    assert row["train/skipped_updates"] == 0 and row["train/lr"] == 3e-3 and row["train/entropy"] > 0


def test_sft_target_continues_what_the_template_opened():
    """A second <think> behind the one that Qwen3-VL-Thinking's template opens."""
    module, data = sft(steps=1, tokens=48)
    record = replace(first_batch(data)[0], opened="<think>\n")
    text = module.decode(module.target_ids(record, "It is there."))
    assert text.startswith("It is there.</think><answer>[") and text.endswith("]</answer>")
    with pytest.raises(LocusError, match="has 18 tokens, completions end at 16.*max_new_tokens"):
        sft(steps=1)[0].target_ids(record, "It is there.")


def test_sft_micro_batches_do_not_change_the_gradient():
    """The loss is a mean over all target tokens of the step."""
    one, other = (fit(*sft(steps=1, budget=budget)) for budget in (LARGE_BUDGET, SMALL_BUDGET))
    one, other = (torch.cat([g.flatten() for g in run.optimizer.gradients[0]]) for run in (one, other))
    assert float((one - other).norm() / one.norm()) < 1e-5


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


def test_checkpoint_holds_the_runs_position():
    """A resumed run that counts from zero repeats the random numbers of its first steps."""
    module, _ = grpo()
    module.finished_steps, module.skipped_in_a_row = 17, 1
    checkpoint: dict[str, Any] = {}
    module.on_save_checkpoint(checkpoint)
    other, _ = grpo()
    other.on_load_checkpoint(checkpoint)
    assert (other.finished_steps, other.skipped_in_a_row) == (17, 1)
