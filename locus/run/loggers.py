"""Where a run's scalars go: ``metrics.csv`` and Weights & Biases. conf/logger names these functions."""

from __future__ import annotations

import csv
import os
import sys
import uuid
import warnings
from typing import Literal

from lightning.pytorch.loggers import CSVLogger, Logger, WandbLogger

from locus.errors import LocusError
from locus.run.runtime import RunFolder


def csv_logger(folder: RunFolder) -> Logger:
    """``metrics.csv`` in the run folder; on resume the rows up to the checkpoint are kept."""
    path, aside = folder.path / "metrics.csv", folder.path / ".metrics.csv.old"
    if path.exists() and not aside.exists():  # where both exist, a kill came before the rows were written again
        os.replace(path, aside)
    warnings.filterwarnings("ignore", "Experiment logs directory")  # it is the run folder
    logger = CSVLogger(folder.path, name="", version="", flush_logs_every_n_steps=1)
    if aside.exists():
        lines = aside.read_text().splitlines(keepends=True)
        if not lines or "step" not in lines[0].strip().split(","):
            os.replace(aside, path)
            raise LocusError(f"{path} is not a table of metrics: move it away to resume without it")
        for row in csv.DictReader(line for line in lines if line.endswith("\n")):  # a full disk may leave half a row
            if (step := int(row.pop("step"))) <= folder.last_step:
                logger.log_metrics({name: float(value) for name, value in row.items() if value}, step)
        aside.unlink()
    return logger


def wandb_logger(folder: RunFolder, project: str) -> Logger:
    """Weights & Biases: online when there is a login, else offline, and off where ``WANDB_MODE=disabled``.

    It never prompts. A resumed run keeps its id.
    """
    import wandb  # here, for it takes a third of a second, and many runs log without it

    asked = os.environ.get("WANDB_MODE", "online")
    online = asked == "online" and wandb.login(prompt=False)
    mode: Literal["online", "disabled", "offline"] = (
        "online" if online else "disabled" if asked == "disabled" else "offline"
    )
    identity = folder.path / "wandb_id.txt"
    if not identity.exists():
        identity.write_text(uuid.uuid4().hex[:8])
    settings = wandb.Settings(mode=mode, silent=True, console="off")
    return WandbLogger(
        project=project,
        name=folder.path.name,
        id=identity.read_text(),
        save_dir=folder.path,
        offline=mode == "offline",
        resume="allow" if online and folder.checkpoint else None,
        settings=settings,
    )


def close_loggers() -> None:
    """Ends the W&B run, so that the next job of a sweep gets one of its own."""
    wandb = sys.modules.get("wandb")
    if wandb is not None and wandb.run is not None:
        wandb.finish()
