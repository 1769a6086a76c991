"""Run files survive a kill at any moment and a full disk; both forms of a table hold the same rows."""

from __future__ import annotations

import errno
import json
import os
import resource
import signal
from collections.abc import Callable, Iterable
from itertools import count
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from locus.errors import LocusError
from locus.files import run_files
from locus.files.run_files import (
    ROLLOUTS,
    VALIDATION,
    XYXY,
    AtomicCheckpointIO,
    StepTable,
    checkpoint_path,
    latest_checkpoint,
    write_json,
)

SCHEMA = pa.schema({"step": pa.int64(), "text": pa.string(), "box": XYXY})


def row(step: int, text: str = "a", box: list[float] | None = None) -> dict[str, Any]:
    """One row of `SCHEMA`."""
    return {"step": step, "text": text, "box": box}


def steps(path: Path) -> list[int]:
    """The step of each row, as pandas reads them."""
    return pd.read_parquet(path)["step"].tolist()


def filled(path: Path, numbers: Iterable[int]) -> StepTable:
    """An open table with one row for each of these steps."""
    table = StepTable(path, SCHEMA, 0)
    for step in numbers:
        table.append(step, [row(step)])
    return table


# --- Tables ---------------------------------------------------------------------------------------------------
def test_rows_are_the_same_in_both_forms(tmp_path):
    """pandas reads the table while the run goes on, and after it; order, nulls and lists are kept."""
    table = StepTable(tmp_path / "t.parquet", SCHEMA, 0)
    table.append(1, [row(1, "a", [0.0, 1.0, 2.5, 3.0]), row(1, "b")])
    table.append(1, [row(1, "c")])  # a second batch of one step
    table.append(12, [row(12, "\u00e9\n\x00")])
    table.append(13, [])
    running = pd.read_parquet(table.path)
    assert running["text"].tolist() == ["a", "b", "c", "\u00e9\n\x00"] and running["step"].tolist() == [1, 1, 1, 12]
    assert running["box"][0].tolist() == [0.0, 1.0, 2.5, 3.0] and running["box"][1] is None
    table.close()
    assert table.path.is_file() and list(tmp_path.iterdir()) == [table.path]
    pd.testing.assert_frame_equal(pd.read_parquet(table.path), running)


def test_many_steps_stay_in_order(tmp_path):
    """Part names that sort as text: step 10 before step 9."""
    table = filled(tmp_path / "t.parquet", [1, 2, 9, 10, 11, 100, 1000])
    assert steps(table.path) == [1, 2, 9, 10, 11, 100, 1000]
    table.close()
    assert steps(table.path) == [1, 2, 9, 10, 11, 100, 1000]


def test_an_empty_table(tmp_path):
    """A run that ends before its first row leaves a table with columns and no rows, not an unreadable folder."""
    table = StepTable(tmp_path / "t.parquet", SCHEMA, 0)
    table.close()
    assert list(pd.read_parquet(table.path).columns) == SCHEMA.names and steps(table.path) == []


@pytest.mark.parametrize("schema", [ROLLOUTS, VALIDATION])
def test_real_tables_hold_answers_without_a_box(tmp_path, schema):
    """A completion that was no box has null, and a column of nulls keeps its type."""
    samples = {pa.int64(): 3, pa.float64(): 0.5, pa.string(): "x", pa.bool_(): True, XYXY: [0.0, 1.0, 2.0, 3.0]}
    full = {field.name: samples[field.type] for field in schema}
    table = StepTable(tmp_path / "t.parquet", schema, 0)
    table.append(3, [full | {"box": None}])
    table.append(3, [full])
    table.close()
    assert pq.read_schema(table.path).equals(schema)
    read = pd.read_parquet(table.path)
    assert read["box"][0] is None and read["box"][1].tolist() == samples[XYXY] and len(read) == 2


@pytest.mark.parametrize("closed", [True, False])
def test_reopening_drops_what_will_be_written_again(tmp_path, closed):
    """Resumed at step 3, steps 4 and 5 come again: rows twice, or rows lost, in both forms of the table."""
    table = filled(tmp_path / "t.parquet", range(1, 6))
    if closed:
        table.close()
    table = StepTable(table.path, SCHEMA, 3)
    assert steps(table.path) == [1, 2, 3]
    for step in (4, 5):
        table.append(step, [row(step)])
    table.close()
    assert steps(table.path) == [1, 2, 3, 4, 5] and list(tmp_path.iterdir()) == [table.path]


@pytest.mark.parametrize("closed", [True, False])
def test_resuming_from_an_earlier_checkpoint_than_before(tmp_path, closed):
    """Finished at 5, resumed at 5 and killed, then, that checkpoint being corrupt, resumed at 3: 4 and 5 must go."""
    filled(tmp_path / "t.parquet", range(1, 6)).close()
    table = StepTable(tmp_path / "t.parquet", SCHEMA, 5)
    table.append(6, [row(6)])
    if closed:
        table.close()
    assert steps(StepTable(table.path, SCHEMA, 3).path) == [1, 2, 3]


def test_reopening_twice_and_appending_to_step_0(tmp_path):
    """The rows kept from before must not be overwritten by rows of step 0, such as a first validation's."""
    filled(tmp_path / "t.parquet", [0, 1]).close()
    table = StepTable(tmp_path / "t.parquet", SCHEMA, 1)
    table.append(0, [row(0)])
    table.append(2, [row(2)])
    table.close()
    assert sorted(steps(table.path)) == [0, 0, 1, 2]


@pytest.mark.parametrize("content", [b"", b"PAR1 not a table", b"\0" * 100])
def test_an_unreadable_table_is_an_error_that_names_it(tmp_path, content):
    """A table that cannot be read is the user's to keep or to move: it is neither overwritten nor ignored."""
    path = tmp_path / "t.parquet"
    path.write_bytes(content)
    with pytest.raises(LocusError, match="t.parquet cannot be read.*move it away"):
        StepTable(path, SCHEMA, 3)
    assert path.read_bytes() == content


# --- A kill at any moment -------------------------------------------------------------------------------------
class Killed(BaseException):
    """Stands for a kill: nothing that catches errors catches it."""


@pytest.fixture
def kill_before(monkeypatch) -> Callable[[int, Callable[[], Any]], bool]:
    """``kill_before(n, action)``: runs it up to its n-th change of the file system; False if it has no n changes."""

    def run(number: int, action: Callable[[], Any]) -> bool:
        left = iter(range(number, -1, -1))
        with monkeypatch.context() as patch:
            for name in ("replace", "rename", "unlink", "remove", "rmdir", "mkdir"):
                original = getattr(os, name)

                def counted(*args: Any, original: Callable = original, **kwargs: Any) -> Any:
                    if next(left) == 0:
                        raise Killed
                    return original(*args, **kwargs)

                patch.setattr(os, name, counted)
            try:
                action()
            except Killed:
                return True
        return False

    return run


# Name: steps of the table before, whether it was closed, what is interrupted, the steps it must still hold.
INTERRUPTED = {
    "close": (False, lambda path: StepTable(path, SCHEMA, 9).close(), [1, 2, 3, 4]),
    "reopen a closed table": (True, lambda path: StepTable(path, SCHEMA, 2), [1, 2]),
    "reopen parts": (False, lambda path: StepTable(path, SCHEMA, 2), [1, 2]),
    "append": (False, lambda path: StepTable(path, SCHEMA, 9).append(5, [row(5)]), [1, 2, 3, 4]),
}


@pytest.mark.parametrize("name", INTERRUPTED)
def test_a_kill_at_any_moment_loses_no_row(tmp_path, kill_before, name):
    """Killed before each single rename, removal or folder: what was whole is whole after the next opening."""
    closed, action, kept = INTERRUPTED[name]
    for number in count():
        path = tmp_path / str(number) / "t.parquet"
        path.parent.mkdir()
        table = filled(path, range(1, 5))
        if closed:
            table.close()
        if not kill_before(number, lambda path=path: action(path)):
            break
        StepTable(path, SCHEMA, kept[-1]).close()
        assert steps(path) == kept, f"killed before change {number} of the file system"
        assert list(path.parent.iterdir()) == [path]
    assert number > 0  # there was something to interrupt


def test_between_the_two_halves_of_a_swap(tmp_path):
    """The state on disk after a kill there: the old table is gone, the new one has not its name yet."""
    table = filled(tmp_path / "t.parquet", range(1, 4))
    table.close()
    table.path.rename(tmp_path / ".t.parquet.partial")
    assert steps(StepTable(table.path, SCHEMA, 3).path) == [1, 2, 3]


@pytest.mark.parametrize("resumed", [True, False])
@pytest.mark.parametrize("name", INTERRUPTED)
def test_a_kill_while_a_file_is_written(tmp_path, monkeypatch, name, resumed):
    """Half a file beside the whole ones: after the kill the table is read as it is, and by the resumed run."""
    closed, action, kept = INTERRUPTED[name]
    table = filled(tmp_path / "t.parquet", range(1, 5))
    if closed:
        table.close()

    def half(_: pa.Table, where: Any, **__: Any) -> None:
        Path(where).write_bytes(b"PAR1 half")
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(run_files.pq, "write_table", half)
        try:
            action(table.path)
            assert name == "reopen parts"  # it writes nothing
        except Killed:
            kept = kept if resumed else [1, 2, 3, 4]
    if resumed:
        StepTable(table.path, SCHEMA, kept[-1]).close()
    assert steps(table.path) == kept


# --- A full disk, and kills by signals, in a child process ----------------------------------------------------
LIMIT = 100_000
"""Bytes that a file in the child process may grow to."""


def in_child(action: Callable[[], Any], limited: bool = False, dies_at_limit: bool = False) -> tuple[int, str]:
    """Runs an action in a forked process: its wait status, and the error it raised as ``type: message``.

    The action makes no tensor: torch's thread pool does not survive a fork, and waiting for it never ends.

    Args:
        limited: no file may grow above LIMIT: the kernel then refuses to write, as a full disk does.
        dies_at_limit: the kernel kills the process at that byte instead.
    """
    receive, send = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            signal.alarm(120)  # a child that hangs is killed
            if limited or dies_at_limit:
                signal.signal(signal.SIGXFSZ, signal.SIG_DFL if dies_at_limit else signal.SIG_IGN)
                resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
                resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT, LIMIT))
            action()
        except BaseException as error:
            number = f" errno {error.errno}" if isinstance(error, OSError) else ""
            os.write(send, f"{type(error).__name__}{number}: {error}".encode()[:4000])
        finally:
            os._exit(0)
    os.close(send)
    with os.fdopen(receive) as pipe:
        message = pipe.read()
    return os.waitpid(child, 0)[1], message


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


def test_a_row_that_does_not_fit(tmp_path):
    """A full disk while rows are written: the operating system's error with its number, and earlier rows readable."""
    table = filled(tmp_path / "t.parquet", [1, 2])
    letters = "".join(map(chr, torch.randint(0x4E00, 0x9FFF, (LIMIT,)).tolist()))  # does not compress below LIMIT
    _, message = in_child(lambda: table.append(3, [row(3, letters)]), limited=True)
    assert message.startswith(f"OSError errno {errno.EFBIG}"), message
    assert steps(StepTable(table.path, SCHEMA, 2).path) == [1, 2]


def test_json_is_replaced_whole_or_not_at_all(tmp_path):
    """run.json is rewritten at the end of a run: on a full disk the one of its start must stay."""
    path = tmp_path / "run.json"
    write_json(path, {"a": [1, 2], "b": None})
    assert json.loads(path.read_text()) == {"a": [1, 2], "b": None} and list(tmp_path.iterdir()) == [path]
    _, message = in_child(lambda: write_json(path, {"a": "x" * 2 * LIMIT}), limited=True)
    assert message.startswith(f"OSError errno {errno.EFBIG}"), message
    assert json.loads(path.read_text()) == {"a": [1, 2], "b": None}


# --- Finding the checkpoint -----------------------------------------------------------------------------------
def test_the_newest_checkpoint(tmp_path):
    """Step 10 after step 9, whatever the order of writing; partials and other files do not count."""
    for step in (10, 9, 2):
        save(tmp_path, step, state(step))
    (tmp_path / "checkpoints" / ".step-000011.ckpt.partial").write_bytes(b"half")
    (tmp_path / "checkpoints" / "notes.txt").write_text("mine")
    assert latest_checkpoint(tmp_path) == (checkpoint_path(tmp_path, 10), 10)


def test_nothing_to_resume_from(tmp_path):
    """A typo in the path, and a run that was killed before its first checkpoint, are told apart."""
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
    second.unlink()  # the mend works
    assert latest_checkpoint(tmp_path) == (first, 1)
    first.write_bytes(damage(first.read_bytes()))
    with pytest.raises(LocusError, match=r"step-000001\.ckpt is corrupt.*start the run anew"):
        latest_checkpoint(tmp_path)


def test_a_foreign_checkpoint(tmp_path):
    """A file of torch's, but not of ours."""
    path = save(tmp_path, 1, {"state_dict": {}})
    with pytest.raises(LocusError, match=f"{path.name} is corrupt"):
        latest_checkpoint(tmp_path)
