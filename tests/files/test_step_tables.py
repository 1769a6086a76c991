"""Tables of a run: both forms hold the same rows, and neither a kill nor a full disk loses one."""

from __future__ import annotations

import errno
import os
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
from locus.files.step_tables import ROLLOUTS, VALIDATION, XYXY, StepTable, with_columns
from tests.support.children import LIMIT, in_child

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
        patch.setattr(pq, "write_table", half)
        try:
            action(table.path)
            assert name == "reopen parts"  # it writes nothing
        except Killed:
            kept = kept if resumed else [1, 2, 3, 4]
    if resumed:
        StepTable(table.path, SCHEMA, kept[-1]).close()
    assert steps(table.path) == kept


# --- A full disk, and kills by signals, in a child process ----------------------------------------------------
def test_a_row_that_does_not_fit(tmp_path):
    """A full disk while rows are written: the operating system's error with its number, and earlier rows readable."""
    table = filled(tmp_path / "t.parquet", [1, 2])
    letters = "".join(map(chr, torch.randint(0x4E00, 0x9FFF, (LIMIT,)).tolist()))  # does not compress below LIMIT
    _, message = in_child(lambda: table.append(3, [row(3, letters)]), limited=True)
    assert message.startswith(f"OSError errno {errno.EFBIG}"), message
    assert steps(StepTable(table.path, SCHEMA, 2).path) == [1, 2]


# --- Columns --------------------------------------------------------------------------------------------------
def test_a_tasks_own_columns_are_added_once():
    """A column that every run has already is not a second one, which no reader could open; another type is refused."""
    schema = with_columns(ROLLOUTS, {"correct": float, "piece": str})
    assert schema.names == [*ROLLOUTS.names, "piece"]
    with pytest.raises(LocusError, match="column text is string.*rename it"):
        with_columns(ROLLOUTS, {"text": float})
