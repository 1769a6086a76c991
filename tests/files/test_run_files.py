"""Facts of a run: replaced whole or not at all, and written by one process at a time."""

from __future__ import annotations

import errno
import json
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from locus.files import run_files
from locus.files.run_files import alone, only_writer, write_json, write_text
from tests.support.children import LIMIT, in_child


def test_json_is_replaced_whole_or_not_at_all(tmp_path):
    """run.json is rewritten at the end of a run: on a full disk the one of its start must stay."""
    path = tmp_path / "run.json"
    write_json(path, {"a": [1, 2], "b": None})
    assert json.loads(path.read_text()) == {"a": [1, 2], "b": None} and list(tmp_path.iterdir()) == [path]
    _, message = in_child(lambda: write_json(path, {"a": "x" * 2 * LIMIT}), limited=True)
    assert message.startswith(f"OSError errno {errno.EFBIG}"), message
    assert json.loads(path.read_text()) == {"a": [1, 2], "b": None}


def test_what_is_read_and_written_anew_by_many_loses_nothing(tmp_path):
    """Two jobs of a sweep end at once, and one's row of scores.csv is gone."""
    file = tmp_path / "count"
    file.write_text("0")

    def add_one(_: int) -> None:
        with alone(file):
            before = int(file.read_text())
            time.sleep(0.01)
            write_text(file, str(before + 1))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(add_one, range(16)))
    assert file.read_text() == "16"


def test_a_second_writer_is_refused(tmp_path):
    """It would tear the tables of a run that goes on; once that has ended, or was killed, nobody is kept out."""

    def enters() -> None:
        with only_writer(tmp_path / "run"):
            pass

    def is_killed_inside() -> None:
        with only_writer(tmp_path / "run"):
            if (worker := os.fork()) == 0:  # it outlives this process
                time.sleep(60)
                os._exit(0)
            (tmp_path / "worker").write_text(str(worker))
            os.kill(os.getpid(), signal.SIGKILL)

    with only_writer(tmp_path / "run"):
        _, error = in_child(enters)
    assert error.startswith(f"LocusError: {tmp_path / 'run'}: process {os.getpid()} on ") and ".writer" in error
    assert in_child(enters) == (0, "")
    assert in_child(is_killed_inside)[0] == signal.SIGKILL
    entered = in_child(enters)
    os.kill(int((tmp_path / "worker").read_text()), signal.SIGKILL)  # it was still there
    assert entered == (0, "")


def test_a_file_system_without_locks_keeps_nobody_out(tmp_path, monkeypatch):
    """Some that a cluster shares know none: a run there is as it was without."""

    def unknown(*_: Any) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(run_files.fcntl, "lockf", unknown)
    with only_writer(tmp_path):
        assert (tmp_path / ".writer").read_text().startswith(f"process {os.getpid()} on ")
    assert (tmp_path / ".writer").read_text() == ""
