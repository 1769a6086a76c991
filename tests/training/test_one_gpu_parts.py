"""What makes a run fit one card: a reference that leaves the device, gradients that do, four bits, and their plan."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch

from locus.policy.dry_run import PeakBytes
from locus.policy.logprobs import PackedScorer
from locus.policy.lora import LoRA
from locus.policy.reference import OffloadedCopy
from locus.policy.vlm import VLM
from locus.training.footprint import Footprint, StepSizes, weight_bytes
from locus.training.grpo import GRPOModule
from locus.training.optimizers import adamw_8bit
from locus.training.plan import Planned
from tests.support import miniature
from tests.support.miniature import FAMILY, GROUP, SMALL_BUDGET, TOKENS
from tests.support.models import backbone


class Watched(OffloadedCopy):
    """Notes its turns."""

    def __init__(self, vlm: VLM, notes: list[str]):
        super().__init__(vlm)
        self.notes = notes

    def on(self, device: torch.device) -> AbstractContextManager[VLM]:
        self.notes.append("on")
        return super().on(device)

    def rest(self) -> None:
        self.notes.append("rest")
        super().rest()


def test_an_offloaded_reference_is_away_from_rollouts_and_updates():
    """Memory of the reference beside that of a rollout or an update; a run that it changes."""
    notes: list[str] = []
    whole, data = miniature.grpo(steps=2, budget=SMALL_BUDGET)
    expected = miniature.fit(whole, data)
    module, data = miniature.grpo(steps=2, budget=SMALL_BUDGET)
    module.reference = Watched(miniature.frozen_copy(module), notes)
    for name in ("roll_out", "update"):
        own = getattr(module, name)

        def noted(*arguments: Any, own: Any = own, name: str = name, **keywords: Any) -> Any:
            notes.append(name)
            assert all(one.grad is None for one in module.policy.parameters())  # nor those of the update before
            return own(*arguments, **keywords)

        setattr(module, name, noted)
    run = miniature.fit(module, data)
    turn = [note for note in notes if note != "on"]
    assert turn == ["roll_out", "rest", "update"] * 2 + ["rest"] and notes.count("on") >= 2
    assert all(set(notes[i - 1 : i + 1]) <= {"roll_out", "on"} for i, note in enumerate(notes) if note == "on")
    assert miniature.unchanged(module.policy, whole.policy.state_dict())
    assert [row["train/kl"] for row in run.rows] == [row["train/kl"] for row in expected.rows]


def test_a_reference_that_is_offloaded_is_planned_in_its_turn_alone():
    """A plan that refuses what fits: by hand, a part a bit."""
    parts = Footprint(1, 2, 4, 8, cache=16, scoring=32, completions=64, offloaded_reference=True)
    assert parts.phases == {
        "rollout": 1 + 4 + 16,
        "reference": 1 + 4 + 8 + 32,
        "update": 1 + 2 + 4 + 64,
        "optimizer": 7,
    }
    stays = replace(parts, offloaded_reference=False)
    assert {name: size - parts.phases[name] for name, size in stays.phases.items()} == {
        "rollout": 8, "reference": 0, "update": 8, "optimizer": 8,
    }  # fmt: skip


def planned(module: GRPOModule, data: Any, weights: Any) -> Planned:
    """The plan of a run in miniature."""
    prompts = [sample.prompt for sample in miniature.first_batch(data)]
    sizes = StepSizes(prompts, GROUP, module.sampling, TOKENS, SMALL_BUDGET, module.decoding)
    return Planned(backbone(FAMILY), weights, PackedScorer(), module.make_optimizer, sizes, True)


@pytest.mark.slow
def test_four_bits_are_planned_as_they_are_held():
    """Codes counted as numbers, scales forgotten, or a copy of all weights for the rollout."""
    pytest.importorskip("bitsandbytes")
    weights = LoRA(4, quantization="nf4")
    module, data = miniature.grpo(steps=2, budget=SMALL_BUDGET, weights=weights)
    module.make_optimizer = partial(torch.optim.AdamW, lr=1e-4)
    plan = planned(module, data, weights)
    plain = backbone(FAMILY).load()
    adapters = sum(one.numel() for one in module.policy.parameters() if one.requires_grad)
    assert plan.parameters == (adapters, sum(one.numel() for one in plain.parameters()))
    held = weight_bytes(module.policy)
    assert plan.footprint.weights == held < weight_bytes(plain)
    with PeakBytes() as memory:
        miniature.fit(module, data)
    assert plan.footprint.peak == pytest.approx(memory.peak + held, rel=0.15)


@pytest.mark.slow
def test_eight_bit_moments_are_planned_as_they_are_held():
    """State of eight bytes a weight that is not there."""
    pytest.importorskip("bitsandbytes")
    module, data = miniature.grpo(steps=1, budget=SMALL_BUDGET)
    module.make_optimizer = partial(adamw_8bit, lr=1e-4)
    state = planned(module, data, None).footprint.optimizer
    run = miniature.fit(module, data)
    tensors = {id(one): one for own in run.optimizer.state.values() for one in own.values() if torch.is_tensor(one)}
    assert state == pytest.approx(sum(one.nbytes for one in tensors.values()), rel=0.02)
    assert state < 0.5 * 8 * sum(one.numel() for one in module.policy.parameters())
