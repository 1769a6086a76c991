"""Checkpoints survive a kill at any moment and a full disk; a corrupt one is named with what to do."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from locus.errors import LocusError
from locus.files.checkpoints import AtomicCheckpointIO, checkpoint_path, checkpoints, latest_checkpoint
from tests.support.children import LIMIT, in_child


# --- A full disk, and kills by signals, in a child process ----------------------------------------------------
def state(step: int, size: int = 10) -> dict[str, Any]:
    """A checkpoint of this step with a tensor of ``size`` floats."""
    return {"locus": {"finished_steps": step}, "weights": torch.full((size,), float(step))}


def save(folder: Path, step: int, content: dict[str, Any]) -> Path:
    """Saves it at its place in a run folder."""
    path = checkpoint_path(folder, step)
    AtomicCheckpointIO().save_checkpoint(content, path)
    return path


def test_checkpoint_round_trip(tmp_path):
    """What is loaded is what was saved, in a folder that did not exist; saving again replaces it."""
    path = save(tmp_path, 3, state(3))
    assert path == tmp_path / "checkpoints" / "step-000003.ckpt" and list(path.parent.iterdir()) == [path]
    loaded = AtomicCheckpointIO().load_checkpoint(path)
    assert loaded["locus"] == {"finished_steps": 3} and loaded["weights"].tolist() == [3.0] * 10
    save(tmp_path, 3, state(4))
    assert AtomicCheckpointIO().load_checkpoint(path)["locus"] == {"finished_steps": 4}


def test_a_checkpoint_that_does_not_fit(tmp_path):
    """A real failure of the write: one clear error, no partial that fills the disk, the previous checkpoint whole."""
    first = save(tmp_path, 1, state(1))
    before = first.read_bytes()
    for step in (1, 2):  # over the old one, and beside it
        content = state(step, LIMIT)
        _, message = in_child(lambda step=step, content=content: save(tmp_path, step, content), limited=True)
        assert message.startswith("LocusError: checkpoint ") and f"step-{step:06d}.ckpt" in message
        assert "free disk space, then resume" in message
        assert list(first.parent.iterdir()) == [first] and first.read_bytes() == before
    assert latest_checkpoint(tmp_path) == (first, 1)


def test_the_newest_checkpoint_of_a_million(tmp_path):
    """In the order of the alphabet step 1,000,000 comes first: removed as the oldest, and a resume that goes back."""
    paths = [save(tmp_path, step, state(step)) for step in (999_999, 1_000_000)]
    assert checkpoints(tmp_path) == paths and latest_checkpoint(tmp_path) == (paths[1], 1_000_000)


class KillMyself:
    """An object that is killed by ``kill -9`` while it is pickled."""

    def __reduce__(self) -> Any:
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError("still alive")


def killed_while_pickling(folder: Path) -> tuple[int, str]:
    """The partial file is open, and next to nothing is in it."""
    content = state(2, LIMIT) | {"last": KillMyself()}
    return in_child(lambda: save(folder, 2, content))


def killed_in_the_data(folder: Path) -> tuple[int, str]:
    """The partial file holds LIMIT bytes of four times as many."""
    content = state(2, LIMIT)
    return in_child(lambda: save(folder, 2, content), dies_at_limit=True)


def killed_before_the_move(folder: Path) -> tuple[int, str]:
    """The partial file holds everything, but has not reached the disk or its name."""

    content = state(2, LIMIT)

    def fsync(_: int) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def action() -> None:
        os.fsync = fsync  # of the child alone
        save(folder, 2, content)

    return in_child(action)


@pytest.mark.parametrize("kill", [killed_while_pickling, killed_in_the_data, killed_before_the_move])
def test_a_kill_during_a_checkpoint_leaves_the_previous_one(tmp_path, kill):
    """kill -9 at three moments of a write: the previous checkpoint is found and loads; the next write succeeds."""
    first = save(tmp_path, 1, state(1))
    status, message = kill(tmp_path)
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) in (signal.SIGKILL, signal.SIGXFSZ), (status, message)
    assert list(first.parent.glob(".*.partial"))  # it was in the middle of a write
    assert latest_checkpoint(tmp_path) == (first, 1)
    assert AtomicCheckpointIO().load_checkpoint(first)["weights"].tolist() == [1.0] * 10
    second = save(tmp_path, 2, state(2, LIMIT))
    assert latest_checkpoint(tmp_path) == (second, 2) and sorted(first.parent.iterdir()) == [first, second]


def bytes_read() -> int:
    """By this process so far, from files and the cache alike."""
    return int(Path("/proc/self/io").read_text().split()[1])


@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="counts as Linux does")
def test_a_large_checkpoint_is_not_read_to_be_found(tmp_path, monkeypatch):
    """A hundred gigabytes that are read for their checksums before a run goes on; a cut one is seen all the same."""
    path = save(tmp_path, 1, state(1, 1_000_000))
    monkeypatch.setattr("locus.files.checkpoints.CHECKED", path.stat().st_size - 1)
    before = bytes_read()
    assert latest_checkpoint(tmp_path) == (path, 1)
    assert bytes_read() - before < path.stat().st_size / 20
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(LocusError, match="corrupt"):
        latest_checkpoint(tmp_path)


# --- Finding the checkpoint -----------------------------------------------------------------------------------
def test_the_newest_checkpoint(tmp_path):
    """Step 10 after step 9, whatever the order of writing; partials and other files do not count."""
    for step in (10, 9, 2):
        save(tmp_path, step, state(step))
    (tmp_path / "checkpoints" / ".step-000011.ckpt.partial").write_bytes(b"half")
    (tmp_path / "checkpoints" / "notes.txt").write_text("mine")
    assert latest_checkpoint(tmp_path) == (checkpoint_path(tmp_path, 10), 10)


def test_nothing_to_resume_from(tmp_path):
    """A typo in the path, and a run that was killed before its first checkpoint, are distinguished."""
    with pytest.raises(LocusError, match="resume=.*absent: no such folder") as caught:
        latest_checkpoint(tmp_path / "absent")
    assert "config.yaml" in str(caught.value)
    for _ in range(2):
        with pytest.raises(LocusError, match="no checkpoint in .*checkpoints; start the run anew"):
            latest_checkpoint(tmp_path)
        (tmp_path / "checkpoints").mkdir(exist_ok=True)


def cut(keep: float) -> Callable[[bytes], bytes]:
    """The first part of a file."""
    return lambda whole: whole[: int(len(whole) * keep)]


@pytest.mark.parametrize("damage", [cut(0), cut(0.5), cut(0.99), lambda _: b"not a checkpoint", lambda _: b"\0" * 4096])
def test_a_corrupt_checkpoint_is_named_with_what_to_do(tmp_path, damage):
    """Truncated by a copy or a quota: the file, and the one to fall back to, if there is one."""
    first, second = (save(tmp_path, step, state(step, 1000)) for step in (1, 2))
    second.write_bytes(damage(second.read_bytes()))
    with pytest.raises(LocusError) as caught:
        latest_checkpoint(tmp_path)
    assert f"checkpoint {second} is corrupt" in str(caught.value)
    assert "delete it to resume from step-000001.ckpt" in str(caught.value)
    second.unlink()  # the remedy works
    assert latest_checkpoint(tmp_path) == (first, 1)
    first.write_bytes(damage(first.read_bytes()))
    with pytest.raises(LocusError, match=r"step-000001\.ckpt is corrupt.*start the run anew"):
        latest_checkpoint(tmp_path)


def test_a_foreign_checkpoint(tmp_path):
    """A file of torch's, but not of ours."""
    path = save(tmp_path, 1, {"state_dict": {}})
    with pytest.raises(LocusError, match=f"{path.name} is corrupt"):
        latest_checkpoint(tmp_path)
