"""The locus half of `perf.step_time`: ``python -m perf.locus_step FOLDER RESULT``, then ``separate`` for plain rows.

A real run's step: Lightning's loop, data module, `GRPOModule`, rollout table and metrics file; no validation, no
checkpoint.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import CSVLogger

from locus.images.sources import ImageFiles
from locus.policy.backbone import Backbone
from locus.policy.logprobs import PackedScorer, Scorer, SeparateScorer
from locus.policy.prompts import PixelLimits, PromptBuilder
from locus.policy.rollouts import RolloutDecoding
from locus.policy.vlm import VLM
from locus.run.callbacks import RolloutTable
from locus.run.runtime import quiet_lightning
from locus.tasks.cue_search.corpus import Corpus
from locus.tasks.cue_search.task import CueSearch
from locus.tasks.datamodule import SampleMaker, TaskDataModule
from locus.training.algorithm import Algorithm
from locus.training.grpo import GRPOModule
from locus.training.module import RunParts
from locus.types import Sampling
from perf.step_workload import FRAME, Meter, Workload, answered, forbid_end_token, read_inputs, resident_bytes

PHASES = ("rollout", "reference", "update")
DECODING = RolloutDecoding(32768)


class StepMeter(Callback):
    """Takes a step's phases from the metrics it logs, and what lies between two steps as the phase ``data``."""

    def __init__(self, meter: Meter):
        self.meter = meter

    def on_train_batch_start(self, trainer: Trainer, module: LightningModule, batch: Any, batch_idx: int) -> None:
        self.meter.between("data")
        self.meter.prompt_tokens = batch[0].prompt.length

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        for phase in PHASES:
            self.meter.add(phase, float(trainer.callback_metrics[f"time/{phase}_s"]))
        for group, _ in outputs["groups"]:
            self.meter.rewards += group.rewards
            self.meter.lengths += [len(rollout.completion.token_ids) for rollout in group.rollouts]
        self.meter.step_ended()


def saved_backbone(folder: Path, work: Workload) -> Backbone:
    """Of `perf.step_workload.write_inputs`."""
    return Backbone(FRAME, path=str(folder / "model"), train_vision=bool(work.train_vision))


def build(
    folder: Path,
    work: Workload,
    corpus: Corpus,
    meter: Meter,
    scorer: Scorer,
    backbone: Backbone,
    weights: Callable[[VLM], None] | None = None,
    decoding: RolloutDecoding = DECODING,
) -> tuple[GRPOModule, TaskDataModule]:
    """Module and data of the run; ``weights`` puts adapters into the policy."""
    builder = PromptBuilder(backbone.processor(), PixelLimits())
    make = SampleMaker(CueSearch(corpus, ImageFiles(folder / "pictures")), builder, FRAME)
    data = TaskDataModule(make, work.prompts, 1, work.all_steps, 0, 0)

    def load() -> VLM:
        vlm = backbone.load()
        forbid_end_token(vlm)
        meter.watch_vision(vlm.model)
        return vlm

    def decode(token_ids: torch.Tensor) -> str:
        return answered(builder.decode(token_ids), token_ids.tolist(), work)

    policy = load()
    if weights is not None:
        weights(policy)
    sampling = Sampling(max_new_tokens=work.new_tokens)
    module = GRPOModule(
        RunParts(policy, load, data.task, builder.encode, decode, data.draw, work.all_steps),
        Algorithm(work.group),
        scorer,
        sampling,
        validation_sampling=sampling,
        optimizer=partial(torch.optim.AdamW, lr=1e-6, weight_decay=1e-2),
        warmup_ratio=0.05,
        clip_norm=1.0,
        token_budget=work.token_budget,
        decoding=decoding,
        max_skipped=5,
        seed=0,
    )
    return module, data


def main() -> None:
    folder, result = Path(sys.argv[1]), Path(sys.argv[2])
    quiet_lightning()
    work, corpus = read_inputs(folder)
    torch.set_num_threads(work.threads)
    before, meter = resident_bytes(), Meter()
    scorer = SeparateScorer() if "separate" in sys.argv[3:] else PackedScorer()
    module, data = build(folder, work, corpus, meter, scorer, saved_backbone(folder, work))
    parameters = sum(parameter.numel() for parameter in module.policy.parameters())
    run = result.with_suffix("")  # of this process alone
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=1,
        limit_val_batches=0,
        logger=CSVLogger(run, name="", version="", flush_logs_every_n_steps=1),
        callbacks=[RolloutTable(run, data.task, last_step=0), StepMeter(meter)],
        log_every_n_steps=1,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
    )
    trainer.fit(module, data)
    result.write_text(json.dumps(meter.result(work, parameters, before)))


if __name__ == "__main__":
    main()
