"""Ranks that do not come, or are others than the configuration has."""

from __future__ import annotations

import json
import os
import socket
import sys
from pathlib import Path

import pytest
from lightning.fabric.plugins.environments.lightning import find_free_network_port

from locus.errors import LocusError
from locus.run.launch import _rank_zero_waits, joined, rank_above_zero, started_as
from tests.support.runs import finish, refused, spawn, succeeded

WAITING = """
import sys
from pathlib import Path
from locus.run import launch
launch.PATIENCE, sys.executable = 0.5, sys.argv[2]
with launch.joined(Path(sys.argv[1]), 2):
    print("joined")
"""
LONE = """
import sys
from pathlib import Path
from torch import distributed
from locus.run.launch import joined
with joined(Path(sys.argv[1]), 1, alone=False):
    print("a group of", distributed.get_world_size())
"""


@pytest.mark.slow
def test_rank_zero_does_not_wait_for_a_rank_that_has_ended(tmp_path: Path):
    """A run that hangs in a collective, whose other side has said in its log alone why it ended."""
    rank = tmp_path / "rank"
    rank.write_text("#!/bin/sh\necho 'Loading weights' >&2\necho 'locus: prompt 7 is too long' >&2\nexit 2\n")
    rank.chmod(0o755)
    ended = finish(spawn("-c", WAITING, tmp_path, rank), timeout=120)
    refused(ended, "rank 1 of 2 ended: prompt 7 is too long; start the run anew")
    assert "joined" not in ended.stdout
    assert json.loads((tmp_path / "summary.json").read_text())["status"] == "failed"


def torchrun(monkeypatch: pytest.MonkeyPatch, rank: int, ranks: int) -> None:
    """The environment of a rank that torchrun has started."""
    places = {"TORCHELASTIC_RUN_ID": "1", "RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": ranks}
    for name, value in places.items():
        monkeypatch.setenv(name, str(value))


@pytest.mark.parametrize(("started", "configured"), [(2, 1), (2, 4)])
def test_another_number_of_ranks_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, started: int, configured: int
):
    """Two whole runs into one folder where trainer=ddp was forgotten; a wait for ranks that nobody starts."""
    torchrun(monkeypatch, 0, started)
    with pytest.raises(LocusError, match=f"{started} ranks were started, the configuration has {configured}"):
        joined(tmp_path, configured).__enter__()


def test_several_nodes_need_a_launcher(tmp_path: Path):
    """All ranks of two nodes on one."""
    with pytest.raises(LocusError, match=r"trainer.num_nodes=2: start the ranks"):
        joined(tmp_path, 4, nodes=2).__enter__()


def test_who_follows(monkeypatch: pytest.MonkeyPatch):
    """A rank above zero that composes a configuration makes a run folder of its own; a lone torchrun rank must."""
    assert not rank_above_zero()
    for rank, ranks, follows in ((0, 2, False), (1, 2, True), (0, 1, False)):
        torchrun(monkeypatch, rank, ranks)
        assert rank_above_zero() == follows


@pytest.mark.slow
def test_a_lone_rank_of_torchrun_makes_its_own_group(tmp_path: Path):
    """A wait of a day at start-up: torch looks for torchrun's store at the port of the run's own."""
    torchrun = "-m", "torch.distributed.run", "--nproc-per-node=1", f"--master-port={find_free_network_port()}"
    ended = finish(spawn(*torchrun, "--no-python", sys.executable, "-c", LONE, tmp_path), timeout=60)
    succeeded(ended)
    assert "a group of 1" in ended.stdout


def test_a_batch_script_without_srun_starts_its_ranks_itself(monkeypatch: pytest.MonkeyPatch):
    """A wait of a day for tasks that nobody starts: SLURM tells a batch script of them, too, and srun each of them."""
    places = {"SLURM_NTASKS": 4, "SLURM_NTASKS_PER_NODE": 4, "SLURM_JOB_NAME": "train", "SLURM_PROCID": 0}
    for name, value in places.items():
        monkeypatch.setenv(name, str(value))
    assert started_as() is None and not rank_above_zero()
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "4")
    monkeypatch.setenv("SLURM_PROCID", "3")
    assert started_as() == (3, 4) and rank_above_zero()


def test_a_task_does_not_wait_for_a_rank_zero_that_has_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A day of a queue's GPUs: rank zero fails before ranks join; an earlier launch's failure is none of this one."""
    summary, failed = tmp_path / "summary.json", tmp_path / "failed.json"
    with socket.create_server(("127.0.0.1", 0)) as server:
        torchrun(monkeypatch, 1, 2)
        monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
        monkeypatch.setenv("MASTER_PORT", str(server.getsockname()[1]))
        assert _rank_zero_waits(tmp_path, failed)
    summary.write_text("{}")
    os.utime(summary, (0, 0))
    asked: list[float] = []

    def later(seconds: float) -> None:
        asked.append(seconds)
        os.utime(summary)

    monkeypatch.setattr("locus.run.launch.time.sleep", later)
    assert not _rank_zero_waits(tmp_path, failed) and len(asked) == 1
    os.utime(summary, (0, 0))
    failed.touch()  # by a rank zero that was refused, as the folder is another run's
    assert not _rank_zero_waits(tmp_path, failed) and len(asked) == 1


def test_a_task_does_not_wait_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Rank zero is killed before ranks join, or its clock is another one: a task gives its GPU back."""
    torchrun(monkeypatch, 1, 2)
    failed = tmp_path / "failed.json"
    with socket.create_server(("127.0.0.1", 0)) as server:  # closed below: nobody listens
        monkeypatch.setenv("MASTER_PORT", str(server.getsockname()[1]))
    monkeypatch.setattr("locus.run.launch.COMING", 0.1)
    with pytest.raises(LocusError, match="rank zero has not come"):
        _rank_zero_waits(tmp_path, failed)
