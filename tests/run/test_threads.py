"""Threads of a run: as many as find a core of their own, and on resume as many as before."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import pytest
import torch

from locus.run.threads import VARIABLES, busy_cores, choose_threads, cpu_quota, free_threads, recorded_threads
from tests.support.runs import SMALLEST, finish, resume, spawn, succeeded

SPIN = "import os, sys\nos.sched_setaffinity(0, {int(sys.argv[1])})\nprint(flush=True)\nwhile True: pass"


@contextmanager
def busy() -> Iterator[set[int]]:
    """The cores that this process may use, each of them kept busy by a process of its own until the end."""
    cores = os.sched_getaffinity(0)
    if cpu_quota() < len(cores):
        pytest.skip("a quota keeps this container from making all of its cores busy")
    spinning = [
        subprocess.Popen([sys.executable, "-c", SPIN, str(core)], stdout=subprocess.PIPE) for core in sorted(cores)
    ]
    try:
        for process in spinning:
            process.stdout.readline()
        yield cores
    finally:
        for process in spinning:
            process.kill()
            process.communicate()


@pytest.fixture
def cores(monkeypatch) -> set[int]:
    """The same by what is measured of them alone: true under a quota, too."""
    cores = os.sched_getaffinity(0)
    monkeypatch.setattr(psutil, "cpu_percent", lambda seconds, percpu: [100.0] * (max(cores) + 1))
    return cores


@pytest.fixture
def unset(monkeypatch) -> Iterator[None]:
    """No variable says how many threads there are; two before, and afterwards what there were."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize(
    ("idle", "cores", "busy", "threads"),
    [
        (2, 2, 0.0, 2),
        (2, 2, 0.4, 2),  # less than half a core: passing work
        (2, 2, 0.5, 1),
        (2, 2, 1.0, 1),
        (2, 2, 2.0, 1),  # no core is free, and one thread there must be
        (1, 1, 1.0, 1),
        (8, 8, 2.6, 5),
        (4, 8, 1.0, 4),  # hyperthreads: seven are free for four threads
        (4, 8, 5.0, 3),
    ],
)
def test_free_threads(idle, cores, busy, threads):
    """A thread beside the busy process, a core left idle, or no thread at all."""
    assert free_threads(idle, cores, busy) == threads


@pytest.mark.parametrize(("quota", "threads"), [(math.inf, 32), (4.0, 4), (2.5, 2), (0.5, 1)])
def test_a_quota_bounds_threads(quota, threads):
    """A thread per core of the machine in a container that is granted four: all are stopped most of the time."""
    assert free_threads(32, 64, 20.0, quota) == threads


@pytest.mark.parametrize(("text", "quota"), [("max 100000\n", math.inf), ("250000 100000\n", 2.5), ("", math.inf)])
def test_the_quota_of_a_container(tmp_path, text, quota):
    """A limit in microseconds taken for cores, or an unlimited container taken for a limited one."""
    (tmp_path / "cpu.max").write_text(text)
    assert cpu_quota(tmp_path / "cpu.max") == quota
    assert cpu_quota(tmp_path / "none") == math.inf


def test_busy_cores():
    """Cores that others keep busy are seen, those that this process may not use are not counted."""
    with busy() as cores:
        assert busy_cores(cores) > 0.8 * len(cores)
        assert busy_cores(()) == 0


def test_others_decide(cores, unset, monkeypatch):
    """Threads that a launcher or a user has asked for, or those beside a GPU, are taken away on a busy machine."""
    choose_threads("gpu")
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    choose_threads("cpu")
    assert torch.get_num_threads() == 2


def test_a_resumed_run_has_the_threads_it_had(tmp_path, unset, caplog):
    """Free cores, or no record of another version, change the sums of a run or fail it."""
    record = tmp_path / "run.json"
    assert recorded_threads(record) is None
    record.write_text("{}")
    assert recorded_threads(record) is None
    record.write_text(json.dumps({"hardware": {"threads": 1}}))
    with caplog.at_level("INFO"):
        choose_threads("cpu", record)
    assert torch.get_num_threads() == 1 and "threads: 1 (as before" in caplog.text


def test_more_threads_than_cores_are_not_taken_again(tmp_path, cores, unset, monkeypatch):
    """A run of a larger machine is resumed with all of its threads on this one's few cores."""
    monkeypatch.setattr("locus.run.threads.IDLE", len(cores) + 1)
    record = tmp_path / "run.json"
    record.write_text(json.dumps({"hardware": {"threads": len(cores) + 1}}))
    choose_threads("cpu", record)
    assert torch.get_num_threads() == 1


@pytest.mark.parametrize(("quota", "threads"), [(math.inf, 4), (6.0, 3), (1.5, 1)])
def test_ranks_share_cores_and_quota(monkeypatch, unset, quota: float, threads: int):
    """Two ranks with all cores each, or with half of a machine's in a container that may use a few."""
    monkeypatch.setattr("locus.run.threads.IDLE", 8)
    monkeypatch.setattr("locus.run.threads.cpu_quota", lambda: quota)
    choose_threads("cpu", processes=2)
    assert torch.get_num_threads() == threads


@pytest.mark.slow
def test_a_run_beside_busy_processes(tmp_path, unset):
    """No core is free: the run takes one thread, says so, records it, and has one again when it is resumed."""
    folder, said = tmp_path / "run", ""
    environment = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    with busy() as cores:
        run = spawn("-m", "locus.train", *SMALLEST, "trainer.steps=1", f"hydra.run.dir={folder}", env=environment)
        while "threads: " not in said and (line := run.stdout.readline()):
            said += line
    succeeded(finish(run))
    assert "threads: 1 (" in said and (len(cores) == 1 or f" of {len(cores)} cores busy" in said)
    assert recorded_threads(folder / "run.json") == 1
    assert "threads: 1 (as before" in resume(folder, "trainer.steps=2").stdout
    assert recorded_threads(folder / "run.json") == torch.get_num_threads() == 1
