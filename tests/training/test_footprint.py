"""A planned step against one that is run: bytes of tensors at its peak, and processor time."""

from __future__ import annotations

import time
from dataclasses import replace
from functools import partial
from statistics import median
from typing import Any
from unittest import mock

import pytest
import torch

from locus.plan import _budgets
from locus.policy.dry_run import PeakBytes
from locus.policy.logprobs import PackedScorer
from locus.policy.operations import image_flops
from locus.policy.rollouts import RolloutDecoding
from locus.training.footprint import Footprint
from locus.training.grpo import GRPOModule, shares_prompts
from locus.training.module import RunParts
from locus.training.pace import measured_pace, stated_pace, step_work, token_passes
from locus.training.plan import MEASURED_LAYERS, Planned, largest_budgets
from locus.training.step_sizes import StepSizes
from tests.support import miniature
from tests.support.miniature import FAMILY, GROUP, LARGE_BUDGET, PROMPTS, SMALL_BUDGET, TOKENS
from tests.support.models import backbone, builder

ADAMW = partial(torch.optim.AdamW, lr=1e-4)


HUNDRED_MILLION = {
    **{"text_layers": 12, "text_width": 768, "text_heads": 24, "text_kv_heads": 24, "text_mlp": 2304},
    **{"vision_layers": 6, "vision_width": 384, "vision_heads": 6, "vision_mlp": 1536},
}
"""Parameters, of an architecture three times as deep as what rates are measured on."""


def run_and_plan(
    budget: int, prompts: int = PROMPTS, **settings: Any
) -> tuple[GRPOModule, miniature.TaskDataModule, Planned]:
    """A run of two steps, not yet begun, and its plan."""
    data, own, make = miniature.data_module(2, prompts), backbone(FAMILY, **settings), builder(FAMILY)
    parts = RunParts(own.load(), own.load, data.task, make.encode, make.decode, data.draw, 2)
    with mock.patch.object(miniature, "run_parts", return_value=parts):
        module, data = miniature.grpo(steps=2, prompts=prompts, budget=budget)
    module.make_optimizer = ADAMW
    asked = [sample.prompt for sample in miniature.first_batch(data)]
    shared = shares_prompts(module.policy, asked, module.algorithm, TOKENS, budget, module.decoding)
    sizes = StepSizes(asked, GROUP, module.sampling, TOKENS, budget, module.decoding, shares_prompts=shared)
    return module, data, Planned(own, None, PackedScorer(), ADAMW, sizes, True)


def timed(module: GRPOModule) -> list[float]:
    """Seconds of processor time of each step, once the module has been run."""
    seconds, step = [], module.training_step

    def watched(*arguments: Any) -> Any:
        start = time.process_time()
        output = step(*arguments)
        seconds.append(time.process_time() - start)
        return output

    module.training_step = watched
    return seconds


def planned_seconds(planned: Planned) -> float:
    """Of a step, by rates measured here and now."""
    policy = planned.policy("cpu", MEASURED_LAYERS)
    pace = measured_pace(policy, planned.scorer, ADAMW, planned.sizes, clock=time.process_time)
    return sum(pace.seconds(planned.work).values())


def compare(budget: int, **settings: Any) -> tuple[float, float]:
    """Planned over measured: bytes at the peak, and seconds of processor time of the second step."""
    module, data, planned = run_and_plan(budget, **settings)
    weights = sum(parameter.nbytes for parameter in module.policy.parameters())
    with PeakBytes() as memory:
        miniature.fit(module, data)
    measured = memory.peak + 2 * weights  # policy and reference were there before
    module, data, planned = run_and_plan(budget, **settings)
    seconds = timed(module)
    miniature.fit(module, data)
    return planned.footprint.peak / measured, planned_seconds(planned) / seconds[-1]


CASES = {
    "prompts_shared_with_the_rollout": (LARGE_BUDGET, {}),
    "micro_batches": (SMALL_BUDGET, {}),
    "checkpointing": (SMALL_BUDGET, {"gradient_checkpointing": True}),
    "frozen_vision": (SMALL_BUDGET, {"train_vision": False}),
    "deeper_than_what_is_run_dry": (SMALL_BUDGET, {"text_layers": 9, "vision_layers": 6}),
}
QUICK = "micro_batches"


@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=() if case == QUICK else pytest.mark.slow) for case in CASES]
)
def test_planned_memory_is_what_a_run_holds(case: str):
    """A part that is forgotten, or counted twice: the plan is within 15 % of the peak of a real run."""
    budget, settings = CASES[case]
    module, data, planned = run_and_plan(budget, **settings)
    weights = sum(parameter.nbytes for parameter in module.policy.parameters())
    with PeakBytes() as memory:
        miniature.fit(module, data)
    assert planned.footprint.peak == pytest.approx(memory.peak + 2 * weights, rel=0.15)


def test_two_shallow_dry_runs_tell_of_all_layers():
    """A plan that is quick and wrong: of six and five layers it is within 1 % of a dry run of all of them."""
    _, _, planned = run_and_plan(SMALL_BUDGET, text_layers=6, vision_layers=5)
    every = planned.dry_run(planned.sizes).phases
    assert planned.footprint.phases == pytest.approx(every, rel=0.01)


def test_a_validation_is_planned():
    """A run that ends at its first validation, whose batch is larger than a step's: within 15 % of a real one."""
    module, data, planned = run_and_plan(LARGE_BUDGET)
    samples = 2 * miniature.first_batch(data)
    prompts = [sample.prompt for sample in samples]
    validation = replace(planned.sizes, prompts=prompts, group=1, shares_prompts=False)
    with PeakBytes() as memory:
        module.roll_out(samples, module.validation_sampling, 1, step=-1)
    parts = replace(planned, validation=validation).footprint
    assert parts.phases["validation"] - (parts.static - parts.gradients) == pytest.approx(memory.peak, rel=0.15)


@pytest.mark.slow
def test_planned_time_is_what_a_run_takes():
    """Work that is not counted: within 30 % of a real run, rates from four layers; the median of three."""
    ratios = [compare(SMALL_BUDGET) for _ in range(3)]
    assert all(memory == pytest.approx(1, abs=0.15) for memory, _ in ratios)
    assert median(seconds for _, seconds in ratios) == pytest.approx(1, abs=0.3)


@pytest.mark.slow
def test_a_plan_holds_for_a_hundred_million_parameters():
    """What small models hide: depth that rates of four layers do not tell of, weights that no cache holds.

    One prompt a step; memory and time of one run. Its rates are measured under the same counter as its steps.
    """
    module, data, planned = run_and_plan(SMALL_BUDGET, prompts=1, **HUNDRED_MILLION)
    assert 1e8 < sum(planned.parameters) < 3e8
    weights, seconds = sum(parameter.nbytes for parameter in module.policy.parameters()), timed(module)
    with PeakBytes() as memory:
        miniature.fit(module, data)
    with PeakBytes():
        expected = planned_seconds(planned)
    ratios = planned.footprint.peak / (memory.peak + 2 * weights), expected / seconds[-1]
    assert ratios[0] == pytest.approx(1, abs=0.15) and ratios[1] == pytest.approx(1, abs=0.3)


@pytest.mark.slow
@pytest.mark.parametrize("checkpointing", [True, False])
def test_a_budget_that_is_planned_to_fit_fits(checkpointing: bool):
    """The advice of a refused run is refused again; none, where a smaller budget ends the sharing of prompts."""
    _, _, planned = run_and_plan(LARGE_BUDGET, gradient_checkpointing=checkpointing)
    assert planned.sizes.shares_prompts != checkpointing
    least = planned.within(200, 1000).peak
    room = (least + planned.footprint.peak) / 2
    assert planned.footprint.peak > room
    budgets = largest_budgets(planned, room)
    assert budgets is not None and budgets[0] < planned.sizes.token_budget
    assert planned.within(*budgets).peak <= room
    assert largest_budgets(planned, planned.footprint.static / 2) is None


def test_a_frozen_tower_runs_in_the_update_of_sft():
    """A quarter of the seconds of a supervised step, whose pictures no rollout has seen."""
    _, _, planned = run_and_plan(SMALL_BUDGET)
    outline, sizes = planned.outline, replace(planned.sizes, shares_prompts=False)
    for trains in (False, True):
        outline.train_vision = trains
        works = [step_work(outline, replace(sizes, rolls_out=rolls), 0, 1, 0) for rolls in (False, True)]
        patches = [int(grid.prod()) for prompt in sizes.prompts for grid in prompt.image_grid_thw]
        seen = 0 if trains else image_flops(outline.family.vision_tower(outline.model), patches)
        assert works[0].update - works[1].update == pytest.approx(seen)


def test_budgets_that_are_said_to_fit_do_and_are_not_below_the_given(monkeypatch: pytest.MonkeyPatch):
    """Advice to lower a budget that fits, or of one that a straight line allows and the next stair does not.

    Bytes are given here: 100 and one per token, 2000 more above 4000; rollouts take the same with any budget.
    """
    _, _, planned = run_and_plan(SMALL_BUDGET)
    planned = replace(planned, sizes=replace(planned.sizes, decoding=RolloutDecoding(LARGE_BUDGET)))
    assert planned.sizes.cached_tokens < LARGE_BUDGET
    asked = []

    def within(self: Planned, token_budget: int, decode_budget: int) -> Footprint:
        asked.append(token_budget)
        return Footprint(0, 0, 0, 0, cache=7, completions=100 + token_budget + 2000 * (token_budget > 4000))

    monkeypatch.setattr(Planned, "within", within)
    vars(planned)["footprint"] = within(planned, SMALL_BUDGET, LARGE_BUDGET)
    assert largest_budgets(planned, planned.footprint.peak) == (SMALL_BUDGET, LARGE_BUDGET)
    assert largest_budgets(planned, 2500) == (2048, LARGE_BUDGET)
    asked.clear()
    assert largest_budgets(planned, 6000) is None
    assert len(asked) == 2 and 4000 < asked[1] <= 5900


class Greedy(torch.optim.SGD):
    """Its step takes twenty times the weights."""

    def step(self, closure: Any = None) -> None:
        held = [torch.empty_like(one) for _ in range(20) for group in self.param_groups for one in group["params"]]
        super().step(closure)
        del held


@pytest.mark.slow
def test_no_budget_is_advised_where_the_optimiser_alone_does_not_fit():
    """The advice of a refused run is empty, or refused again: smaller budgets change nothing about the optimiser."""
    _, _, planned = run_and_plan(LARGE_BUDGET)
    planned = replace(planned, optimizer=partial(Greedy, lr=1e-4))
    phases = planned.footprint.phases
    assert phases["optimizer"] > phases["update"]
    assert _budgets(planned, (phases["optimizer"] + phases["update"]) / 2) is None
    assert _budgets(planned, phases["optimizer"]) is not None


@pytest.mark.parametrize("trains", [True, False])
def test_only_a_frozen_towers_features_outlast_the_rollout(trains: bool):
    """An update that is planned beside features which `GRPOModule.rolled` has freed: a training tower makes its own."""
    _, _, planned = run_and_plan(SMALL_BUDGET, train_vision=trains)
    parts = planned.footprint
    lasting = parts.static - parts.gradients
    kept = 0 if trains else parts.features
    rolling = parts.rollout_weights + parts.cache + max(parts.decode_pass, parts.prefill)
    assert parts.features > 0 and not parts.shared_prefix
    assert parts.phases["rollout"] == lasting + parts.features + rolling
    assert parts.phases["reference"] == lasting + kept + parts.scoring
    assert parts.phases["update"] == parts.static + kept + parts.micro_batch


def test_passes_do_not_make_mini_batches_smaller():
    """A run of four passes over its batch that is planned with a quarter of the batch at a time."""
    _, _, planned = run_and_plan(LARGE_BUDGET)
    sizes = replace(planned.sizes, shares_prompts=False)
    once, passes, parts = (
        replace(planned, sizes=replace(sizes, updates=updates, epochs=epochs)).footprint.micro_batch
        for updates, epochs in ((1, 1), (4, 4), (4, 1))
    )
    assert passes == once > parts


def test_a_plan_without_a_reference_has_no_phase_of_it():
    """Rows of a reference that the run has not: only off-policy are completions scored without one."""
    _, _, planned = run_and_plan(SMALL_BUDGET, text_layers=1, vision_layers=1)
    planned = replace(planned, needs_reference=False)
    for updates, scored in ((1, False), (2, True)):
        one = replace(planned, sizes=replace(planned.sizes, updates=updates))
        seconds = stated_pace(1, 1, 1, 1, False).seconds(one.work)
        assert ("reference" in one.footprint.phases) == scored == ("reference" in seconds)


def test_what_is_shared_is_held_once():
    """Eight devices that are planned to hold eighths of what each must hold whole."""
    whole = Footprint(weights=800, gradients=800, optimizer=1600, reference=800, cache=100, head=10)
    part = whole.sharded(8, rollout=400, scoring=500, update=60)
    assert part.static == whole.static / 8
    assert (part.cache, part.head) == (whole.cache, whole.head)
    assert part.phases["rollout"] == 400 + 400 + 100  # weights, optimiser and reference; the copy; keys and values
    assert part.phases["update"] == 500 + 60 + 10
    part = replace(whole, scoring=7, offloaded_reference=True).sharded(8, rollout=400, scoring=0, update=60)
    assert part.phases["reference"] == 300 + 7 + 800  # each device takes the reference whole, in its turn


def test_token_passes():
    """Where all rows fit, as many as the longest has tokens; where they wait, the rows' tokens and a tail."""
    _, _, planned = run_and_plan(LARGE_BUDGET)
    sizes = replace(planned.sizes, sampling=replace(planned.sizes.sampling, max_new_tokens=100), tokens=100)
    assert token_passes(sizes) == 100
    alone = replace(sizes, decoding=replace(sizes.decoding, budget=sizes.tokens_per_prompt))
    assert alone.rows == GROUP and token_passes(alone) == 100 * len(sizes.prompts)
