"""What a run keeps of its plan."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pandas as pd
import pytest
import torch

from locus.errors import LocusError
from locus.files.progress import Phases
from locus.policy.lora import LoRA
from locus.run.outcome import costs, held_before, read_plan
from locus.training.plan import Planned
from tests.support.miniature import FAMILY
from tests.support.models import backbone


def test_a_plan_of_weights_in_four_bits_is_the_runs(tmp_path: Path):
    """A run that is refused its own plan: two weights lie in each byte, and both count them; in halves, one does."""
    pytest.importorskip("bitsandbytes")
    own, weights = backbone(FAMILY), LoRA(4, quantization="nf4")
    planned = Planned(own, weights, None, partial(torch.optim.AdamW), None, True)  # type: ignore[arg-type]
    trained, frozen = planned.parameters
    policy = own.load()
    weights(policy)
    record = {"peak_gb": {"update": 1}, "seconds_per_step": None, "hours": None}
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(record | {"parameters": {"trained": trained, "frozen": frozen}}))
    assert read_plan(str(tmp_path), policy.parameters()) == {"peak_gb": 1, "seconds_per_step": None, "hours": None}
    whole = sum(one.numel() for one in own.load().parameters())
    assert frozen == whole
    path.write_text(json.dumps(record | {"parameters": {"trained": trained, "frozen": frozen // 2}}))
    with pytest.raises(LocusError, match="the plan is of"):
        read_plan(str(tmp_path), policy.parameters())


def test_the_outcome_is_of_the_run_alone():
    """A peak that an earlier run of the process has reached, given as this one's; a phase under its column's name."""
    metrics = pd.DataFrame({"time/update_s": [1.0, 3.0], "train/loss": [0.0, 0.0]})
    found = costs(metrics, on_gpu=False, before=0.0)
    assert found["outcome"] == {"seconds_per_step": {"update": 2.0}, "peak_gb": found["peak_memory_gb"]}
    assert costs(metrics, on_gpu=False, before=held_before(on_gpu=False) + 1000)["outcome"]["peak_gb"] is None


def test_a_run_on_the_cpu_of_a_machine_with_a_gpu(monkeypatch: pytest.MonkeyPatch):
    """The empty allocator of a GPU that the run does not use: a peak of nothing at each step."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 0)
    assert Phases(torch.device("cpu")).costs()["memory/peak_gb"] > 0.05 < held_before(on_gpu=False)


def test_each_run_of_a_process_has_a_peak_of_its_own_on_a_gpu(monkeypatch: pytest.MonkeyPatch):
    """The largest job of a sweep gives its peak to all that come after it."""
    peaks = [8e9]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: peaks[-1])
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda: 1e9)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda: peaks.append(3e9))
    assert costs(pd.DataFrame(), True, held_before(on_gpu=True))["outcome"]["peak_gb"] == 2
