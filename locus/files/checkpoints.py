"""Checkpoints of a run: a file, or a folder where several ranks write a part each; never half of one."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from torch.distributed.checkpoint import FileSystemReader

from locus.errors import LocusError

PARTS_POSITION = "meta.pt"
"""In a checkpoint whose ranks have written a part each: all that is no tensor (Lightning gives it this name)."""
DEEPSPEED = "checkpoint"
"""In one that DeepSpeed's engine has written: the folder with a file of the weights, and one of each rank's part of
the optimiser's state (Lightning gives it this name)."""
CHECKED = 2**31
"""Bytes of a checkpoint up to which all of it is read for its checksums before a run goes on from it: seconds."""


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
