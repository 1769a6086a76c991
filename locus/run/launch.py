"""Starts the ranks of a run, or joins those that torchrun or SLURM has started; one that is lost ends all of them.

Only rank zero is a command with a configuration, a run folder and a terminal. The others are sent the configuration
once they have joined, so no rank composes it twice or makes a folder of its own. Lightning's own launcher calls the
command again for each rank: in a sweep that would start the sweep again.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.environments import (
    ClusterEnvironment,
    LightningEnvironment,
    SLURMEnvironment,
    TorchElasticEnvironment,
)
from lightning.fabric.plugins.environments.lightning import find_free_network_port
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch import distributed

from locus.errors import LocusError
from locus.files.checkpoints import checkpoints
from locus.files.run_files import write_json
from locus.ranks import is_lost, position
from locus.run.runtime import in_words
from locus.run.sweeps import failure_file

OWN = "LOCUS_RANK_OF"
"""Environment variable of the ranks started here: the number of ranks."""
PLACE = ("MASTER_ADDR", "MASTER_PORT", "LOCAL_RANK", "NODE_RANK", "TORCHELASTIC_USE_AGENT_STORE")
LOST = "another rank of the run has ended"
PATIENCE = 20.0
"""Seconds that rank zero has to notice by itself that a rank is lost; it may wait for it without an end."""
LEAVING = 60.0
"""Seconds that the other ranks may take to end after the last step."""
BEGUN = float(os.environ.get("SLURM_JOB_START_TIME") or time.time())
"""When the job did, as far as SLURM tells, else this process, but for a few imports."""
COMING = 1800.0
"""Seconds that rank zero may take to the point where ranks join, which is before anything is loaded."""
WAIT = timedelta(hours=24)
"""For another rank, which may have longer completions to write; one that is lost is noticed otherwise."""


def environment() -> ClusterEnvironment:
    """Who starts the ranks: srun or torchrun where they have started several, else this module.

    A batch script of a SLURM job with several tasks is one process: the others are for an srun in it.
    """
    as_tasks = int(os.environ.get("SLURM_STEP_NUM_TASKS", 1)) > 1
    for kind, started in ((SLURMEnvironment, as_tasks), (TorchElasticEnvironment, True)):
        if started and kind.detect() and (starter := kind()).world_size() > 1:
            return starter
    return LightningEnvironment()


def started_as() -> tuple[int, int] | None:
    """Rank and number of ranks as this process was started; None for a command on its own."""
    if OWN in os.environ:
        return int(os.environ["LOCAL_RANK"]), int(os.environ[OWN])
    starter = environment()
    if isinstance(starter, LightningEnvironment):
        return None
    return starter.global_rank(), starter.world_size()


def rank_above_zero() -> bool:
    """This process follows another one."""
    started = started_as()
    return started is not None and started[0] > 0


@contextmanager
def joined(folder: Path | None = None, ranks: int = 1, nodes: int = 1, alone: bool = True) -> Iterator[None]:
    """Inside, `locus.ranks` knows this rank and the others.

    Args:
        folder: of the run, where ``rank-<n>.log`` keeps what the ranks say that are started here; None above rank zero.
        ranks: as the configuration has it; above rank zero what this process was started as counts.
        nodes: among them; of several only torchrun or SLURM starts the ranks.
        alone: one rank does without a process group.

    Raises:
        LocusError: another rank is lost, or another number of them was started.
    """
    started = started_as()
    if folder is not None and started is not None and started[1] != ranks:
        raise LocusError(
            f"{started[1]} ranks were started, the configuration has {ranks}: choose trainer=ddp, and give "
            "trainer.devices times trainer.num_nodes as many"
        )
    if folder is not None and ranks == 1 and alone:
        yield
    elif started is not None:
        yield from _in_group(*started, lambda: None)
    elif folder is not None and nodes == 1:
        with _Launched(folder, ranks) as launched:
            yield from _in_group(0, ranks, launched.why)
    else:
        raise LocusError(f"trainer.num_nodes={nodes}: start the ranks of several nodes by torchrun or by SLURM's srun")


def _in_group(rank: int, ranks: int, why: Callable[[], str | None]) -> Iterator[None]:
    """Yields once, in the process group; an error that is due to another rank becomes a LocusError that says so."""
    starter = environment()
    os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"] = starter.main_address, str(starter.main_port)
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    try:
        distributed.init_process_group(backend, rank=rank, world_size=ranks, timeout=WAIT)
        yield
    except LocusError:
        raise
    except Exception as error:
        message = why() or (LOST if is_lost(error) else None)
        if message is None:
            raise
        raise LocusError(message) from error
    finally:
        if distributed.is_initialized():
            distributed.destroy_process_group()


@contextmanager
def rank_zero_first() -> Iterator[None]:
    """Rank zero passes before the others do: what it leaves on disk, they find."""
    rank, ranks = position()
    if ranks > 1 and rank:
        distributed.barrier()
    yield
    if ranks > 1 and not rank:
        distributed.barrier()


class ObeysSigterm(Callback):
    """Ends a rank at SIGTERM as an interrupt does; the ranks that it leaves end with it.

    Lightning tells the other ranks from within the signal's handler: a message between those of the step that was
    interrupted, which then waits for ever.
    """

    def on_train_start(self, *_: Any) -> None:
        """Lightning has set its handler by now, and puts back the former one in the end."""
        signal.signal(signal.SIGTERM, _terminate)

    def on_validation_start(self, *_: Any) -> None:
        """As before training: the validation before step 1 is no part of it."""
        signal.signal(signal.SIGTERM, _terminate)


def _terminate(*_: Any) -> None:
    raise SIGTERMException


class _Launched:
    """The ranks above zero as processes of this one, which end with it."""

    def __init__(self, folder: Path, ranks: int) -> None:
        self.folder, self.ranks, self.ended = folder, ranks, threading.Event()
        self.processes: list[subprocess.Popen[bytes]] = []
        self.before = {name: os.environ.get(name) for name in PLACE}

    def __enter__(self) -> _Launched:
        # LOCAL_RANK tells Lightning that there is nothing left to start. Where a torchrun has started this process
        # alone, its store is at another port, and torch would wait for it at this one.
        here = "127.0.0.1", str(find_free_network_port()), "0", "0", "False"
        os.environ.update(zip(PLACE, here, strict=True))
        for rank in range(1, self.ranks):
            own = os.environ | {"LOCAL_RANK": str(rank), OWN: str(self.ranks)}
            with self.log(rank).open("wb") as log:
                self.processes.append(
                    subprocess.Popen(
                        [sys.executable, "-m", "locus.train"],
                        env=own,
                        stdin=subprocess.PIPE,
                        stdout=log,
                        stderr=log,
                        start_new_session=True,  # an interrupt is for rank zero, which ends the others
                    )
                )
        threading.Thread(target=self.watch, daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.ended.set()
        end = time.monotonic() + (LEAVING if kind is None else 0)
        for process in self.processes:
            try:
                process.wait(max(0, end - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            assert process.stdin is not None
            process.stdin.close()
        for name, value in self.before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value

    def log(self, rank: int) -> Path:
        return self.folder / f"rank-{rank}.log"

    def lost(self) -> str | None:
        """What became of a rank that failed of itself; None while there is none."""
        for rank, process in enumerate(self.processes, 1):
            if not (code := process.poll()):
                continue
            last = self.log(rank).read_text(errors="replace").rstrip().rpartition("\n")[2]
            said = last.removeprefix("locus: ") if last.startswith("locus: ") else ""
            if said.startswith(LOST):
                continue
            if code < 0:
                name = signal.Signals(-code).name
                said = f"killed by {name}" + (", mostly for want of memory" if name == "SIGKILL" else "")
            begun = checkpoints(self.folder)
            remedy = f"resume with resume={self.folder}" if begun else "start the run anew"
            return f"rank {rank} of {self.ranks} ended: {said or f'see {self.log(rank)}'}; {remedy}"
        return None

    def why(self) -> str | None:
        """As `lost`, for an error that may be due to a rank that is still about to end."""
        end = time.monotonic() + 5
        while (message := self.lost()) is None and time.monotonic() < end:
            time.sleep(0.1)
        return message

    def watch(self) -> None:
        """Ends this process where a rank is lost and rank zero waits for it without noticing."""
        while not self.ended.wait(0.5):
            if (message := self.lost()) is not None and not self.ended.wait(PATIENCE):
                if not (self.folder / "summary.json").exists():  # of an end that no step of this call has undone
                    write_json(self.folder / "summary.json", {"status": "failed", "message": message})
                print(f"locus: {message}", file=sys.stderr, flush=True)
                for process in self.processes:
                    process.kill()
                os._exit(2)


def follow(work: Callable[[], Any]) -> None:
    """Runs a rank above zero; what ends it is said in one line, as a command does."""
    if OWN in os.environ:
        threading.Thread(target=_end_with_rank_zero, daemon=True).start()
    try:
        work()
    except Exception as error:
        if (message := in_words(error)) is None:
            raise
        print(f"locus: {' '.join(message.split())}", file=sys.stderr, flush=True)
        sys.exit(2)


def follow_in_job(folder: Path, work: Callable[[], Any]) -> None:
    """As `follow`, of a job that Hydra's launcher has started as several tasks: rank zero records what ends it.

    folder: of the run, where rank zero says that it has failed.
    """
    for handler in logging.root.handlers[:]:
        if isinstance(handler, logging.FileHandler):  # the run's log is rank zero's
            logging.root.removeHandler(handler)
    if _rank_zero_waits(folder, failure_file()):
        with contextlib.suppress(SystemExit):  # a launcher takes a failed task for the end of the sweep
            follow(work)


def _rank_zero_waits(folder: Path, failed: Path) -> bool:
    """Whether rank zero has come to the point where ranks join; it may fail, and leave the others waiting for a day.

    failed: the only sign of a job that is refused, since its folder is another run's.
    """
    starter, summary, end = environment(), folder / "summary.json", time.monotonic() + COMING
    while time.monotonic() < end:
        with contextlib.suppress(OSError), socket.create_connection((starter.main_address, starter.main_port), 1):
            return True
        if failed.exists() or (summary.exists() and summary.stat().st_mtime > BEGUN):
            return False
        time.sleep(0.5)
    raise LocusError(f"rank zero has not come within {COMING:.0f} s: see its log, and {folder / 'train.log'}")


def _end_with_rank_zero() -> None:
    while os.read(0, 1):  # the pipe's other end is held by rank zero, and by nobody else
        pass
    os._exit(1)
