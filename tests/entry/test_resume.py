"""A run of 2k steps is a run of k steps, resumed for k more, bit for bit; and what may not change in between."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any
from unittest import mock

import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from omegaconf import OmegaConf

from locus.analysis.runs import choices
from locus.files.run_files import BEGUN_WITH
from locus.training.grpo import GRPOModule
from locus.training.module import PolicyModule
from tests.support.interrupted import STEPS, Killed, cut, settings
from tests.support.runs import (
    SMALLEST,
    command,
    differences,
    metrics,
    refused,
    resume,
    same_weights,
    succeeded,
    train,
    warm_run,
)


# --- The k-th step --------------------------------------------------------------------------------------------
def test_the_unbroken_run_moves(unbroken):
    """Equality of runs in which nothing happens shows nothing."""
    rollouts = pd.read_parquet(unbroken / "rollouts.parquet")
    assert (rollouts.groupby(["step", "prompt_id"])["reward"].nunique() > 1).sum() >= STEPS
    assert not same_weights(unbroken, warm_run())
    trained = metrics(unbroken)["train/grad_norm"].dropna()
    assert len(trained) == STEPS and (trained > 0).all()
    states = [torch.load(path, weights_only=True)["state_dict"] for path in sorted(unbroken.glob("checkpoints/*"))]
    for earlier, later in zip(states, states[1:], strict=False):
        assert sum(not torch.equal(earlier[name], later[name]) for name in later) > 0.9 * len(later)


@pytest.mark.parametrize("step", [pytest.param(1, marks=pytest.mark.slow), 2, 3])
def test_k_steps_and_the_rest_are_the_whole(folder, unbroken, step):
    """Optimiser, scheduler, order of prompts or random numbers that begin anew; rows lost or written twice.

    The step is validated (2) or not (1, 3).
    """
    cut(folder, step)
    assert "black pictures" not in resume(folder).stdout  # they are for what stands before step 1
    assert list(differences(folder, unbroken)) == []
    assert json.loads((folder / "run.json").read_text())["resumed_from_step"] == step
    assert json.loads((folder / "summary.json").read_text()) == json.loads((unbroken / "summary.json").read_text())
    assert (folder / "config.yaml").read_text() == (unbroken / "config.yaml").read_text()
    begun = (folder / BEGUN_WITH).read_text()
    assert begun == (unbroken / BEGUN_WITH).read_text() and "seed: ${seed}" in begun, "it follows later overrides"


@pytest.mark.parametrize("steps", [STEPS, pytest.param(3, marks=pytest.mark.slow)])
def test_resuming_after_the_last_step_repeats_nothing(tmp_path, folder, unbroken, steps):
    """Killed while the policy is exported: its last validation, in or after the last step, written twice."""
    if steps != STEPS:
        train(folder := tmp_path / "three", *settings(steps))
        unbroken = Path(shutil.copytree(folder, tmp_path / "whole"))
    cut(folder, steps)
    resume(folder)
    assert list(differences(folder, unbroken)) == []


def test_a_finished_run_goes_on_beyond_its_end(tmp_path, unbroken):
    """More steps than were planned: the same ones as in a run that was planned for them; also when resumed again.

    The unbroken run was asked with black pictures before it, this one was not: they leave no trace.
    """
    train(tmp_path, *settings(2), "preflight_blind=0")
    ended = resume(tmp_path, f"trainer.steps={STEPS}")
    assert list(differences(tmp_path, unbroken)) == [] and "departs" in ended.stdout
    assert yaml.safe_load((tmp_path / "config.yaml").read_text())["trainer"]["steps"] == STEPS
    cut(tmp_path, 3)
    resume(tmp_path)  # the longer run is now the run
    assert list(differences(tmp_path, unbroken)) == []


def test_a_run_ends_when_its_seconds_are_over(tmp_path, unbroken):
    """A limit that is not noticed, that changes what comes before it, or that costs the run its end."""
    train(tmp_path, *settings(), "trainer.max_seconds=1e-6")
    assert trained(tmp_path)["steps"] == 1 and (tmp_path / "policy" / "config.json").is_file()
    ours, whole = metrics(tmp_path), metrics(unbroken)
    in_time = ours[ours["train/loss"].notna()]
    pd.testing.assert_frame_equal(in_time, whole[whole["train/loss"].notna()].head(1), check_like=True)
    assert ours.loc[ours["val/mean_iou"].notna(), "step"].tolist() == [0, 1]


@pytest.mark.slow
def test_seconds_are_counted_over_resumes(tmp_path, unbroken):
    """A clock that begins anew with each resume, or a run that is out of time and takes one more step."""
    train(tmp_path, *settings(), "trainer.max_seconds=1e-6")
    first, ours = trained(tmp_path), metrics(tmp_path)
    resume(tmp_path)
    assert trained(tmp_path) == first and metrics(tmp_path).equals(ours)
    resume(tmp_path, f"trainer.max_seconds={first['seconds'] + 1e-6}")
    assert trained(tmp_path)["steps"] == 2
    resume(tmp_path, "trainer.max_seconds=null")
    assert trained(tmp_path)["steps"] == STEPS and same_weights(tmp_path, unbroken)


def trained(folder: Path) -> dict[str, float]:
    """Steps and seconds that ``run.json`` has."""
    return json.loads((folder / "run.json").read_text())["trained"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "method",
    [
        ["algorithm=easyr1", "trainer.prompts_per_step=4", "algorithm.group_size=4"],
        ["algorithm=dapo", "algorithm.mini_batches=2", "algorithm.group_size=2"],  # refills draw prompts, too
        ["algorithm=sft"],
        ["trainer.workers=1", "data.train_examples=5"],  # an epoch ends in the middle
        ["backbone.train_vision=false", "rollout.token_budget=700"],
    ],
    ids=["easyr1", "dapo", "sft", "workers", "frozen tower"],
)
def test_every_kind_of_run_resumes(tmp_path, method):
    """State that only some methods have, kept outside the checkpoint."""
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    train(whole, *settings(), *method)
    shutil.copytree(whole, broken)
    cut(broken, 1)
    resume(broken)
    assert list(differences(broken, whole)) == []


# --- Interrupted ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("name", "call", "done"),
    [("validation_step", 1, 0), ("update", 3, 2), pytest.param("validation_step", 2, 1, marks=pytest.mark.slow)],
    ids=["before step 1", "in step 3", "in the validation of step 2"],
)
def test_interrupted_it_says_how_to_go_on_and_does(tmp_path, unbroken, name, call, done):
    """Ctrl-C: a traceback, a success for the shell, tables left open, or advice that does not work."""
    folder, calls, original = tmp_path / "run", iter(range(1, 100)), getattr(GRPOModule, name)

    def interrupted(*args: Any, **kwargs: Any) -> Any:
        if next(calls) == call:
            raise KeyboardInterrupt
        return original(*args, **kwargs)

    with mock.patch.object(GRPOModule, name, interrupted):
        ended = command("train", *SMALLEST, f"hydra.run.dir={folder}", *settings())
    assert ended.status == 130 and "Traceback" not in ended.stderr
    assert ended.stderr.splitlines()[-1].startswith("locus: interrupted")
    assert json.loads((folder / "summary.json").read_text())["status"] == "interrupted"
    assert pq.read_table(folder / "rollouts.parquet").num_rows >= done * 8 and (folder / "rollouts.parquet").is_file()
    assert (folder / "validation.parquet").is_file()
    assert (f"resume={folder}" in ended.stderr) == (done > 0), "there must be a checkpoint to go on from"
    if done:
        resume(folder)
        assert list(differences(folder, unbroken)) == []


# --- What may not change --------------------------------------------------------------------------------------
@pytest.mark.parametrize("change", ["algorithm=easyr1", "experiment=easy", "seed=2"])
def test_another_run_is_refused(folder, change):
    """A group or seed that is swapped halfway, or left out without a word."""
    cut(folder, 3)
    refused(command("train", f"resume={folder}", change), f"resume={folder}", change, "only dotted keys")
    assert not (folder / "policy").exists()


@pytest.mark.parametrize(
    "change",
    [
        f"++trainer.steps={STEPS + 1}",
        pytest.param("~trainer.workers", marks=pytest.mark.slow),
        pytest.param("+trainer.new=1", marks=pytest.mark.slow),
    ],
)
def test_an_override_is_obeyed_or_refused(folder, change):
    """A prefix of Hydra's that is taken for a part of the key: the override does nothing, and nobody is told."""
    cut(folder, 3)
    ended = command("train", f"resume={folder}", change)
    if ended.status == 0:
        assert yaml.safe_load((folder / "config.yaml").read_text())["trainer"]["steps"] == STEPS + 1
    else:
        refused(ended, change)


def test_the_optimisers_numbers_are_those_of_the_resume(folder):
    """Lightning restores rate and decay with the moments: the new ones would be recorded and have no effect. Values are
    read as Hydra does: as YAML the first is a key ``lr:1e-5``."""
    cut(folder, 2)
    resume(folder, "optimizer.make={lr:1e-5,weight_decay:0.5}", "optimizer.warmup_ratio=1")
    rates = metrics(folder)["train/lr"].dropna().tolist()
    assert rates == pytest.approx([2e-3, 2e-3, 1e-5 * 3 / STEPS, 1e-5])
    (saved,) = torch.load(folder / "checkpoints" / f"step-{STEPS:06d}.ckpt", weights_only=True)["optimizer_states"]
    assert [(group["initial_lr"], group["weight_decay"]) for group in saved["param_groups"]] == [(1e-5, 0.5)]
    assert all(state["step"] == STEPS for state in saved["state"].values()), "the moments go on"


def test_a_group_that_the_run_has_may_be_named_again(folder):
    """The only way to reach a key of a group that is not the default one, such as a data folder that has moved."""
    succeeded(resume(folder, "algorithm=grpo", f"trainer.steps={STEPS}"))


def test_a_key_that_the_run_has_not_is_refused(folder, unbroken):
    """Taken into its configuration, it would end this resume and every later one."""
    cut(folder, 3)
    refused(
        command("train", f"resume={folder}", "logger.wandb.project=mine"), "the run has no logger.wandb.project=mine"
    )
    resume(folder)
    assert list(differences(folder, unbroken)) == []


def test_a_validation_that_was_cut_off_is_not_there_twice(tmp_path):
    """Interrupted before step 1, and begun anew in its folder: hours later the page of doubled rows is a traceback."""
    call, validated = (
        [*SMALLEST, "trainer.validation_batch=1", f"hydra.run.dir={tmp_path}"],
        PolicyModule.validation_step,
    )

    def interrupted(self: PolicyModule, batch: Any, batch_idx: int) -> Any:
        if batch_idx == 1:
            raise KeyboardInterrupt
        return validated(self, batch, batch_idx)

    with mock.patch.object(PolicyModule, "validation_step", interrupted):
        assert command("train", *call).status == 130
    succeeded(command("train", *call))
    rows = pd.read_parquet(tmp_path / "validation.parquet")
    assert not rows.duplicated(["step", "example_id"]).any() and 0 in set(rows["step"])


def test_fewer_steps_than_the_run_has_taken(folder, unbroken):
    """Nothing to train and nothing to validate: the page, which compares two validations, was a traceback."""
    cut(folder, 3)
    for steps in (2, 3):
        refused(command("train", f"resume={folder}", f"trainer.steps={steps}"), f"trainer.steps={steps}", "at step 3")
    resume(folder, f"trainer.steps={STEPS}")
    assert list(differences(folder, unbroken)) == []


def test_a_mistyped_folder_is_not_made(tmp_path):
    """Hydra makes its output folder before anything can be checked: the typo would look like a run from then on."""
    refused(command("train", f"resume={tmp_path / 'nowhere'}"), "no folder of a run")
    assert not (tmp_path / "nowhere").exists()


def test_a_new_run_does_not_write_into_an_old_ones_folder(folder, unbroken):
    """Doubled validation rows, a resume from the old run's checkpoint under the new configuration, or an algorithm in
    tables of runs that it does not have: Hydra has written its own record by then."""
    cut(folder, 3)
    other = *SMALLEST, "algorithm=easyr1", f"hydra.run.dir={folder}"
    refused(command("train", *other), "already holds a run", "resume=")
    assert not (folder / "summary.json").exists(), "the old run, which was killed, has not failed"
    assert choices(folder)["algorithm"] == "grpo"
    resume(folder, "algorithm=grpo")
    assert list(differences(folder, unbroken)) == []


def test_the_configuration_survives_a_kill(folder, unbroken):
    """Killed while the resumed run keeps its overrides: a configuration that is empty, and a run that is lost."""
    cut(folder, 3)
    write = Path.write_text

    def half(path: Path, text: str, *_: Any, **__: Any) -> None:
        write(path, text[: len(text) // 2])
        if "resume.yaml" in path.name:
            raise Killed

    def saved(config: Any, path: Any) -> None:
        half(Path(path), OmegaConf.to_yaml(config))

    with (
        mock.patch.object(Path, "write_text", half),
        mock.patch.object(OmegaConf, "save", saved),
        pytest.raises(Killed),
    ):
        command("train", f"resume={folder}", "trainer.keep_checkpoints=99")
    resume(folder, "trainer.keep_checkpoints=100")
    assert list(differences(folder, unbroken)) == []
