"""Updates of the pretraining: rates as configured, and none that ruins the weights."""

from __future__ import annotations

import pytest
import torch

from locus.errors import LocusError
from locus.training.pretraining import PretrainModule
from tests.support.miniature import copies, unchanged
from tests.support.models import builder, tiny_vlm


def module_with(**rates: float) -> PretrainModule:
    """A module with its optimisers, outside of a trainer; ten lessons of warm-up."""
    numbers = {"warmup": 10, "decay": 10, "patch_lessons": 50, "steps": 100, "look_lessons": 10}
    weights = {"box_weight": 1.0, "patch_weight": 1.0, "look_weight": 1.0, "matching_heads": 1, "largest_number": 9}
    module = PretrainModule(tiny_vlm("qwen3_vl"), builder("qwen3_vl"), **(numbers | weights | rates))
    optimizers, schedules = module.configure_optimizers()
    module.optimizers, module.lr_schedulers = lambda: optimizers, lambda: schedules
    module.manual_backward = torch.Tensor.backward
    return module


def state(module: PretrainModule) -> list[dict]:
    """What a checkpoint keeps of optimisers and schedules."""
    return [one.state_dict() for one in (*module.optimizers(), *module.lr_schedulers())]


def loss_of(module: PretrainModule) -> torch.Tensor:
    return sum(parameter.square().sum() for parameter in module.parameters())


def test_a_resumed_pretraining_has_the_rates_that_it_is_given():
    """``resume=... module.lr=`` written into config.yaml, and without effect: a checkpoint has its own run's rates."""
    begun = module_with(lr=1e-3, muon_lr=1e-2, weight_decay=0.1)
    for _ in range(3):
        begun.apply_update(loss_of(begun))
    for rates in ({"lr": 1e-3, "muon_lr": 1e-2, "weight_decay": 0.1}, {"lr": 1e-4, "muon_lr": 2e-2, "weight_decay": 0}):
        resumed = module_with(**rates)
        parts = (*resumed.optimizers(), *resumed.lr_schedulers())
        for part, kept in zip(parts, state(begun), strict=True):
            part.load_state_dict(kept)
        resumed.on_train_start()
        for steps in (3, 4):  # of ten
            groups = [optimizer.param_groups[0] for optimizer in resumed.optimizers()]
            wanted = [rates["muon_lr"] * (steps + 1) / 10, rates["lr"] * (steps + 1) / 10]
            assert [group["lr"] for group in groups] == pytest.approx(wanted)
            assert [group["weight_decay"] for group in groups] == [rates["weight_decay"]] * 2
            resumed.apply_update(loss_of(resumed))


def test_no_warm_up_and_no_decay():
    """A division by zero: of the looking loss only once all lessons of patches are done."""
    module = module_with(lr=1e-3, muon_lr=1e-2, weight_decay=0.1, warmup=0, decay=0, look_lessons=0)
    assert module.rate(0) == module.rate(module.steps - 1) == 1
    for lessons, share in ((0, 1), (1, 0)):
        module.finished_steps = module.patch_lessons + lessons
        assert module.look_share == share


def test_a_gradient_that_is_not_finite_ends_the_pretraining():
    """Weights of NaN from then on, and hours until somebody looks at the curve."""
    module = module_with(lr=1e-3, muon_lr=1e-2, weight_decay=0.1)
    module.finished_steps, before = 7, copies(module)
    with pytest.raises(LocusError, match=r"gradient of lesson 7 is not finite: resume with a lower module\.lr and"):
        module.apply_update(loss_of(module) * float("nan"))
    assert unchanged(module, before)
