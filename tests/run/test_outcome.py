"""What a run keeps of its plan."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pandas as pd
import pytest
import torch

from locus.errors import LocusError
from locus.policy.lora import LoRA
from locus.run.outcome import held_before, outcome, read_plan
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
    found = outcome(metrics, before=0.0)
    assert found["seconds_per_step"] == {"update": 2.0} and found["peak_gb"] > 0
    assert outcome(metrics, before=held_before() + 1000)["peak_gb"] is None
