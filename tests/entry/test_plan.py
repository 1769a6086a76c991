"""``python -m locus.plan``: what a run takes, before any weight is loaded, and what to change where it does not fit."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
import torch

from tests.support.interrupted import cut
from tests.support.runs import SMALLEST, command, refused, resume, succeeded, train

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
        "with completions of 20 tokens, GB",
        "keys and values",
        "largest budgets that fit",
        "seconds per step",
        "hours",
    ):
        assert words in text
    assert (
        record["fits"] and record["hours"] > 0 and set(record["seconds_per_step"]) == {"rollout", "reference", "update"}
    )


def test_a_run_ends_with_its_seconds(planned, tmp_path):
    """Hours of steps, and of their validations, that ``trainer.max_seconds`` never comes to."""
    _, record, _ = planned
    step = sum(record["seconds_per_step"].values())
    validations = record["hours"] * 3600 - 3 * step  # before step 1, after 2 and after 3
    ended = command("plan", *SMALLEST, *STATED, f"trainer.max_seconds={1.5 * step}", f"hydra.run.dir={tmp_path}")
    hours = json.loads((tmp_path / "plan.json").read_text())["hours"]
    assert "\n2 steps: " in ended.stdout and hours * 3600 == pytest.approx(2 * step + validations * 2 / 3)


def test_what_refills_may_cost_is_said(planned, tmp_path):
    """A plan of DAPO that is half of what the run takes, without a word."""
    ended = command("plan", *SMALLEST, *STATED, "algorithm.refill=2", f"hydra.run.dir={tmp_path}")
    assert "algorithm.refill" not in planned[0] and "not counted: up to 2 times the rollout more" in ended.stdout


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["rollout.decode_budget={}"], "rollout.decode_budget"),
        (["trainer.prompts_per_step=25"], "24 training examples"),
        (["task=questions_training"], "task=mixture"),
    ],
)
def test_what_the_first_step_would_refuse(planned, tmp_path, overrides, says):
    """A plan that fits, of a run that ends after its first validation, or before it."""
    _, record, _ = planned
    budget = max(record["tokens_per_prompt"]) + 8  # enough for one completion, as a validation writes them
    overrides = [text.format(budget) for text in overrides] + ["rollout.sampling.max_new_tokens=8"]
    refused(command("plan", *SMALLEST, *STATED, *overrides), says)
    refused(command("train", *SMALLEST, f"hydra.run.dir={tmp_path}", *overrides), says)
    assert not (tmp_path / "metrics.csv").exists()


def test_tokens_and_parameters_are_the_runs(planned, tmp_path: Path):
    """A plan of other prompts or weights than the run with the same overrides has, or that its record does not keep."""
    _, record, folder = planned
    folder = Path(shutil.copytree(folder, tmp_path / "plan"))
    train(tmp_path / "run", f"planned={folder}")
    run = json.loads((tmp_path / "run" / "run.json").read_text())
    assert run["plan"]["peak_gb"] == max(record["peak_gb"].values())
    assert run["plan"]["seconds_per_step"] == record["seconds_per_step"]
    assert run["outcome"]["seconds_per_step"].keys() == record["seconds_per_step"].keys()
    steps = pd.read_csv(tmp_path / "run" / "metrics.csv")["time/update_s"].count()
    assert run["outcome"]["seconds_per_step"]["update"] == pytest.approx(run["seconds_per_phase"]["update"] / steps)
    peak = run["outcome"]["peak_gb"]
    assert peak is None or 0 < peak < run["peak_memory_gb"]  # None: an earlier test of this process has held more
    cut(tmp_path / "run", 2)
    shutil.rmtree(folder)
    resume(tmp_path / "run")  # the run has its plan
    assert json.loads((tmp_path / "run" / "run.json").read_text())["plan"] == run["plan"]
    from safetensors.torch import load_file

    weights = load_file(tmp_path / "run" / "policy" / "model.safetensors")
    assert sum(weights[name].numel() for name in weights) == sum(record["parameters"].values())
    assert len(record["tokens_per_prompt"]) == 2 and min(record["tokens_per_prompt"]) > 2 * 36  # two 48x48 images


@pytest.mark.parametrize("stated", [[], ["plan.completion_tokens=8"]])
def test_the_length_of_targets_is_asked_for(tmp_path: Path, stated: list[str]):
    """A plan of supervised steps that says less than short targets take, and does not say of which it is."""
    ended = command("plan", *SMALLEST, *STATED, "algorithm=sft", f"hydra.run.dir={tmp_path}", *stated)
    assert succeeded(ended) and ("plan.completion_tokens" in ended.stdout) is not bool(stated)


def test_a_plan_of_another_run_is_refused(planned, tmp_path: Path):
    """A record that sets a run beside the plan of another."""
    for other, says in ((tmp_path, "no plan.json"), (planned[2], "the plan is of")):
        ended = command("train", *SMALLEST, "weights=lora", f"planned={other}", f"hydra.run.dir={tmp_path / says[:4]}")
        refused(ended, f"planned={other}", says)


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


@pytest.mark.skipif(torch.cuda.is_available(), reason="all GPUs are counted")
def test_devices_that_cannot_be_counted_are_asked_for(tmp_path: Path):
    """trainer=ddp is all GPUs of a node: planned on a laptop, it would be one; fsdp2, whose parts they are, as much."""
    asked = (*SMALLEST, *STATED, f"hydra.run.dir={tmp_path}", "trainer=ddp")
    assert "plan.devices" in refused(command("plan", *asked))
    weights, seconds = {}, {}
    for trainer in ("ddp", "fsdp2"):
        folder = tmp_path / trainer
        wide = (f"trainer={trainer}", "plan.devices=2", "backbone.architecture.text_mlp=65536")  # megabytes are shown
        assert command("plan", *SMALLEST, *STATED, *wide, f"hydra.run.dir={folder}").status == 0
        record = json.loads((folder / "plan.json").read_text())
        weights[trainer], seconds[trainer] = record["memory_gb"]["weights"], record["seconds_per_step"]["update"]
    assert weights["fsdp2"] == pytest.approx(weights["ddp"] / 2, abs=0.001) and weights["fsdp2"] > 0.02
    assert seconds["fsdp2"] > 1.1 * seconds["ddp"]  # whose rollout has encoded the update's prompts


def test_weights_that_a_run_refuses_are_refused(tmp_path: Path):
    """A plan of a run in half the memory, which ends at its start: bfloat16 weights do not train."""
    ended = command("plan", *SMALLEST, *STATED, "+backbone.dtype=bfloat16", f"hydra.run.dir={tmp_path}")
    refused(ended, "weights that train are bfloat16")


def validations(folder: Path, *overrides: str) -> float:
    """Planned seconds of all validations, on a device whose memory and launches take no time."""
    ended = command("plan", *SMALLEST, *STATED, "plan.bandwidth_gb=1e9", "plan.launch_us=1e-9", *overrides,
                    f"hydra.run.dir={folder}")  # fmt: skip
    assert ended.status == 0, ended.stderr
    record = json.loads((folder / "plan.json").read_text())
    return record["hours"] * 3600 - 3 * sum(record["seconds_per_step"].values())


@pytest.mark.slow
def test_validations_are_planned(tmp_path: Path):
    """Each device that is planned to validate all examples, validations that are left out.

    Of three steps: before the first, after the second, after the last.
    """
    alone = validations(tmp_path / "alone")
    assert alone > 0
    assert validations(tmp_path / "two", "plan.devices=2") == pytest.approx(alone / 2)
    assert validations(tmp_path / "often", "trainer.validate_every=1") == pytest.approx(alone * 4 / 3)
    assert validations(tmp_path / "sft", "algorithm=sft") == pytest.approx(alone, rel=0.01)
