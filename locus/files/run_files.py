"""Small files of a run, and the locks around them: a kill or a full disk loses nothing that was whole."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import platform
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from locus.errors import LocusError

BEGUN_WITH = ".hydra/resume.yaml"
"""The configuration with its interpolations; not Hydra's config.yaml, which any later call for this folder rewrites."""
CHOICES = ".hydra/choices.yaml"
"""Config group -> option, as the run began; Hydra's own record of them is in hydra.yaml, which is rewritten as well."""
WRITER = ".writer"
"""Who writes into the folder; it stays behind, and counts only while that process holds its lock."""


def write_text(path: Path, content: str) -> None:
    """Replaces the file in one move."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(content, encoding="utf-8")
    os.replace(partial, path)


def write_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Replaces a file of JSON lines in one move; raises LocusError when the folder cannot be written."""
    try:
        write_text(path, "".join(json.dumps(row) + "\n" for row in rows))
    except OSError as error:
        raise LocusError(f"{path}: cannot be written ({error}); make room or choose another hydra.run.dir") from error


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Replaces the file in one move."""
    write_text(path, json.dumps(content, indent=2) + "\n")


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Waits until no other process is inside for the same file: it may be read, and written anew, and loses nothing."""
    with path.with_name(f".{path.name}.lock").open("w") as lock:
        with suppress(OSError):  # some network file systems know no locks
            fcntl.flock(lock, fcntl.LOCK_EX)  # until it is closed, or its process ends
        yield


@contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """Keeps a second process from writing into a run's folder, which is made when missing, while this one does.

    Raises LocusError that names the first one. A killed process keeps nobody out, nor do workers that outlive it: its
    lock is of the kind (POSIX) that they do not inherit.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / WRITER
    with path.open("a+") as lock:
        try:
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:  # others: a network file system that knows no locks
            if error.errno in (errno.EACCES, errno.EAGAIN):
                lock.seek(0)
                raise LocusError(
                    f"{folder}: {lock.read() or 'another process'} writes into it: wait for its end or stop it, or "
                    f"give another folder; if there is no such process, remove {path}"
                ) from error
        lock.truncate(0)
        lock.write(f"process {os.getpid()} on {platform.node()}")
        lock.flush()
        try:
            yield
        finally:
            lock.truncate(0)


def remove(path: Path) -> None:
    """Deletes a file or a folder; nothing where there is neither."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
