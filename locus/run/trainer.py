"""The Lightning trainer of a run."""

from __future__ import annotations

import sys
from typing import Any

from hydra.utils import instantiate
from lightning import Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.strategies import Strategy
from omegaconf import DictConfig

from locus import ranks
from locus.files.checkpoints import AtomicCheckpointIO
from locus.run.blind_check import BlindCheck
from locus.run.callbacks import ProgressLines, RolloutTable, RunCheckpoint, StopAt, ValidationTable
from locus.run.launch import ObeysSigterm, environment
from locus.run.runtime import RunFolder
from locus.run.settings import PRECISIONS, TrainerSettings
from locus.tasks.task import Task
from locus.training.parallel import DataParallel, PartedOptimizer, Sharded, WeightsAsTheyAre


def build_trainer(
    cfg: DictConfig, settings: TrainerSettings, run: RunFolder, task: Task, start: Callback | None
) -> Trainer:
    """A Lightning trainer whose one epoch is the run; what is written or shown is rank zero's, as ``start`` is."""
    rank, count = ranks.position()
    checkpoints = RunCheckpoint(
        run.path, settings.checkpoint_every, settings.validate_every, settings.steps, settings.keep_checkpoints
    )
    callbacks: list[Callback] = [checkpoints]
    if start is not None:
        kept = run.last_step if run.checkpoint else -1  # a run that begins anew has no rows, not even of step 0
        tables = [table(run.path, task, kept) for table in (RolloutTable, ValidationTable)]
        shown = ("train/reward", "train/loss", f"val/{task.headline}")
        callbacks = [start, *tables, checkpoints, ProgressLines("training", settings.steps, shown)]
        callbacks += instantiate(cfg.callbacks, _convert_="all").values()
    if count > 1:
        callbacks.append(ObeysSigterm())
    if cfg.preflight_blind:
        callbacks.append(BlindCheck(cfg.preflight_blind))
    if settings.stop_at is not None:
        callbacks.append(StopAt(f"val/{task.headline}", settings.stop_at))
    strategy: Strategy | str = DataParallel() if count > 1 else "auto"
    plugins: list[Any] = [AtomicCheckpointIO(), *([environment()] if count > 1 or settings.in_parts else [])]
    if settings.sharded:
        strategy = Sharded(count)
    if deepspeed := settings.strategy == "deepspeed":
        strategy = PartedOptimizer(cfg.optimizer.clip_norm)
        plugins.append(WeightsAsTheyAre(settings.precision == "bf16-mixed"))
    return Trainer(
        accelerator=settings.accelerator,
        precision=None if deepspeed else PRECISIONS[settings.precision],
        devices=settings.local_ranks,
        num_nodes=settings.num_nodes,
        strategy=strategy,
        max_epochs=1,
        val_check_interval=settings.validate_every,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        log_every_n_steps=1,
        logger=[make(run) for make in instantiate(cfg.logger).values()] if rank == 0 else [],
        plugins=plugins,
        callbacks=callbacks,
        enable_model_summary=False,
        enable_progress_bar=sys.stdout.isatty(),
        default_root_dir=run.path,
    )
