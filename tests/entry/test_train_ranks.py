"""``trainer=ddp``: a run on several processes is the run of one, in its weights and in every table."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from locus.files.run_files import latest_checkpoint
from tests.support.interrupted import cut, settings, wait_for
from tests.support.runs import SMALLEST, command, finish, metrics, refused, resume, spawn, train, weights

DDP = ("trainer=ddp", "trainer.accelerator=cpu", "trainer.precision=32-true", "trainer.workers=0")
CASES = {
    "full": (
        "algorithm.mini_batches=2",
        "algorithm.refill=2",
        "algorithm.loss.average=token_mean",
        "reward=iou_threshold",
    ),
    "lora": ("weights=lora", "weights.seed=3", "rollout.token_budget=260"),
    "sft": ("algorithm=sft",),
}


def overrides(case: str, prompts: int = 4) -> list[str]:
    """A run in which much moves, with a validation batch that does not divide by the ranks."""
    sizes = [f"trainer.prompts_per_step={prompts}", "trainer.validation_batch=3", "trainer.stop_at=null"]
    # Adam makes a step of what is rounding alone; with this epsilon a step follows its gradient.
    return [*settings(), *sizes, "+optimizer.make.eps=1e-2", "optimizer.make.lr=2e-2", *CASES[case]]


def same_table(one: Path, other: Path) -> None:
    """Asserts the same rows in the same order, numbers up to rounding."""
    ours, theirs = pq.read_table(one), pq.read_table(other)
    assert ours.schema.equals(theirs.schema)
    for name in ours.schema.names:
        left, right = (table[name].to_pylist() for table in (ours, theirs))
        if ours.schema.field(name).type == pa.float64():
            left, right = (np.array(column, dtype=float) for column in (left, right))
            np.testing.assert_allclose(left, right, rtol=1e-4, atol=1e-4, err_msg=name)
        else:
            assert left == right, name


def same_run(one: Path, other: Path) -> None:
    """Asserts that two folders hold the same run up to rounding, and that it trained."""
    for name in ("rollouts.parquet", "validation.parquet"):
        same_table(one / name, other / name)
    ours, theirs = metrics(one), metrics(other)
    assert ours.columns.tolist() == theirs.columns.tolist()
    np.testing.assert_allclose(
        ours.drop(columns="train/rollout_mismatch", errors="ignore"),
        theirs.drop(columns="train/rollout_mismatch", errors="ignore"), rtol=1e-3, atol=1e-5,
    )  # fmt: skip
    assert (ours["train/grad_norm"].dropna() > 0).any()
    assert weights(one).keys() == weights(other).keys()
    # Of adapters it holds these alone, which are small beside the weights that they are added to.
    left, right = (torch.load(latest_checkpoint(folder)[0])["state_dict"] for folder in (one, other))
    assert left.keys() == right.keys()
    worst = {name: float((left[name] - right[name]).norm() / left[name].norm().clamp(min=1e-6)) for name in left}
    assert max(worst.values()) < 1e-5, max(worst.items(), key=lambda entry: entry[1])


def written_once(folder: Path, ranks: int) -> None:
    """Asserts one set of files, with a log of each rank that was started."""
    expected = {".hydra", "checkpoints", "config.yaml", "figures", "metrics.csv", "policy", "report.html"}
    expected |= {"claims.csv", "rollouts.parquet", "run.json", "summary.json", "train.log", "validation"}
    expected |= {"validation.parquet", *(f"rank-{rank}.log" for rank in range(1, ranks))}
    assert {path.name for path in folder.iterdir()} == expected
    table = pd.read_parquet(folder / "validation.parquet")
    assert not table.duplicated(["step", "example_id"]).any()
    assert (table.groupby("step").size() == 4).all()  # each of the four once


@pytest.mark.parametrize(
    ("case", "ranks"),
    [("full", 2), pytest.param("lora", 2, marks=pytest.mark.slow), pytest.param("sft", 2, marks=pytest.mark.slow),
     pytest.param("full", 4, marks=pytest.mark.slow), pytest.param("lora", 4, marks=pytest.mark.slow)],
)  # fmt: skip
def test_ranks_make_the_run_of_one(tmp_path: Path, case: str, ranks: int):
    """Means of means, a gradient summed twice or not, a sample validated twice, and tables of one rank's share.

    Mini-batches, a refill and groups that are split are among it: ranks then differ in how often they go backwards.
    """
    one, several = tmp_path / "one", tmp_path / "several"
    train(one, *overrides(case))
    train(several, *DDP, *overrides(case), f"trainer.devices={ranks}")
    same_run(several, one)
    written_once(several, ranks)
    if case == "full":  # the refill had something to do
        assert (metrics(one)["train/zero_spread_groups"] > 0).any()
    assert "LOCAL_RANK" not in os.environ and not torch.distributed.is_initialized()


def other_rank(process: subprocess.Popen[str]) -> int:
    """The process that a run on two ranks has started."""
    children = subprocess.run(["ps", "-o", "pid=", "--ppid", str(process.pid)], capture_output=True, text=True)
    (child,) = children.stdout.split()
    return int(child)


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
    end = time.monotonic() + 20
    while Path(f"/proc/{child}").exists() and time.monotonic() < end:
        time.sleep(0.1)
    assert not Path(f"/proc/{child}").exists()


def test_what_ranks_cannot_be_is_refused(tmp_path: Path):
    """Prompts that do not divide, and devices that one process would leave idle."""
    sizes = [*SMALLEST, f"hydra.run.dir={tmp_path / 'run'}"]
    ended = command("train", *sizes, *DDP, "trainer.devices=3")
    refused(ended, "trainer.prompts_per_step=2 on 3 ranks", "give a multiple")
    ended = command("train", *sizes, "trainer.devices=2", "hydra.run.dir=" + str(tmp_path / "other"))
    refused(ended, "trainer.devices=2", "choose trainer=ddp")
