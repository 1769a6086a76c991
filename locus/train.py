"""Post-trains a policy: ``python -m locus.train`` (conf/train.yaml). Entry point; the algorithm: `training.grpo`."""

from __future__ import annotations

from locus.run.help import answer_early

if __name__ == "__main__":
    answer_early()  # before the imports below, which take seconds

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import hydra
import pandas as pd
import torch
from hydra.utils import instantiate
from lightning import Trainer, seed_everything
from omegaconf import DictConfig, OmegaConf

from locus import ranks
from locus.analysis.claim_files import judge_run, lines
from locus.analysis.diagnoses.shared import Diagnosis, compare, log_section
from locus.analysis.pages.run import write_run_report
from locus.analysis.run_metrics import (
    AFTER,
    BEFORE,
    by_task,
    final_validation,
    phase_seconds,
    read_metrics,
    save_curve,
    validation_section,
    validation_table,
)
from locus.analysis.runs import record
from locus.boxes import parse_frame
from locus.errors import LocusError
from locus.evaluation.evaluator import Evaluator
from locus.policy.backbone import Backbone
from locus.policy.lora import merged_state
from locus.run.building import base_policy, build_data, build_diagnoses, build_module, check_task
from locus.run.callbacks import TableCallback
from locus.run.launch import follow, follow_in_job, joined, rank_above_zero, rank_zero_first
from locus.run.loggers import close_loggers
from locus.run.outcome import COSTS, costs, held_before, read_plan
from locus.run.recipe import chosen, differences
from locus.run.record import Start, finish_record, write_summary
from locus.run.resumption import check_held_out, check_steps, is_validated, unvalidated
from locus.run.runtime import RunFolder, entry_point, open_run, quiet_lightning, run_folder
from locus.run.settings import RolloutSettings, TrainSettings
from locus.run.sweeps import finished_before
from locus.run.threads import choose_threads
from locus.run.trainer import build_trainer
from locus.tasks.datamodule import TaskDataModule
from locus.training.algorithm import SFT
from locus.training.module import PolicyModule
from locus.types import Query

log = logging.getLogger("locus")


def fit(cfg: DictConfig, run: RunFolder, module: PolicyModule, data: TaskDataModule, trainer: Trainer) -> None:
    """Validation before step 1, the training, and validation after the last step; the tables are closed in any case."""
    try:
        if run.checkpoint is None:
            trainer.validate(module, data, verbose=False)
        elif ranks.position()[0] == 0:
            check_steps(run, cfg.trainer.steps)
        trainer.fit(module, data, ckpt_path=run.checkpoint, weights_only=True)
    finally:
        for callback in trainer.callbacks:  # type: ignore[attr-defined]  # Lightning sets it without declaring it
            if isinstance(callback, TableCallback):
                callback.table.close()
        close_loggers()


def facts_of(cfg: DictConfig, module: PolicyModule, data: TaskDataModule, earlier: Mapping[str, Any]) -> dict[str, Any]:
    """What ``run.json`` says of the run's sizes; ``earlier`` is what it said before the run was resumed."""
    prompts = cfg.trainer.prompts_per_step
    return {
        "seed": cfg.seed,
        "tasks": data.task.shares(),
        **data.task.facts(),
        "prompts_per_step": prompts,
        "completions_per_step": prompts * module.completions_per_prompt,
        "updates_per_rollout": module.updates_per_step,
        "plan": earlier["plan"] if "plan" in earlier else read_plan(cfg.planned, module.policy.parameters()),
    }


def warn_of_another_corpus(earlier: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
    """Says so where a run is resumed on other data: of a corpus drawn anew it may train on held-out images."""
    then, now = earlier.get("corpus_hash"), facts.get("corpus_hash")
    if then and now and then != now:
        log.warning(
            "the data give another corpus (%s) than the run began with (%s), so that held-out images may be trained "
            "on: put images and boxes back, or start anew",
            now[:12],
            then[:12],
        )


def export(run: RunFolder, module: PolicyModule, data: TaskDataModule) -> None:
    """Writes the trained policy as a plain Hugging Face folder, adapters merged into its weights."""
    module.policy.model.save_pretrained(run.path / "policy", state_dict=merged_state(module.policy))
    data.make.builder.processor.save_pretrained(run.path / "policy")


def report(
    cfg: DictConfig,
    rollout: RolloutSettings,
    run: RunFolder,
    backbone: Backbone,
    module: PolicyModule,
    data: TaskDataModule,
    diagnoses: Mapping[str, Diagnosis],
    device: torch.device,
) -> None:
    """Base against trained policy: tables in the terminal, a parquet file per diagnosis, and ``report.html``."""
    tasks = by_task(pd.read_parquet(run.path / "validation.parquet"), data.task.name)
    sections = [validation_section(rows, f"{name.replace('_', ' ').capitalize()}, held out") for name, rows in tasks]
    for section in sections:
        log_section(section)
    if diagnoses:
        # The trainer has moved all of the module to the CPU at its end; only the policy goes back.
        policies = {BEFORE: base_policy(cfg, backbone).to(device), AFTER: module.policy.to(device)}
        greedy = replace(rollout.validation, temperature=0.0)
        evaluators = {
            name: Evaluator(policy, data.make.builder, greedy, rollout.token_budget)
            for name, policy in policies.items()
        }
        sections += compare(evaluators, diagnoses, run.path)
    examples, frame = {one.example_id: one for one in data.validation.examples}, parse_frame(backbone.frame)

    def shown(name: str) -> tuple[Query, Mapping[str, Any]]:
        return data.task.prompt(examples[name], frame), data.task.row(examples[name])

    claims = judge_run(run.path)
    if claims:
        log.info("claims:\n%s", "\n".join(lines(claims)))
    page = write_run_report(run.path, sections, shown, f"locus: {cfg.name}", claims)
    log.info("report: %s", page)


@dataclass(frozen=True, eq=False)
class Trained:
    """What a rank holds after the last step."""

    backbone: Backbone
    module: PolicyModule
    data: TaskDataModule
    trainer: Trainer
    record: dict[str, Any]
    """What ``run.json`` says by then; it and the diagnoses are rank zero's."""
    diagnoses: Mapping[str, Diagnosis]


def trained(cfg: DictConfig, run: RunFolder) -> Trained:
    """Everything up to the last step, on each rank."""
    settings, first = TrainSettings.of(cfg), ranks.position()[0] == 0
    choose_threads(settings.trainer.accelerator, run.path / "run.json", settings.trainer.local_ranks)
    seed_everything(cfg.seed, verbose=False)
    backbone = instantiate(cfg.backbone)
    with rank_zero_first():
        data = build_data(cfg, backbone, run.last_step)
    if first and run.checkpoint is not None:
        check_held_out(run, data.validation.examples)  # before anything opens the tables for these data
    if first:
        check_task(cfg, settings, backbone, data)
    diagnoses = build_diagnoses(cfg) if first else {}
    if first:
        announce(cfg, settings)
    before = held_before(settings.trainer.on_gpu)
    earlier = record(run.path) if first and run.checkpoint is not None else {}
    module = build_module(cfg, settings, backbone, data)
    start = None
    if first:
        facts = facts_of(cfg, module, data, earlier)
        warn_of_another_corpus(earlier, facts)
        start = Start(run, facts)
    try:
        trainer = build_trainer(cfg, settings.trainer, run, data.task, start)
    except ValueError as error:
        raise LocusError(f"trainer: {error}") from error
    if run.last_step >= cfg.trainer.steps:
        log.info("the run is at step %d of %d: raise trainer.steps to continue", run.last_step, cfg.trainer.steps)
    fit(cfg, run, module, data, trainer)
    if not ranks.agreed(first and is_validated(run, module.finished_steps)):  # resumed, and left without a step
        limit = "max_seconds" if module.clock.is_over else "stop_at"
        raise unvalidated(f"trainer.{limit}", getattr(settings.trainer, limit), module.finished_steps)
    if start is not None:
        if module.finished_steps > run.last_step:
            on_gpu = trainer.strategy.root_device.type == "cuda"
            start.record |= costs(read_metrics(run.path), on_gpu, before)
        else:  # of the process that took the last step
            start.record |= {name: earlier[name] for name in COSTS if name in earlier}
        start.write()
    if module.clock.is_over:
        log.info("ended by trainer.max_seconds=%g at step %d", settings.trainer.max_seconds, module.finished_steps)
    module.gather()
    return Trained(backbone, module, data, trainer, start.record if start else {}, diagnoses)


def announce(cfg: DictConfig, settings: TrainSettings) -> None:
    """Logs the choices that a user should know about."""
    for line in chosen(cfg):
        log.info(line)
    log.info("a step: %s", settings.step_sizes)
    for line in () if isinstance(settings.algorithm, SFT) else differences(cfg.algorithm, "algorithm", "grpo"):
        log.info("algorithm departs from the paper's: %s", line)


def train(cfg: DictConfig) -> tuple[dict[str, Any], dict[str, Any]]:
    """Runs a training from its configuration; returns the final validation metrics and the objects made."""
    quiet_lightning()
    with open_run(cfg) as (cfg, run):
        return trained_and_reported(cfg, run)


def trained_and_reported(cfg: DictConfig, run: RunFolder) -> tuple[dict[str, Any], dict[str, Any]]:
    """As `train`, in a folder that no other process writes into."""
    settings = TrainSettings.of(cfg)
    with joined(run.path, settings.trainer.ranks, settings.trainer.num_nodes, alone=not settings.trainer.in_parts):
        send(cfg, run)
        end = trained(cfg, run)
    export(run, end.module, end.data)
    metrics = read_metrics(run.path)
    headline = end.data.task.headline
    save_curve(metrics, run.path / "figures" / "curve.png", headline)
    final = {"headline": f"val/{headline}", **final_validation(metrics, headline)}
    trained_for = {"steps": end.module.finished_steps, "seconds": end.module.clock.seconds}
    finish_record(run, end.record, phase_seconds(metrics), trained=trained_for)
    device = end.trainer.strategy.root_device
    report(cfg, settings.rollout, run, end.backbone, end.module, end.data, end.diagnoses, device)
    write_summary(run, final)
    log.info("validation:\n%s", validation_table(metrics))
    log.info("run folder: %s", run.path)
    return final, {"module": end.module, "data": end.data, "trainer": end.trainer, "run": run}


def send(cfg: DictConfig, run: RunFolder) -> None:
    """Gives the other ranks the configuration, without interpolations, and the run's folder."""
    if ranks.position()[1] > 1:
        resolved = cfg.copy()
        OmegaConf.resolve(resolved)
        ranks.agreed((resolved, run))


def train_with_rank_zero() -> None:
    """A rank above zero: it trains what rank zero sends it, writes nothing, and ends with the last step."""
    quiet_lightning()
    with joined():
        sent: Any = None
        trained(*ranks.agreed(sent))


@hydra.main(version_base="1.3", config_path="../conf", config_name="train")
@entry_point
def main(cfg: DictConfig) -> float:
    """The command; returns the task's headline, which a sweeper maximises."""
    if rank_above_zero():  # of a job that a launcher of Hydra has started as several ranks
        if not finished_before(cfg):
            follow_in_job(run_folder(cfg), train_with_rank_zero)
        return float("nan")
    final = finished_before(cfg) or train(cfg)[0]
    return final[final["headline"]]


if __name__ == "__main__":
    follow(train_with_rank_zero) if rank_above_zero() else main()
