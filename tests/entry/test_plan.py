"""``python -m locus.plan``: what a run takes, before any weight is loaded, and what to change where it does not fit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.runs import SMALLEST, command, train

STATED = ("plan.tflops=1", "plan.memory_gb=8")


@pytest.fixture(scope="module")
def planned(tmp_path_factory) -> tuple[str, dict, Path]:
    """What it prints and writes for the smallest run."""
    folder = tmp_path_factory.mktemp("plan")
    ended = command("plan", *SMALLEST, *STATED, f"hydra.run.dir={folder}")
    assert ended.status == 0, ended.stderr
    return ended.stdout, json.loads((folder / "plan.json").read_text()), folder


def test_what_it_says(planned):
    """A plan without one of its figures: tokens, parameters, memory by part, budgets, seconds by phase, hours."""
    text, record, _ = planned
    for words in (
        "tokens per prompt",
        "trained",
        "keys and values",
        "largest budgets that fit",
        "seconds per step",
        "hours",
    ):
        assert words in text
    assert (
        record["fits"] and record["hours"] > 0 and set(record["seconds_per_step"]) == {"rollout", "reference", "update"}
    )


def test_tokens_and_parameters_are_the_runs(planned, tmp_path: Path):
    """A plan of other prompts or weights than the run with the same overrides has."""
    _, record, _ = planned
    train(tmp_path / "run")
    from safetensors.torch import load_file

    weights = load_file(tmp_path / "run" / "policy" / "model.safetensors")
    assert sum(weights[name].numel() for name in weights) == sum(record["parameters"].values())
    assert len(record["tokens_per_prompt"]) == 2 and min(record["tokens_per_prompt"]) > 2 * 36  # two 48x48 images


def test_a_run_that_cannot_fit_is_refused_with_the_change_that_would(tmp_path: Path):
    """Hours in a queue for a run that ends at its first step."""
    small = command("plan", *SMALLEST, "plan.tflops=1", "plan.memory_gb=0.0001", f"hydra.run.dir={tmp_path}")
    assert small.status == 2
    assert "may be used: " in small.stderr and "a larger card" in small.stderr


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("plan.memory_gb=0", "plan.memory_gb=0"),
        ("plan.devices=0", "plan.devices=0"),
        ("plan.headroom=2", "plan.headroom=2"),
    ],
)
def test_wrong_settings(tmp_path: Path, override: str, message: str):
    """A division by zero in place of the key."""
    ended = command("plan", *SMALLEST, *STATED, override, f"hydra.run.dir={tmp_path}")
    assert ended.status == 2 and message in ended.stderr
