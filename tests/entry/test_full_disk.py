"""A disk that is full: one line on stderr, what was whole stays whole, and the run goes on from there."""

from __future__ import annotations

import contextlib
import resource
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

import locus.run.record
import locus.train
from tests.support.runs import SMALLEST, command, differences, finish, refused, resume, spawn, train, warm_policy


# --- A full disk ----------------------------------------------------------------------------------------------
@contextlib.contextmanager
def no_file_above(size: int) -> Iterator[None]:
    """The kernel refuses to write any file beyond this many bytes, as a full disk or quota does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def sizes(folder: Path) -> dict[str, int]:
    """Bytes of each file, by its path in the folder."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.stat().st_size for path in files}


@pytest.mark.parametrize(
    ("since", "name", "share"),
    [
        ("fit", "checkpoints/step-000002.ckpt", 0.5),
        pytest.param("fit", "rollouts.parquet", 0.5, marks=pytest.mark.slow),
        pytest.param("fit", "validation/step-000004/00.png", 0.5, marks=pytest.mark.slow),
        pytest.param("fit", "metrics.csv", 0.8, marks=pytest.mark.slow),
        pytest.param("build_trainer", "rollouts.parquet", 0.1, marks=pytest.mark.slow),
        pytest.param("build_trainer", "metrics.csv", 0.1, marks=pytest.mark.slow),
        pytest.param("save_curve", "figures/curve.png", 0.5, marks=pytest.mark.slow),
        ("keep_configuration", ".hydra/resume.yaml", 0.5),
    ],
)
def test_a_full_disk_is_one_line_and_costs_nothing(run, unbroken, since, name, share):
    """A file that cannot be written to its end, whichever it is: what was whole before stays whole, the run goes on."""
    limit = int(sizes(unbroken)[name] * share)
    kept = [run / "checkpoints" / "step-000002.ckpt", run / ".hydra" / "resume.yaml", run / "config.yaml"]
    module = locus.run.record if since == "keep_configuration" else locus.train
    before, original = [path.read_bytes() for path in kept], getattr(module, since)
    with contextlib.ExitStack() as stack:

        def limited(*args: Any, **kwargs: Any) -> Any:
            stack.enter_context(no_file_above(limit))
            return original(*args, **kwargs)

        stack.enter_context(mock.patch.object(module, since, limited))
        ended = command("train", f"resume={run}")
    refused(ended, "disk", "resume")
    assert [path.read_bytes() for path in kept] == before
    resume(run)
    assert list(differences(run, unbroken)) == []


ROOM = {
    "first checkpoint": lambda size: size["checkpoints/step-000001.ckpt"] // 4,
    "second checkpoint": lambda size: size["checkpoints/step-000001.ckpt"] * 3 // 2,
    "policy": lambda size: sum(size.values()) - size["policy/model.safetensors"] // 2,
}
"""What does not fit any more -> bytes of the file system, from those of the run's files."""


@pytest.mark.slow
@pytest.mark.parametrize("what", ROOM)
def test_a_disk_that_really_is_full(tmp_path, unbroken, what):
    """The same on a small file system: what does not fit is said, and with more room the run goes on."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={ROOM[what](sizes(unbroken))}", "tmpfs", disk]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no right to mount a file system")
    try:
        folder = disk / "run"
        arguments = ["trainer.steps=4", f"backbone.path={warm_policy()}", "optimizer.make.lr=2e-3"]
        refused(command("train", *SMALLEST, f"hydra.run.dir={folder}", *arguments), "disk")
        subprocess.run(["mount", "-o", "remount,size=1G", disk], check=True)
        if list(folder.glob("checkpoints/*.ckpt")):
            resume(folder)
        else:
            shutil.rmtree(folder)
            train(folder, *arguments)
        assert list(differences(folder, unbroken)) == []
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


# --- The commands themselves ----------------------------------------------------------------------------------
@pytest.mark.slow
def test_the_command_on_a_full_disk(tmp_path, run):
    """In a process of its own, with the limit there from its start."""
    limit = sizes(run)["checkpoints/step-000002.ckpt"] // 2
    process = spawn("-m", "locus.train", f"resume={run}",
                    preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)))  # fmt: skip
    refused(finish(process), "step-000003.ckpt", "free disk space, then resume", "the previous checkpoint is whole")
