"""AdamW with moments of eight bits: its steps against torch's, its state, and what its checkpoints keep."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable
from functools import partial

import pytest
import torch

from locus.errors import LocusError
from locus.training.algorithm import Optimization
from locus.training.optimizers import adamw_8bit

SETTINGS = {"lr": 1e-6, "weight_decay": 0.01}


def stepped(make: Callable, steps: int) -> tuple[torch.nn.Parameter, torch.optim.Optimizer]:
    """Weights of the size that backbones have, after steps of the same noisy gradients."""
    weights, slope = torch.randn(2, 10_000, generator=torch.Generator().manual_seed(0))
    trained = torch.nn.Parameter(0.02 * weights)
    optimizer = make([trained])
    more(trained, optimizer, slope, 0, steps)
    return trained, optimizer


def more(trained: torch.nn.Parameter, optimizer: torch.optim.Optimizer, slope: torch.Tensor, first: int, last: int):
    for step in range(first, last):
        trained.grad = slope + torch.randn(len(slope), generator=torch.Generator().manual_seed(step))
        optimizer.step()


@pytest.fixture
def needed():
    """bitsandbytes."""
    pytest.importorskip("bitsandbytes")


def test_float32_weights_keep_their_updates(needed):
    """At the paper's rate every weight moves, and as torch's AdamW moves it; the moments take a byte each."""
    expected, _ = stepped(partial(torch.optim.AdamW, **SETTINGS), 30)
    found, optimizer = stepped(partial(adamw_8bit, **SETTINGS), 30)
    start = 0.02 * torch.randn(2, 10_000, generator=torch.Generator().manual_seed(0))[0]
    assert found.dtype == torch.float32 and (found != start).all()
    assert (found - expected).norm() < 0.05 * (expected - start).norm()
    sizes = [one.nbytes for one in optimizer.state[found].values() if isinstance(one, torch.Tensor)]
    assert sum(sizes) < 2.5 * 10_000  # torch's take 8 bytes a weight


def test_a_resumed_optimiser_goes_on_as_if_nothing_had_been(needed):
    """Moments read back as other numbers."""
    slope = torch.randn(10_000, generator=torch.Generator().manual_seed(1))
    whole, optimizer = stepped(partial(adamw_8bit, **SETTINGS), 3)
    again = torch.nn.Parameter(whole.detach().clone())
    resumed = adamw_8bit([again], **SETTINGS)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for trained, own in ((whole, optimizer), (again, resumed)):
        more(trained, own, slope, 3, 6)
    assert torch.equal(whole, again)


def test_what_is_not_installed_is_said_before_anything_is_loaded(monkeypatch: pytest.MonkeyPatch):
    """A traceback, or a refusal behind the loading of a backbone and a first validation."""
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(LocusError, match=r"optimizer\.make: adamw_8bit needs bitsandbytes: pip install"):
        Optimization(partial(adamw_8bit, **SETTINGS))
    with pytest.raises(LocusError, match=r"optimizer\.make: .*learning rate"):
        Optimization(partial(torch.optim.AdamW, lr=-1.0))
