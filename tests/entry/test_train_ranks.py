"""``trainer=ddp``, ``trainer=fsdp2``: a run on several processes is the run of one, in weights and in every table."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import pytest
import torch

from tests.support.children import gone
from tests.support.interrupted import cut, other_rank, wait_for
from tests.support.run_of_ranks import DDP, FSDP2, overrides, same_run, written_once
from tests.support.runs import SMALLEST, command, finish, metrics, refused, resume, spawn, succeeded, train


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A case -> the run of one process."""

    @lru_cache
    def run(case: str) -> Path:
        folder = tmp_path_factory.mktemp(case) / "one"
        train(folder, *overrides(case))
        return folder

    return run


@pytest.mark.parametrize(
    ("case", "trainer", "ranks"),
    [
        ("full", DDP, 2),
        *(pytest.param(*slow, marks=pytest.mark.slow)
          for slow in (("full", FSDP2, 4), ("sft", DDP, 2), ("full", DDP, 4), ("lora", DDP, 4))),
    ],
)  # fmt: skip
def test_ranks_make_the_run_of_one(
    tmp_path: Path, alone: Callable[[str], Path], case: str, trainer: tuple[str, ...], ranks: int
):
    """Means of means, a gradient summed twice or not, a sample validated twice, and tables of one rank's share.

    Mini-batches, a refill and groups that are split are among it: ranks then differ in how often they go backwards.
    Where they share the weights: a norm of one rank's part, stale weights in a rollout, ranks that wait for each other.
    """
    one, several = alone(case), tmp_path / "several"
    train(several, *trainer, *overrides(case), f"trainer.devices={ranks}")
    same_run(several, one)
    written_once(several, ranks)
    if case == "full":  # the refill had something to do
        assert (metrics(one)["train/zero_spread_groups"] > 0).any()
    assert "LOCAL_RANK" not in os.environ and not torch.distributed.is_initialized()


@pytest.mark.slow
def test_slurms_tasks_make_the_run_of_the_own_launcher(tmp_path: Path):
    """Two tasks that make two runs, or wait for each other: they are told their places as SLURM tells them."""
    own, sweep = tmp_path / "own", tmp_path / "sweep"
    sizes = [*DDP, *overrides("full"), "trainer.devices=2", "trainer.steps=2"]
    launched = "-m", "hydra/launcher=slurm_rehearsal", f"hydra.sweep.dir={sweep}", "hydra.sweep.subdir=job"
    succeeded(finish(spawn("-m", "locus.train", *launched, "seed=1", *SMALLEST, *sizes)))
    train(own, *sizes)
    same_run(sweep / "job", own)
    (own / "rank-1.log").unlink()  # of a task that is submitit's
    assert {path.name for path in (sweep / "job").iterdir()} == {path.name for path in own.iterdir()}
    lines = (sweep / "job" / "train.log").read_text()
    assert lines.count("run folder:") == 1 and lines.count("a step:") == 1


@pytest.mark.slow
def test_a_rank_that_is_killed_ends_the_run_which_resumes_on_another_number(tmp_path: Path):
    """A run that waits for ever for a rank that is gone, or that can only be resumed on as many ranks."""
    one, folder = tmp_path / "one", tmp_path / "run"
    train(one, *overrides("full"))
    process = spawn(
        "-m", "locus.train", *SMALLEST, *DDP, *overrides("full"), "trainer.devices=2", f"hydra.run.dir={folder}"
    )
    wait_for(lambda: (folder / "checkpoints" / "step-000002.ckpt").exists(), process)
    os.kill(other_rank(process), signal.SIGKILL)
    ended = finish(process, timeout=120)
    refused(ended, "rank 1 of 2 ended: killed by SIGKILL", f"resume with resume={folder}")
    assert json.loads((folder / "summary.json").read_text())["status"] == "failed"
    resume(folder, "trainer.devices=1")
    same_run(folder, one)
    cut(folder, 2)
    resume(folder, "trainer.devices=4")
    same_run(folder, one)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_no_rank_outlives_rank_zero(tmp_path: Path, number: int):
    """Processes left behind that hold GPUs; and what interrupts a run of one process interrupts all of several."""
    folder = tmp_path / "run"
    process = spawn(
        "-m", "locus.train", *SMALLEST, *DDP, *overrides("full"), "trainer.devices=2", "trainer.steps=5",
        f"hydra.run.dir={folder}", preexec_fn=lambda: signal.signal(number, signal.SIG_DFL) if number != 9 else None,
    )  # fmt: skip
    wait_for(lambda: (folder / "checkpoints" / "step-000001.ckpt").exists(), process)
    child = other_rank(process)
    process.send_signal(number)
    ended = finish(process, timeout=60)
    if number == signal.SIGKILL:
        assert ended.status == -number
    else:
        assert f"locus: interrupted; resume with resume={folder}" in ended.stderr and "Traceback" not in ended.stderr
        assert json.loads((folder / "summary.json").read_text())["status"] == "interrupted"
    assert gone({child})


def test_what_ranks_cannot_be_is_refused(tmp_path: Path):
    """Prompts that do not divide, and devices that one process would leave idle."""
    sizes = [*SMALLEST, f"hydra.run.dir={tmp_path / 'run'}"]
    ended = command("train", *sizes, *DDP, "trainer.devices=3")
    refused(ended, "trainer.prompts_per_step=2 on 3 ranks", "give a multiple")
    ended = command("train", *sizes, "trainer.devices=2", "hydra.run.dir=" + str(tmp_path / "other"))
    refused(ended, "trainer.devices=2", "choose trainer=ddp")
