"""A run of 2k steps is a run of k steps, resumed for k more, bit for bit; wherever and however it was interrupted."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from fsspec.implementations.local import LocalFileSystem
from omegaconf import OmegaConf
from runs import (
    SMALLEST,
    command,
    differences,
    finish,
    metrics,
    refused,
    resume,
    same_weights,
    spawn,
    succeeded,
    train,
    warm_policy,
    warm_run,
)

from locus.files.run_files import StepTable
from locus.run import loggers
from locus.run.loggers import csv_logger
from locus.run.runtime import RunFolder
from locus.training.grpo import GRPOModule

STEPS = 4
"""Validations are at 0, 2 and 4, a checkpoint at each step."""


def settings(steps: int = STEPS) -> list[str]:
    """A run in which much moves: half of the first epoch, a high rate, rewards with spread."""
    return [f"trainer.steps={steps}", f"backbone.path={warm_policy()}", "optimizer.make.lr=2e-3"]


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory) -> Path:
    """The run that all others must equal."""
    folder = tmp_path_factory.mktemp("resume") / "unbroken"
    train(folder, *settings())
    return folder


@pytest.fixture
def folder(tmp_path, unbroken) -> Path:
    """A copy of it, to be cut."""
    return Path(shutil.copytree(unbroken, tmp_path / "run"))


def cut(folder: Path, step: int) -> None:
    """Takes a run back to its checkpoint of ``step``, with the rows of later steps still on disk."""
    for path in folder.glob("checkpoints/step-*.ckpt"):
        if int(path.stem.removeprefix("step-")) > step:
            path.unlink()
    shutil.rmtree(folder / "policy")
    (folder / "summary.json").unlink()


class Killed(BaseException):
    """Stands for ``kill -9``: nothing that catches errors catches it, and the tables are not closed after it."""


def killed(action: Callable[[], Any], target: Any, name: str, before: Callable[..., bool]) -> None:
    """Runs an action until ``target.name`` is called with arguments for which ``before`` is true."""
    original = getattr(target, name)

    def call(*args: Any, **kwargs: Any) -> Any:
        if before(*args, **kwargs):
            raise Killed
        return original(*args, **kwargs)

    with mock.patch.object(target, name, call), mock.patch.object(StepTable, "close"), pytest.raises(Killed):
        action()


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
    resume(folder)
    assert list(differences(folder, unbroken)) == []
    assert json.loads((folder / "run.json").read_text())["resumed_from_step"] == step
    assert json.loads((folder / "summary.json").read_text()) == json.loads((unbroken / "summary.json").read_text())
    assert (folder / "config.yaml").read_text() == (unbroken / "config.yaml").read_text()


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
    """More steps than were planned: the same ones as in a run that was planned for them; also when resumed again."""
    train(tmp_path, *settings(2))
    ended = resume(tmp_path, f"trainer.steps={STEPS}")
    assert list(differences(tmp_path, unbroken)) == [] and "departs" in ended.stdout
    assert yaml.safe_load((tmp_path / "config.yaml").read_text())["trainer"]["steps"] == STEPS
    cut(tmp_path, 3)
    resume(tmp_path)  # the longer run is now the run
    assert list(differences(tmp_path, unbroken)) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    "method",
    [
        ["algorithm=easyr1", "trainer.prompts_per_step=4", "algorithm.group_size=4"],
        ["algorithm=dapo", "algorithm.mini_batches=2", "algorithm.group_size=2"],  # refills draw prompts, too
        ["method=sft"],
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


# --- Killed ---------------------------------------------------------------------------------------------------
def half_written(number: int) -> Callable[..., bool]:
    """Before: writes half of the ``number``-th checkpoint."""
    calls = iter(range(1, 100))

    def before(checkpoint: dict[str, Any], file: Any) -> bool:
        if next(calls) < number:
            return False
        file.write(b"PK\x03\x04" + bytes(1000))
        return True

    return before


def test_killed_while_a_checkpoint_is_written(tmp_path, unbroken):
    """Half a checkpoint that is taken for the newest one; tables that were never closed."""
    folder = tmp_path / "run"
    killed(lambda: train(folder, *settings()), torch, "save", half_written(3))
    names = sorted(path.name for path in (folder / "checkpoints").iterdir())
    assert names == [".step-000003.ckpt.partial", "step-000001.ckpt", "step-000002.ckpt"]
    assert (folder / "rollouts.parquet").is_dir() and pq.read_table(folder / "rollouts.parquet").num_rows == 3 * 8
    resume(folder)
    assert list(differences(folder, unbroken)) == [] and not list(folder.rglob("*.partial"))


@pytest.mark.slow
def test_killed_again_while_it_was_opened(folder, unbroken):
    """A kill while the tables and the metrics are cut back, and the run is then resumed from an earlier checkpoint."""
    cut(folder, 3)
    killed(lambda: resume(folder), loggers.csv, "DictReader", lambda *_: True)
    killed(lambda: resume(folder), torch, "save", half_written(1))
    (folder / "checkpoints" / "step-000003.ckpt").unlink()
    resume(folder)
    assert list(differences(folder, unbroken)) == []


@pytest.fixture
def logged(tmp_path) -> Iterator[Callable[[], None]]:
    """``metrics.csv`` of three steps, and a function that resumes at step 2 and checks that its rows are all there."""
    logger = csv_logger(RunFolder(tmp_path))
    for step in (1, 2, 13):
        logger.log_metrics({"train/a": step / 3, "val/b": 0.1} if step == 2 else {"train/a": step / 3}, step)

    def check() -> None:
        logger = csv_logger(RunFolder(tmp_path, tmp_path / "checkpoint", 2))
        logger.log_metrics({"train/a": 3.0}, 3)
        table = pd.read_csv(tmp_path / "metrics.csv")
        assert table["step"].tolist() == [1, 2, 3] and table["train/a"].tolist() == [1 / 3, 2 / 3, 3.0]
        assert table["val/b"].dropna().tolist() == [0.1]
        assert [path.name for path in tmp_path.iterdir()] == ["metrics.csv"]

    yield check


def test_metrics_are_cut_back(logged):
    logged()


def test_a_row_of_metrics_that_was_half_written(tmp_path, logged):
    """A full disk in the last row, at any byte: a step 13 that reads as step 1, or none, which stops the resume."""
    whole = (tmp_path / "metrics.csv").read_bytes()
    last = len(whole) - len(whole.splitlines(keepends=True)[-1])
    for end in range(last, len(whole)):
        (tmp_path / "metrics.csv").write_bytes(whole[:end])
        logged()


@pytest.mark.parametrize("when", range(8))
def test_metrics_survive_a_kill_while_they_are_rewritten(tmp_path, logged, when):
    """Killed at any of the changes to files that a resume makes: rows that are lost, or there twice."""
    left = iter(range(when, -1, -1))
    open_file = LocalFileSystem.open

    def counted(original: Callable) -> Callable:
        def call(*args: Any, **kwargs: Any) -> Any:
            if next(left, -1) == 0:
                raise Killed
            return original(*args, **kwargs)

        return call

    def opened(self: Any, path: str, mode: str = "rb", **kwargs: Any) -> Any:
        file = open_file(self, path, mode, **kwargs)
        if "r" not in mode and next(left, -1) == 0:  # what is opened to be written anew is empty by now
            file.close()
            raise Killed
        return file

    patches = {(os, "replace"): counted(os.replace), (os, "unlink"): counted(os.unlink),
               (os, "remove"): counted(os.remove), (LocalFileSystem, "open"): opened}  # fmt: skip
    with contextlib.ExitStack() as stack, contextlib.suppress(Killed):
        for (target, name), function in patches.items():
            stack.enter_context(mock.patch.object(target, name, function))
        csv_logger(RunFolder(tmp_path, tmp_path / "checkpoint", 2)).log_metrics({"train/a": 3.0}, 3)
    logged()


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


def test_a_group_that_the_run_has_may_be_named_again(folder):
    """The only way to reach a key of a group that is not the default one, such as a data folder that has moved."""
    succeeded(resume(folder, "method=grpo", f"trainer.steps={STEPS}"))


def test_a_mistyped_folder_is_not_made(tmp_path):
    """Hydra makes its output folder before anything can be checked: the typo would look like a run from then on."""
    refused(command("train", f"resume={tmp_path / 'nowhere'}"), "no folder of a run")
    assert not (tmp_path / "nowhere").exists()


def test_a_new_run_does_not_write_into_an_old_ones_folder(folder, unbroken):
    """Doubled validation rows, and a resume from the old run's checkpoint under the new configuration."""
    cut(folder, 3)
    refused(command("train", *SMALLEST, "seed=7", f"hydra.run.dir={folder}"), "already holds a run", "resume=")
    resume(folder)
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


# --- Real signals ---------------------------------------------------------------------------------------------
def wait_for(condition: Callable[[], Any], process: Any, timeout: float = 120) -> None:
    """Returns once the condition holds, or the process has ended."""
    end = time.monotonic() + timeout
    while not condition() and process.poll() is None:
        assert time.monotonic() < end, "nothing came"
        time.sleep(0.01)


LONG = 12


@pytest.fixture(scope="module")
def long_run(tmp_path_factory) -> Path:
    """An unbroken run of more steps, in a process of its own."""
    folder = tmp_path_factory.mktemp("resume") / "long"
    ended = finish(spawn("-m", "locus.train", *SMALLEST, *settings(LONG), f"hydra.run.dir={folder}"))
    assert ended.status == 0, ended.stderr
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_kill_9_at_random_moments(tmp_path, long_run, seed):
    """Killed in training and at whatever comes after, opened again in a new process, killed again: the same run."""
    folder, dice, kills = tmp_path / "run", random.Random(seed), 0
    arguments = [*SMALLEST, *settings(LONG), f"hydra.run.dir={folder}"]
    for _ in range(3):
        before = len(list(folder.glob("checkpoints/step-*.ckpt")))
        process = spawn("-m", "locus.train", *arguments, "trainer.keep_checkpoints=100")
        if before:  # anywhere from the start of the program on
            moment = time.monotonic() + dice.uniform(4, 9)
        else:
            wait_for(lambda: list(folder.glob("checkpoints/step-*.ckpt")), process)
            moment = time.monotonic() + dice.uniform(0, 2)
        wait_for(lambda moment=moment: time.monotonic() > moment, process)
        process.kill()
        kills += finish(process).status == -signal.SIGKILL
        arguments = [f"resume={folder}"]
    assert kills >= 1
    ended = finish(spawn("-m", "locus.train", f"resume={folder}"))
    assert ended.status == 0, ended.stderr
    assert list(differences(folder, long_run)) == []


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_end_a_run_in_order(tmp_path, long_run, number):
    """Ctrl-C, and what a scheduler sends before it kills: no traceback, no success, all that was done is kept."""
    folder = tmp_path / "run"
    process = spawn(
        "-m", "locus.train", *SMALLEST, *settings(LONG), f"hydra.run.dir={folder}",
        preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),  # a background job ignores SIGINT
    )  # fmt: skip
    wait_for(lambda: (folder / "checkpoints" / "step-000003.ckpt").exists(), process)
    process.send_signal(number)
    ended = finish(process, timeout=60)
    assert ended.status in (130, 128 + number) and "Traceback" not in ended.stderr, ended
    assert f"locus: interrupted; go on with resume={folder}" in ended.stderr
    assert json.loads((folder / "summary.json").read_text())["status"] == "interrupted"
    assert (folder / "rollouts.parquet").is_file() and (folder / "validation.parquet").is_file()
    assert pd.read_parquet(folder / "rollouts.parquet")["step"].max() >= 3
    ended = finish(spawn("-m", "locus.train", f"resume={folder}"))
    assert ended.status == 0, ended.stderr
    assert list(differences(folder, long_run)) == []
