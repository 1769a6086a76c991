"""What a run leaves on disk, written so that a kill at any moment loses nothing that was whole."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import platform
import shutil
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from lightning.fabric.plugins import TorchCheckpointIO
from torch.distributed.checkpoint import FileSystemReader

from locus.errors import LocusError

BEGUN_WITH = ".hydra/resume.yaml"
"""The configuration with its interpolations; not Hydra's config.yaml, which any later call for this folder rewrites."""
WRITER = ".writer"
"""Who writes into the folder; it stays behind, and counts only while that process holds its lock."""
PARTS_POSITION = "meta.pt"
"""In a checkpoint whose ranks have written a part each: all that is no tensor (Lightning gives it this name)."""
DEEPSPEED = "checkpoint"
"""In one that DeepSpeed's engine has written: the folder with a file of the weights, and one of each rank's part of
the optimiser's state (Lightning gives it this name)."""
CHECKED = 2**31
"""Bytes of a checkpoint up to which all of it is read for its checksums before a run goes on from it: seconds."""
XYXY = pa.list_(pa.float64())
ROLLOUTS = pa.schema(
    {
        "step": pa.int64(),
        "prompt_id": pa.string(),
        "rollout": pa.int64(),
        "image_path": pa.string(),
        "bin": pa.string(),
        "expression": pa.string(),
        "text": pa.string(),
        "status": pa.string(),
        "target": XYXY,
        "box": XYXY,
        "written": XYXY,
        "iou": pa.float64(),
        "format": pa.float64(),
        "reward": pa.float64(),
        "advantage": pa.float64(),
        "logprob_sum": pa.float64(),
        "length": pa.int64(),
        "finished": pa.bool_(),
        "question": pa.string(),
        "expected": pa.string(),
        "correct": pa.float64(),
    }
)
"""One row per rollout. target and box: file frame; written: as in the text, in the frame the policy speaks; expression:
what stands for the cue in the prompt, empty where the cue is shown. bin, expression, target, box, written and iou are
empty for questions; question, expected (the right answer) and correct are for cue search."""
VALIDATION = pa.schema(
    {
        "step": pa.int64(),
        "example_id": pa.string(),
        "image_id": pa.string(),
        "image_path": pa.string(),
        "bin": pa.string(),
        "area_ratio": pa.float64(),
        "text": pa.string(),
        "status": pa.string(),
        "target": XYXY,
        "box": XYXY,
        "iou": pa.float64(),
        "format": pa.float64(),
        "reward": pa.float64(),
    }
)
"""One row per validation sample and step."""


def with_columns(schema: pa.Schema, columns: Mapping[str, type]) -> pa.Schema:
    """The schema with a task's own columns, texts or numbers, behind it.

    A column that the schema has already is that one; raises LocusError where it is of another type.
    """
    for name, kind in columns.items():
        wanted = pa.string() if kind is str else pa.float64()
        if name not in schema.names:
            schema = schema.append(pa.field(name, wanted))
        elif schema.field(name).type != wanted:
            raise LocusError(f"the task's column {name} is {schema.field(name).type} in every run's tables: rename it")
    return schema


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


def read_rows(path: Path, schema: pa.Schema) -> pd.DataFrame:
    """The rows of a `StepTable`; of a run that has written none yet, none, with their columns."""
    if path.is_dir() and not any(path.glob("*.parquet")):
        return schema.empty_table().to_pandas()
    return pd.read_parquet(path)


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


class StepTable:
    """A Parquet table that grows by steps: a folder of parts while the run goes on, one file once it is closed.

    ``pandas.read_parquet(path)`` reads both. Reopening it drops the rows of steps after ``last_step``, those that a
    resumed run will write again. Raises LocusError when what is there cannot be read.
    """

    def __init__(self, path: Path, schema: pa.Schema, last_step: int):
        self.path, self.schema = path, schema
        self._partial, self._old = (path.with_name(f".{path.name}.{end}") for end in ("partial", "old"))
        if self._partial.exists() and not path.exists():  # a kill between the two halves of `_swap`
            os.replace(self._partial, path)
        remove(self._partial)
        remove(self._old)
        if path.exists():
            kept = self._read().filter(pa.compute.field("step") <= last_step)
            self._partial.mkdir()
            pq.write_table(kept, self._partial / _part(0, 0))
            self._swap()
        path.mkdir(parents=True, exist_ok=True)

    def append(self, step: int, rows: Iterable[dict[str, Any]]) -> None:
        """Writes rows of ``step`` as the next part."""
        number = len(list(self.path.glob(f"{step:08d}-*.parquet")))
        partial = self.path / ".next.partial"
        pq.write_table(pa.Table.from_pylist(list(rows), schema=self.schema), partial)
        os.replace(partial, self.path / _part(step, number))

    def close(self) -> None:
        """Merges the parts into one file."""
        pq.write_table(self._read(), self._partial)
        self._swap()

    def _read(self) -> pa.Table:
        try:
            if self.path.is_dir() and not any(self.path.glob("*.parquet")):
                return self.schema.empty_table()
            return pq.read_table(self.path, schema=self.schema)
        except (OSError, pa.ArrowInvalid) as error:
            raise LocusError(f"{self.path} cannot be read ({error}): move it away to resume without it") from error

    def _swap(self) -> None:
        """Puts the partial table, which is whole by now, in the table's place."""
        os.replace(self.path, self._old)
        os.replace(self._partial, self.path)
        remove(self._old)


def _part(step: int, number: int) -> str:
    return f"{step:08d}-{number:04d}.parquet"


def remove(path: Path) -> None:
    """Deletes a file or a folder; nothing where there is neither."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside its place, flushes it to disk, then moves it there: never half a checkpoint."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Raises LocusError when the disk is full; the previous checkpoint stays whole."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.partial")
        try:
            with partial.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
        except (OSError, RuntimeError) as error:  # torch's zip writer turns a full disk into a RuntimeError
            partial.unlink(missing_ok=True)
            raise could_not_be_written(path, error) from error
        os.replace(partial, path)

    def load_checkpoint(self, path: str | Path, *arguments: Any, **options: Any) -> dict[str, Any]:
        """Raises LocusError for one whose ranks have written a part each."""
        if Path(path).is_dir():
            (strategy,) = reader_of(Path(path))
            raise LocusError(f"checkpoint {path} is in parts: resume with trainer.strategy={strategy}")
        return super().load_checkpoint(path, *arguments, **options)


def could_not_be_written(path: Path, error: BaseException) -> LocusError:
    """What to say of a checkpoint; torch turns a full disk into several kinds of errors."""
    return LocusError(
        f"checkpoint {path} could not be written ({error}): free disk space, then resume; "
        "the previous checkpoint is whole"
    )


def checkpoint_path(folder: Path, step: int) -> Path:
    """Where the checkpoint of this step stands."""
    return folder / "checkpoints" / f"step-{step:06d}.ckpt"


def checkpoints(folder: Path) -> list[Path]:
    """A run's checkpoints, the newest last: by length first, as steps may have more digits than names are filled to."""
    return sorted((folder / "checkpoints").glob("step-*.ckpt"), key=lambda path: (len(path.name), path.name))


def latest_checkpoint(folder: Path) -> tuple[Path, int]:
    """Path and step of a run's newest checkpoint; raises LocusError when there is none, or it is corrupt."""
    if not folder.is_dir():
        raise LocusError(f"resume={folder}: no such folder; give the folder of a run, which holds config.yaml")
    paths = checkpoints(folder)
    if not paths:
        raise LocusError(f"resume={folder}: no checkpoint in {folder / 'checkpoints'}; start the run anew")
    path = paths[-1]
    try:
        position = _position_in_parts(path) if path.is_dir() else _position_in_file(path)
        step = position["locus"]["finished_steps"]
    except Exception as error:  # torch raises many kinds for a truncated or foreign file
        earlier = f"delete it to resume from {paths[-2].name}" if len(paths) > 1 else "start the run anew"
        raise LocusError(f"checkpoint {path} is corrupt ({type(error).__name__}): {earlier}") from error
    return path, step


def reader_of(checkpoint: Path) -> tuple[str, ...]:
    """The values of ``trainer.strategy`` that read it."""
    if not checkpoint.is_dir():
        return "auto", "ddp"
    return ("deepspeed",) if (checkpoint / DEEPSPEED).is_dir() else ("fsdp2",)


def _position_in_file(path: Path) -> dict[str, Any]:
    """The checkpoint, its tensors not yet read; raises an error of some kind where it is not whole."""
    _check_file(path)
    return torch.load(path, map_location="cpu", weights_only=True, mmap=True)


def _check_file(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:  # its directory is at the end of the file
        if path.stat().st_size <= CHECKED and (bad := archive.testzip()) is not None:
            raise ValueError(f"checksum of {bad}")


def _position_in_parts(path: Path) -> dict[str, Any]:
    """The checkpoint without its tensors; raises an error of some kind where a part is missing or cut."""
    if reader_of(path) == ("deepspeed",):
        position = torch.load(path / PARTS_POSITION, map_location="cpu", weights_only=True)
        written = list((path / DEEPSPEED).glob("*.pt"))
        for file in written:
            _check_file(file)
        if len(written) != position["ranks"] + 1:  # the weights are one
            raise ValueError(f"{len(written)} parts")
        return position
    for place in FileSystemReader(path).read_metadata().storage_data.values():
        if (path / place.relative_path).stat().st_size < place.offset + place.length:
            raise ValueError(f"{place.relative_path} is cut")
    return torch.load(path / PARTS_POSITION, map_location="cpu", weights_only=True)
