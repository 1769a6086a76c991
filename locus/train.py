"""Post-trains a policy: ``python -m locus.train`` (conf/train.yaml). Wires; the algorithm is in `grpo.module`."""

from __future__ import annotations

import logging
from dataclasses import replace
from functools import partial
from typing import Any

import hydra
import pandas as pd
import torch
from hydra.utils import instantiate
from lightning import Trainer, seed_everything
from lightning.pytorch.callbacks import EarlyStopping
from omegaconf import DictConfig, OmegaConf

from locus.analysis.comparison import AFTER, BEFORE, compare, cue_search_section
from locus.analysis.pages.run import write_run_report
from locus.analysis.run_metrics import final_validation, phase_seconds, read_metrics, save_curve, validation_table
from locus.analysis.tables import as_text
from locus.boxes import parse_frame
from locus.errors import LocusError
from locus.evaluation.evaluator import Evaluator
from locus.files.run_files import AtomicCheckpointIO
from locus.images.sources import ImageSource
from locus.policy.backbone import Backbone
from locus.policy.lora import merged_state
from locus.policy.prompts import CueCollator, QuestionCollator
from locus.run.callbacks import RolloutTable, RunCheckpoint, TableCallback, ValidationTable
from locus.run.loggers import close_loggers
from locus.run.runtime import (
    RunFolder,
    differences,
    entry_point,
    finish_record,
    open_run,
    quiet_lightning,
    start_record,
    write_summary,
)
from locus.run.sweeps import finished_before
from locus.tasks.cue_search.audits import audited_corpus
from locus.tasks.cue_search.corpus import Corpus
from locus.tasks.cue_search.cues import Cue
from locus.tasks.datamodule import CueDataModule
from locus.tasks.mixture import MixedDataModule
from locus.tasks.preflight import preflight
from locus.training.module import PolicyModule, RunParts

log = logging.getLogger("locus")


WHOLE_NUMBERS = (
    *(f"trainer.{name}" for name in ("steps", "prompts_per_step", "validation_batch", "validate_every")),
    *("trainer.checkpoint_every", "trainer.keep_checkpoints", "preflight_prompts", "rollout.token_budget"),
    *("data.train_examples", "data.validation_examples"),
    *("rollout.sampling.max_new_tokens", "rollout.validation.max_new_tokens", "algorithm.mini_batches"),
)
"""Keys that are counts."""


def check_settings(cfg: DictConfig) -> None:
    """Raises LocusError for a setting that would fail, or mislead, only later in the run."""
    for key in WHOLE_NUMBERS:
        value = OmegaConf.select(cfg, key)
        if not isinstance(value, int) or value < 1:
            raise LocusError(f"{key}={value}: give a whole number from 1 on")
    if not isinstance(cfg.seed, int):
        raise LocusError(f"seed={cfg.seed}: give a whole number")
    for name in ("sampling", "validation"):
        sampling = cfg.rollout[name]
        if sampling.temperature < 0 or not 0 < sampling.top_p <= 1:
            raise LocusError(f"rollout.{name}={sampling}: temperature from 0, top_p in (0, 1]")
    if cfg.algorithm.mini_batches > cfg.trainer.prompts_per_step:
        raise LocusError(
            f"algorithm.mini_batches={cfg.algorithm.mini_batches} of {cfg.trainer.prompts_per_step} prompts a step: "
            "lower it, or raise trainer.prompts_per_step"
        )
    if str(cfg.trainer.precision).startswith("16"):
        raise LocusError(
            f"trainer.precision={cfg.trainer.precision}: float16 needs a loss scale, which gradient clipping here does "
            "not undo; use 32-true or bf16-mixed"
        )


def build_data(cfg: DictConfig, backbone: Backbone, start_step: int) -> CueDataModule:
    """Source, corpus and collator of the run; the corpus is a prepared one, or audited and drawn now."""
    source = instantiate(cfg.data.source, _convert_="all")
    if cfg.corpus is not None:
        corpus = Corpus.load(cfg.corpus)
    else:
        strategies = [instantiate(crop, _convert_="all") for crop in (cfg.crop, cfg.validation_crop)]
        sizes = cfg.data.train_examples, cfg.data.validation_examples
        corpus = audited_corpus(source, strategies[0], *sizes, cfg.seed, validation_strategy=strategies[1], **cfg.audit)
    if not corpus.validation:
        raise LocusError(
            f"corpus={cfg.corpus}: no validation examples; prepare it with some (data.validation_examples)"
        )
    cues, corpus = build_cues(cfg, corpus, source)
    collator = CueCollator(backbone.processor(), parse_frame(backbone.frame), instantiate(cfg.pixels))
    serve = CueDataModule
    if cfg.mix:
        questions = instantiate(cfg.mix.questions, _convert_="all")
        serve = partial(MixedDataModule, questions=questions, share=cfg.mix.share, think=cfg.mix.think)
    return serve(
        corpus,
        source,
        collator,
        prompts_per_step=cfg.trainer.prompts_per_step,
        validation_batch=cfg.trainer.validation_batch,
        steps=cfg.trainer.steps,
        workers=cfg.trainer.workers,
        seed=cfg.seed,
        start_step=start_step,
        order=instantiate(cfg.order, _convert_="all"),
        **cues,
    )


def build_cues(cfg: DictConfig, corpus: Corpus, source: ImageSource) -> tuple[dict[str, Cue], Corpus]:
    """What the prompts of each split show of their crops, by key, and the corpus with what was found of it."""
    splits = {"cue": corpus.train, "validation_cue": corpus.validation}
    cues = {name: instantiate(cfg[name], _convert_="all").over(source) for name in splits}
    audits = {name: found for name, cue in cues.items() if (found := cue.audit(splits[name]))}
    for name, found in audits.items():
        log.info("%s: %s", name, ", ".join(f"{count} {what}" for what, count in found.items()))
    return cues, replace(corpus, audits=corpus.audits | audits)


def check_frames(cfg: DictConfig, backbone: Backbone, data: CueDataModule) -> None:
    """The pre-flight on the first examples of both splits; says what integers can earn at most."""
    collator = data.collator
    for split, dataset in (("training", data.train), ("validation", data.validation)):
        report = preflight(
            collator([dataset[index] for index in range(min(cfg.preflight_prompts, len(dataset)))]),
            collator.encode,
            collator.decode,
            instantiate(cfg.reward),
            parse_frame(backbone.frame),
            collator.patch_size,
        )
        log.info(
            "pre-flight: true boxes earn %.3f (rounded to integers %.3f), shifted ones %.3f, on %d prompts of %s",
            report.oracle,
            report.integers,
            report.shifted,
            report.prompts,
            split,
        )


def build_module(cfg: DictConfig, backbone: Backbone, data: CueDataModule) -> PolicyModule:
    """Policy, reference and rewards in the method's module."""
    collator, policy = data.collator, backbone.load()
    if cfg.weights:
        instantiate(cfg.weights)(policy)
        sizes = [(parameter.numel(), parameter.requires_grad) for parameter in policy.parameters()]
        log.info(
            "weights: %d of %d parameters train", sum(n for n, trains in sizes if trains), sum(n for n, _ in sizes)
        )
    parts = RunParts(policy, backbone.load, collator.encode, collator.decode, data.draw, cfg.trainer.steps)
    return instantiate(cfg.method)(parts)


def build_trainer(cfg: DictConfig, run: RunFolder) -> Trainer:
    """A Lightning trainer whose one epoch is the run."""
    settings = cfg.trainer
    checkpoints = RunCheckpoint(
        run.path, settings.checkpoint_every, settings.validate_every, settings.steps, settings.keep_checkpoints
    )
    callbacks = [RolloutTable(run.path, run.last_step), ValidationTable(run.path, run.last_step), checkpoints]
    callbacks += instantiate(cfg.watch, _convert_="all").values()
    if settings.stop_at_iou is not None:
        callbacks.append(
            EarlyStopping("val/mean_iou", mode="max", patience=settings.steps, stopping_threshold=settings.stop_at_iou)
        )
    return Trainer(
        accelerator=settings.accelerator,
        precision=settings.precision,
        devices=1,
        max_epochs=1,
        val_check_interval=settings.validate_every,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        log_every_n_steps=1,
        logger=[make(run) for make in instantiate(cfg.logger).values()],
        plugins=[AtomicCheckpointIO()],
        callbacks=callbacks,
        enable_model_summary=False,
        default_root_dir=run.path,
    )


def fit(cfg: DictConfig, run: RunFolder, module: PolicyModule, data: CueDataModule, trainer: Trainer) -> None:
    """Validation before step 1, the training, and validation after the last step; the tables are closed in any case."""
    try:
        if run.checkpoint is None:
            trainer.validate(module, data, verbose=False)
        trainer.fit(module, data, ckpt_path=run.checkpoint, weights_only=True)
    finally:
        for callback in trainer.callbacks:
            if isinstance(callback, TableCallback):
                callback.table.close()
        close_loggers()


def facts_of(cfg: DictConfig, module: PolicyModule, data: CueDataModule) -> dict[str, Any]:
    """What ``run.json`` says of the run's sizes."""
    prompts = cfg.trainer.prompts_per_step
    return {
        "seed": cfg.seed,
        "corpus_hash": data.corpus.content_hash,
        "audits": data.corpus.audits,
        "prompts_per_step": prompts,
        "completions_per_step": prompts * module.completions_per_prompt,
        "updates_per_rollout": module.updates_per_step,
    }


def export(run: RunFolder, module: PolicyModule, data: CueDataModule) -> None:
    """Writes the trained policy as a plain Hugging Face folder, adapters merged into its weights."""
    module.policy.model.save_pretrained(run.path / "policy", state_dict=merged_state(module.policy))
    data.collator.processor.save_pretrained(run.path / "policy")


def report(
    cfg: DictConfig, run: RunFolder, backbone: Backbone, module: PolicyModule, data: CueDataModule, device: torch.device
) -> None:
    """Base against trained policy: tables in the terminal, a parquet file a diagnosis, and ``report.html``."""
    sections = [cue_search_section(pd.read_parquet(run.path / "validation.parquet"))]
    diagnoses = list(instantiate(cfg.evaluation, _convert_="all").values())
    if diagnoses:
        collator = QuestionCollator(data.collator.processor, data.collator.pixels)
        # The trainer has moved all of the module to the CPU at its end; only the policy goes back.
        policies = {BEFORE: backbone.load().to(device), AFTER: module.policy.to(device)}
        greedy = replace(instantiate(cfg.rollout.validation), temperature=0.0)
        evaluators = {
            name: Evaluator(policy, collator, greedy, cfg.rollout.token_budget) for name, policy in policies.items()
        }
        sections += compare(evaluators, diagnoses, run.path)
    for section in sections:
        text = section.text if section.table is None else as_text(section.table)
        log.info("%s, before and after:\n%s", section.title, text)
    places = {example.example_id: index for index, example in enumerate(data.validation.examples)}
    page = write_run_report(run.path, sections, lambda name: data.validation[places[name]], f"locus: {cfg.name}")
    log.info("report: %s", page)


def train(cfg: DictConfig) -> tuple[dict[str, float], dict[str, Any]]:
    """Runs a training from its configuration; returns the final validation metrics and the objects made."""
    quiet_lightning()
    cfg, run = open_run(cfg)
    check_settings(cfg)
    seed_everything(cfg.seed, verbose=False)
    backbone = instantiate(cfg.backbone)
    data = build_data(cfg, backbone, run.last_step)
    check_frames(cfg, backbone, data)
    for line in differences(cfg.algorithm, "algorithm", "grpo"):
        log.info("algorithm departs from the paper's: %s", line)
    module = build_module(cfg, backbone, data)
    try:
        trainer = build_trainer(cfg, run)
    except ValueError as error:
        raise LocusError(f"trainer: {error}") from error
    if run.last_step >= cfg.trainer.steps:
        log.info("the run is at step %d of %d already: raise trainer.steps to go on", run.last_step, cfg.trainer.steps)
    record = start_record(run, facts_of(cfg, module, data))
    fit(cfg, run, module, data, trainer)
    export(run, module, data)
    metrics = read_metrics(run.path)
    save_curve(metrics, run.path / "figures" / "curve.png")
    final = final_validation(metrics)
    finish_record(run, record, phase_seconds(metrics))
    report(cfg, run, backbone, module, data, trainer.strategy.root_device)
    write_summary(run, final)
    log.info("validation:\n%s", validation_table(metrics))
    log.info("run folder: %s", run.path)
    return final, {"module": module, "data": data, "trainer": trainer, "run": run}


@hydra.main(version_base="1.3", config_path="../conf", config_name="train")
@entry_point
def main(cfg: DictConfig) -> float:
    """The command; returns the mean IoU that a sweeper maximises."""
    final = finished_before(cfg) or train(cfg)[0]
    return final["val/mean_iou"]


if __name__ == "__main__":
    main()
