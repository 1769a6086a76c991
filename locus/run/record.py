"""What a run says of itself: ``run.json`` from its start, ``summary.json`` at its end."""

from __future__ import annotations

import functools
import os
import platform
import subprocess
import time
from importlib.metadata import version
from typing import Any

import torch
from lightning.pytorch.callbacks import Callback

from locus.analysis.diagnoses.shared import forget
from locus.files.run_files import write_json
from locus.run.help import CONF
from locus.run.runtime import RunFolder, keep_configuration

PACKAGES = ("torch", "torchvision", "transformers", "peft", "lightning", "hydra-core", "wandb", "numpy")


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


class Start(Callback):
    """Writes ``run.json`` as known at the start; `finish_record` completes it.

    A run that ``resume=`` continues keeps its record and configuration until its next step begins: until then it may be
    refused. One that has no step left keeps them until `write`.

    Args:
        folder: of the run, with its configuration.
        facts: what else the record says.
    """

    def __init__(self, folder: RunFolder, facts: dict[str, Any]):
        self.folder = folder
        self.record = {
            "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "commit": git_commit(),
            "python": platform.python_version(),
            "versions": {name: version(name) for name in PACKAGES},
            "hardware": hardware(),
            "resumed_from_step": folder.last_step,
            **facts,
        }
        self._is_written, self._has_ended_before = False, folder.checkpoint is not None
        if folder.checkpoint is None:
            self.write()

    def on_train_batch_start(self, *_: Any) -> None:
        """Nothing that is given on resume has been refused."""
        self.write()

    def on_train_batch_end(self, *_: Any) -> None:
        """What the run found out at an earlier end is of another policy now."""
        if self._has_ended_before:
            forget(self.folder.path)
            (self.folder.path / "claims.csv").unlink(missing_ok=True)
            self._has_ended_before = False

    def write(self) -> None:
        """Once, whoever asks."""
        if not self._is_written:
            keep_configuration(self.folder)
            write_json(self.folder.path / "run.json", self.record)
            self._is_written = True


def finish_record(folder: RunFolder, record: dict[str, Any], phases: dict[str, float], **facts: Any) -> None:
    """Adds wall time per phase and what else is known by now to ``run.json``."""
    write_json(folder.path / "run.json", record | {"seconds_per_phase": phases} | facts)


def write_summary(folder: RunFolder, final: dict[str, Any]) -> None:
    """Writes ``summary.json`` of a run that has left everything else: a sweep that is launched again skips it."""
    write_json(folder.path / "summary.json", {"status": "finished", **final})
