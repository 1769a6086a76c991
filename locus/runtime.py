"""A run around the algorithm: its folder, record, loggers, and the one place where errors become words."""

from __future__ import annotations

import contextlib
import csv
import errno
import functools
import logging
import os
import platform
import resource
import subprocess
import sys
import time
import uuid
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, NoReturn

import hydra
import torch
import wandb
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from lightning.pytorch.loggers import CSVLogger, Logger, WandbLogger
from omegaconf import DictConfig, OmegaConf

from locus.errors import LocusError
from locus.run_files import latest_checkpoint, write_json

log = logging.getLogger("locus")
CONF = Path(__file__).resolve().parent.parent / "conf"
PACKAGES = ("torch", "torchvision", "transformers", "lightning", "hydra-core", "wandb", "numpy")
NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(frozen=True)
class RunFolder:
    """Where a run writes, and from where it goes on."""

    path: Path
    checkpoint: Path | None = None
    last_step: int = 0
    """Finished steps of the checkpoint; 0 for a new run."""


def open_run(cfg: DictConfig) -> tuple[DictConfig, RunFolder]:
    """The run's folder and configuration; with ``resume=`` those of the earlier run, with this call's dotted overrides.

    Raises LocusError when there is nothing whole to resume from, or a group is overridden on resume.
    """
    if OmegaConf.is_missing(cfg, "resume"):
        folder = Path(HydraConfig.get().runtime.output_dir)
        OmegaConf.save(cfg, folder / "config.yaml")
        return cfg, RunFolder(folder)
    folder = Path(cfg.resume)
    checkpoint, step = latest_checkpoint(folder)
    changes = [text for text in HydraConfig.get().overrides.task if not text.startswith("resume=")]
    groups = [text for text in changes if "." not in text.split("=")[0] and text.split("=")[0] not in ("seed", "name")]
    if groups:
        raise LocusError(
            f"resume={folder}: {' '.join(groups)} would change the run; only dotted keys may be overridden"
        )
    try:
        saved = OmegaConf.load(folder / "config.yaml")
    except (OSError, ValueError) as error:
        raise LocusError(f"resume={folder}: config.yaml cannot be read ({error})") from error
    return OmegaConf.merge(saved, OmegaConf.from_dotlist(changes)), RunFolder(folder, checkpoint, step)


def entry_point(main: Callable[[DictConfig], Any]) -> Callable[[DictConfig], Any]:
    """Turns a user's wrong input into one line and exit status 2; a full disk and an interrupt, too.

    Any other error is a defect and keeps its traceback. What happened is written to ``summary.json``.
    """

    @functools.wraps(main)
    def guarded(cfg: DictConfig) -> Any:
        try:
            return main(cfg)
        except LocusError as error:
            _give_up(cfg, "failed", str(error), 2)
        except hydra.errors.InstantiationException as error:
            cause = error.__cause__
            while cause is not None and not isinstance(cause, LocusError):
                cause = cause.__cause__
            if cause is None:
                raise
            _give_up(cfg, "failed", str(cause), 2)
        except OSError as error:
            if error.errno not in NO_SPACE:
                raise
            _give_up(cfg, "failed", f"no space left to write {error.filename}: free some, then resume", 2)
        except (KeyboardInterrupt, SystemExit) as error:
            if isinstance(error, SystemExit) and not isinstance(error.__context__, KeyboardInterrupt):
                raise
            _give_up(cfg, "interrupted", "interrupted; go on with resume=<this run's folder>", 130)

    return guarded


def _give_up(cfg: DictConfig, status: str, message: str, code: int) -> NoReturn:
    folder = run_folder(cfg)
    if folder.is_dir():
        with contextlib.suppress(OSError):  # the disk may be what is full
            write_json(folder / "summary.json", {"status": status, "message": message})
    print(f"locus: {message}", file=sys.stderr, flush=True)
    sys.exit(code)


def run_folder(cfg: DictConfig) -> Path:
    """The folder of this run: the resumed one, or Hydra's."""
    if "resume" in cfg and not OmegaConf.is_missing(cfg, "resume"):
        return Path(cfg.resume)
    return Path(HydraConfig.get().runtime.output_dir)


def csv_logger(folder: RunFolder) -> Logger:
    """``metrics.csv`` in the run folder; on resume the rows up to the checkpoint are kept."""
    path = folder.path / "metrics.csv"
    rows = []
    if path.exists():
        with path.open(newline="") as file:
            rows = [row for row in csv.DictReader(file) if int(row["step"]) <= folder.last_step]
        path.unlink()
    warnings.filterwarnings("ignore", "Experiment logs directory")  # it is the run folder, and what was in it is kept
    logger = CSVLogger(folder.path, name="", version="", flush_logs_every_n_steps=1)
    for row in rows:
        step = int(row.pop("step"))
        logger.log_metrics({name: float(value) for name, value in row.items() if value}, step)
    return logger


def wandb_logger(folder: RunFolder, project: str) -> Logger:
    """Weights & Biases: online when there is a login, else offline; it never prompts. A resumed run keeps its id."""
    online = os.environ.get("WANDB_MODE", "online") == "online" and wandb.login(prompt=False)
    identity = folder.path / "wandb_id.txt"
    if not identity.exists():
        identity.write_text(uuid.uuid4().hex[:8])
    settings = wandb.Settings(mode="online" if online else "offline", silent=True, console="off")
    return WandbLogger(
        project=project,
        name=folder.path.name,
        id=identity.read_text(),
        save_dir=folder.path,
        offline=not online,
        resume="allow" if online and folder.checkpoint else None,
        settings=settings,
    )


def quiet_lightning() -> None:
    """Keeps Lightning's advertisements and notes on what locus does on purpose out of the terminal."""
    logging.getLogger("lightning.pytorch.utilities.rank_zero").setLevel(logging.WARNING)
    for message in ("isinstance.treespec, LeafSpec", "The '.*_dataloader' does not have many workers"):
        warnings.filterwarnings("ignore", f".*{message}")


def hardware() -> dict[str, Any]:
    """What the run ran on."""
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {"platform": platform.platform(), "cpus": os.cpu_count(), "threads": torch.get_num_threads(), "gpus": gpus}


def git_commit() -> str | None:
    """Commit of the checkout that the package lies in, with ``+changes`` when it is not clean; None outside one."""
    git = functools.partial(subprocess.run, cwd=CONF.parent, capture_output=True, text=True, check=False)
    try:
        head = git(["git", "rev-parse", "HEAD"])
        changes = git(["git", "status", "--porcelain", "--untracked-files=no"])
    except FileNotFoundError:
        return None
    return head.stdout.strip() + ("+changes" if changes.stdout.strip() else "") if head.returncode == 0 else None


def start_record(folder: RunFolder, facts: dict[str, Any]) -> dict[str, Any]:
    """Writes ``run.json`` as known at the start; `finish_record` completes it."""
    record = {
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "commit": git_commit(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in PACKAGES},
        "hardware": hardware(),
        "resumed_from_step": folder.last_step,
        **facts,
    }
    write_json(folder.path / "run.json", record)
    return record


def finish_record(folder: RunFolder, record: dict[str, Any], phases: dict[str, float], final: dict[str, float]) -> None:
    """Adds wall time per phase and peak memory to ``run.json`` and writes ``summary.json``."""
    facts = {"seconds_per_phase": phases, "peak_memory_gb": peak_memory_gb()}
    write_json(folder.path / "run.json", record | facts)
    write_json(folder.path / "summary.json", {"status": "finished", **final})


def peak_memory_gb() -> float:
    """Peak of the GPU's allocator where there is one, else of the process's resident memory, in GB."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1e9
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def differences(ours: DictConfig, group: str, preset: str) -> list[str]:
    """``key: ours (preset: theirs)`` for each setting in which a config group departs from one of its presets."""
    known = GlobalHydra.instance().is_initialized()
    with contextlib.nullcontext() if known else hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        theirs = hydra.compose("train", [f"{group}={preset}"])[group]
    return _differences(OmegaConf.to_container(ours), OmegaConf.to_container(theirs), "")


def _differences(ours: dict[str, Any], theirs: dict[str, Any], prefix: str) -> list[str]:
    lines = []
    for key, value in ours.items():
        other = theirs.get(key)
        if isinstance(value, dict) and isinstance(other, dict):
            lines += _differences(value, other, f"{prefix}{key}.")
        elif value != other:
            lines.append(f"{prefix}{key}: {value} (paper: {other})")
    return lines
