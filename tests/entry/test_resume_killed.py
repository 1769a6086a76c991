"""A run that is killed at any moment is resumed to the very run it would have been."""

from __future__ import annotations

import json
import random
import signal
import time
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch

from locus.run import loggers
from tests.support.interrupted import cut, half_written, killed, settings, wait_for
from tests.support.runs import SMALLEST, differences, finish, resume, spawn, train


# --- Killed ---------------------------------------------------------------------------------------------------
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


# --- Real signals ---------------------------------------------------------------------------------------------
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
    folder, dice = tmp_path / "run", random.Random(seed)
    steps, pause = dice.randint(1, LONG // 2), dice.uniform(0, 0.1)
    process = spawn("-m", "locus.train", *SMALLEST, *settings(LONG), f"hydra.run.dir={folder}")
    # In steps: on a machine of any speed some are left to do.
    wait_for(lambda: len(list(folder.glob("checkpoints/step-*.ckpt"))) >= steps, process)
    time.sleep(pause)
    process.kill()
    assert finish(process).status == -signal.SIGKILL
    for _ in range(2):  # anywhere from the start of the program on
        process = spawn("-m", "locus.train", f"resume={folder}")
        moment = time.monotonic() + dice.uniform(4, 9)
        wait_for(lambda moment=moment: time.monotonic() > moment, process)
        process.kill()
        finish(process)
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
    assert f"locus: interrupted; resume with resume={folder}" in ended.stderr
    assert json.loads((folder / "summary.json").read_text())["status"] == "interrupted"
    assert (folder / "rollouts.parquet").is_file() and (folder / "validation.parquet").is_file()
    assert pd.read_parquet(folder / "rollouts.parquet")["step"].max() >= 3
    ended = finish(spawn("-m", "locus.train", f"resume={folder}"))
    assert ended.status == 0, ended.stderr
    assert list(differences(folder, long_run)) == []
