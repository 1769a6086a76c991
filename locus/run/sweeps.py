"""The jobs of a sweep (``-m``): their folders, what a second launch finds in them, and a word on those that failed."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
import sys
from datetime import datetime
from itertools import count
from pathlib import Path
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import InterpolationResolutionError

from locus.analysis.runs import flat
from locus.errors import LocusError
from locus.files.checkpoints import checkpoints, latest_checkpoint
from locus.files.run_files import BEGUN_WITH, WRITER, write_json

log = logging.getLogger("locus")
FAILURES = ".failures"
"""In the sweep's folder: one file for each job of the last launch that failed."""
DEVICES = ".devices"
"""In the sweep's folder while it runs: one file for each process beside others, see `own_device`."""


def in_sweep() -> bool:
    """This process runs a job of a sweep."""
    return HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN


def job_of_launch() -> str | None:
    """When this job's sweep was launched, a space, and the job's number; None where no such launch is recorded."""
    if not in_sweep():
        return None
    job = HydraConfig.get()
    # Hydra's own sweeper writes this file at each launch, before any job; two launches into one folder differ in it.
    launch = Path(job.sweep.dir) / "multirun.yaml"
    if not launch.exists():
        return None
    return f"{datetime.fromtimestamp(launch.stat().st_mtime).isoformat()} {job.job.num:06d}"


def folder_name(overrides: str) -> str:
    """``a=1,b=x/y`` as a job's folder ``a-1__b-y_HASH``: the same for every launch, and to be given without quotes.

    Of a path the last part stays. A text that had to be changed or cut ends in the hash of the whole, so that no two
    jobs share a folder.
    """
    name = re.sub(r"(?<==)[^,=]*/", "", overrides)
    whole, name = (text.replace("=", "-").replace(",", "__") for text in (overrides, name))
    name = re.sub(r"[^\w.+-]", "_", name, flags=re.ASCII)[:100]
    return (name if name == whole else f"{name}_{hashlib.sha256(overrides.encode()).hexdigest()[:8]}") or "run"


OmegaConf.register_new_resolver("folder_name", folder_name, replace=True)


# --- Beside each other ------------------------------------------------------------------------------------------
_own_device: list[str] = []


def own_device(sweep: str) -> str:
    """CUDA_VISIBLE_DEVICES of this process's jobs: of the devices that the command sees, the next; empty without any.

    A process keeps it for all of its jobs, as CUDA does: which device it uses is settled when it begins.
    """
    if not _own_device:
        given = os.environ.get("CUDA_VISIBLE_DEVICES")
        seen = [str(index) for index in range(torch.cuda.device_count())] if given is None else given.split(",")
        _own_device.append(seen[_ticket(Path(sweep) / DEVICES) % len(seen)] if seen else "")
    return _own_device[0]


def _ticket(folder: Path) -> int:
    """0 for the process that comes first, 1 for the next."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in count():
        try:
            (folder / str(number)).open("x").close()
            return number
        except FileExistsError:
            continue
    raise AssertionError


OmegaConf.register_new_resolver("own_device", own_device, replace=True)


def number_of(devices: int | str) -> int:
    """``trainer.devices``, for a queue: it is asked before there is a node to count on. Raises LocusError for auto."""
    if not isinstance(devices, int):
        raise LocusError(f"trainer.devices={devices}: give hydra/launcher=slurm the number of each node's GPUs")
    return devices


OmegaConf.register_new_resolver("number_of", number_of, replace=True)


# --- Launched again -------------------------------------------------------------------------------------------
def finished_before(cfg: DictConfig) -> dict[str, Any] | None:
    """Final numbers of this job where an earlier launch of the sweep has finished it.

    Raises LocusError when the run in its folder has other settings.
    """
    folder = Path(HydraConfig.get().runtime.output_dir)
    if not in_sweep() or not (folder / "summary.json").is_file():
        return None
    summary = json.loads((folder / "summary.json").read_text())
    if summary.pop("status") != "finished":
        return None
    check_same(folder, cfg)
    log.info("%s: finished by an earlier launch, skipped", folder)
    return summary


def resume_point(folder: Path, cfg: DictConfig) -> tuple[Path | None, int]:
    """Newest checkpoint and its step of the run that an earlier launch of the sweep began in this folder.

    Without one (None, 0): what the run had written is removed. Raises LocusError when it has other settings.
    """
    check_same(folder, cfg)
    if checkpoints(folder):
        checkpoint, step = latest_checkpoint(folder)
        log.info("%s: begun by an earlier launch, resumes after step %d", folder, step)
        return checkpoint, step
    for path in folder.iterdir():
        if path.is_dir() and path.name != ".hydra":
            shutil.rmtree(path)
        elif (
            path.is_file() and path.suffix != ".log" and path.name != WRITER
        ):  # Hydra, and this process, have them open
            path.unlink()
    return None, 0


def check_same(folder: Path, cfg: DictConfig) -> None:
    """Raises LocusError unless the run in this folder was begun with these settings."""
    try:
        earlier = _settings(OmegaConf.load(folder / BEGUN_WITH))
    except (OSError, ValueError) as error:
        raise LocusError(f"{folder} cannot be resumed ({error}): remove it, or give another folder") from error
    asked = _settings(OmegaConf.create(OmegaConf.to_yaml(cfg)))
    names = sorted(name for name in earlier | asked if earlier.get(name, "") != asked.get(name, ""))
    if names:
        changes = ", ".join(f"{name}: {earlier.get(name, 'none')}, now {asked.get(name, 'none')}" for name in names)
        raise LocusError(
            f"its folder holds a run with other settings ({changes}): "
            "remove it, or give the sweep another folder (hydra.sweep.dir)"
        )


def _settings(cfg: DictConfig | ListConfig) -> dict[str, Any]:
    plain: Any = OmegaConf.to_container(cfg, resolve=False)
    settings = flat(plain)
    settings.pop("resume", None)
    return settings


# --- Failed jobs ----------------------------------------------------------------------------------------------
def record_failure(message: str) -> None:
    """Notes that this job failed, for the process that launched the sweep."""
    path = failure_file()
    path.parent.mkdir(exist_ok=True)
    write_json(path, {"folder": HydraConfig.get().runtime.output_dir, "message": message})


def failure_file() -> Path:
    """Of this job, which is there once it has failed in this launch."""
    job = HydraConfig.get()
    return Path(job.sweep.dir) / FAILURES / f"{job.job.num:06d}.json"


class FailedJobs(Callback):
    """Ends a sweep in which jobs failed with a line for each and exit status 2, once all have been tried.

    Args:
        again: key that is given the sweep's folder to resume it; null for a command that begins anew.
    """

    def __init__(self, again: str | None = None):
        self.again = again

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Forgets the failures of an earlier launch, and its processes.

        A launcher's settings are read here first: what Hydra meets later it puts below a traceback of its own.
        """
        try:
            OmegaConf.to_container(config.hydra.launcher, resolve=True)
        except InterpolationResolutionError as error:
            cause: BaseException | None = error
            while cause is not None and not isinstance(cause, LocusError):
                cause = cause.__cause__ or cause.__context__
            if cause is not None:
                print(f"locus: {cause}", file=sys.stderr, flush=True)
                sys.exit(2)
        for name in (FAILURES, DEVICES):
            shutil.rmtree(Path(config.hydra.sweep.dir) / name, ignore_errors=True)

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        """Leaves with status 2 if a job failed."""
        sweep = Path(config.hydra.sweep.dir)
        shutil.rmtree(sweep / DEVICES, ignore_errors=True)
        failures = [json.loads(file.read_text()) for file in sorted((sweep / FAILURES).glob("*.json"))]
        if not failures:
            return
        for failure in failures:
            print(f"locus: {failure['folder']}: {' '.join(failure['message'].split())}", file=sys.stderr)
        remedy = f"; the same command with {self.again}={sweep} resumes what is not finished" if self.again else ""
        print(f"locus: {len(failures)} of the sweep's jobs failed{remedy}", file=sys.stderr, flush=True)
        sys.exit(2)
