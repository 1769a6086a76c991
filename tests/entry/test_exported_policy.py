"""A run's ``policy/`` in others' hands: plain from_pretrained, and the same greedy answers as in the run."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForImageTextToText

from tests.support.plain import GREEDY, check_greedy_answers
from tests.support.released import RELEASED
from tests.support.runs import SMALLEST, command, succeeded

pytestmark = pytest.mark.slow
WEIGHTS = {"full": ("optimizer.make.lr=2e-2",), "lora": ("weights=lora", "weights.rank=4", "optimizer.make.lr=2e-2")}


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("name", ["qwen2_5_vl_3b", "qwen3_5_4b"])
def test_policy_answers_as_in_the_run(name: str, weights: str, tmp_path: Path):
    """Adapters left out or merged twice, weights of before the last update, other ends, or another processor."""
    released = RELEASED[name]
    released.processor().save_pretrained(tmp_path / "start")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        AutoModelForImageTextToText.from_config(released.shrunk()).save_pretrained(tmp_path / "start")
    shared = [one for one in SMALLEST if not one.startswith(("backbone", "pixels", "algorithm"))]
    native = ("pixels.min_pixels=null", "pixels.max_pixels=null", f"backbone.path={tmp_path / 'start'}")
    short = ("algorithm=sft", "trainer.steps=2", "rollout.sampling.max_new_tokens=32", GREEDY)
    folder = tmp_path / "run"
    run = (f"backbone={name}", *native, *short, *WEIGHTS[weights], f"hydra.run.dir={folder}")
    succeeded(command("train", *shared, *run))
    check_greedy_answers(folder)
