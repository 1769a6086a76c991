"""Runs that are killed or cut back to an earlier checkpoint, to be resumed."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import psutil
import pytest

from locus.errors import LocusError
from locus.files.checkpoints import latest_checkpoint
from locus.files.run_files import remove
from locus.files.step_tables import StepTable
from tests.support.runs import warm_policy

STEPS = 4
"""Validations are at 0, 2 and 4, a checkpoint at each step."""


def settings(steps: int = STEPS) -> list[str]:
    """A run in which much moves: half of the first epoch, a high rate, rewards with spread."""
    return [f"trainer.steps={steps}", f"backbone.path={warm_policy()}", "optimizer.make.lr=2e-3"]


def cut(folder: Path, step: int) -> None:
    """Takes a run back to its checkpoint of ``step``, with the rows of later steps still on disk."""
    for path in folder.glob("checkpoints/step-*.ckpt"):
        if int(path.stem.removeprefix("step-")) > step:
            remove(path)
    shutil.rmtree(folder / "policy")
    (folder / "summary.json").unlink()


def refused_without(save: Callable[[Path, int], Path], folder: Path, name: str, kept: float | None) -> None:
    """The newest of two checkpoints is not resumed without this file, or with its first part alone.

    Args:
        save: folder and step -> a checkpoint written there.
        folder: of the run.
        name: of a file of the checkpoint.
        kept: share of the file that is left; None where it is missing.
    """
    _, newest = (save(folder, step) for step in (1, 2))
    assert latest_checkpoint(folder) == (newest, 2)
    content = (newest / name).read_bytes()
    (newest / name).unlink()
    if kept is not None:
        (newest / name).write_bytes(content[: int(len(content) * kept)])
    with pytest.raises(LocusError, match=r"step-000002.ckpt is corrupt.*delete it to resume from step-000001.ckpt"):
        latest_checkpoint(folder)


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


def half_written(number: int) -> Callable[..., bool]:
    """Before: writes half of the ``number``-th checkpoint."""
    calls = iter(range(1, 100))

    def before(checkpoint: dict[str, Any], file: Any) -> bool:
        if next(calls) < number:
            return False
        file.write(b"PK\x03\x04" + bytes(1000))
        return True

    return before


def wait_for(condition: Callable[[], Any], process: Any, timeout: float = 120) -> None:
    """Returns once the condition holds, or the process has ended."""
    end = time.monotonic() + timeout
    while not condition() and process.poll() is None:
        assert time.monotonic() < end, "nothing came"
        time.sleep(0.01)


def other_rank(process: subprocess.Popen[str]) -> int:
    """The process that a run on two ranks has started."""
    (child,) = psutil.Process(process.pid).children()
    return child.pid


@contextmanager
def written_by_another(folder: Path) -> Iterator[None]:
    """A process that goes on writing into this folder of a run, as `only_writer` tells it."""
    holds = "import fcntl, sys; f = open(sys.argv[1], 'w'); fcntl.lockf(f, fcntl.LOCK_EX); print('process 7 on here', "
    holds += "file=f, end='', flush=True); print(flush=True); sys.stdin.read()"
    streams = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", holds, folder / ".writer"], **streams) as other:
        other.stdout.readline()
        yield
