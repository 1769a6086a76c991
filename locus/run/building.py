"""The objects of a training from its configuration: data, diagnoses, and the module with policy and reference."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from hydra.utils import instantiate
from omegaconf import DictConfig

from locus.analysis.diagnoses.shared import Diagnosis, distinct
from locus.boxes import parse_frame
from locus.policy.backbone import Backbone
from locus.policy.prompts import PromptBuilder
from locus.policy.quantization import stored_numbers
from locus.policy.vlm import VLM
from locus.run.settings import TrainSettings
from locus.tasks.cue_search.sharing import corpora_shared
from locus.tasks.datamodule import SampleMaker, TaskDataModule
from locus.tasks.preflight import check_examples, preflight
from locus.training.algorithm import SFT
from locus.training.grpo import GRPOModule
from locus.training.module import PolicyModule, RunParts
from locus.training.sft import SFTModule

log = logging.getLogger("locus")


def build_data(cfg: DictConfig, backbone: Backbone, start_step: int) -> TaskDataModule:
    """The task with its examples and rewards, and what makes prompts of them."""
    with corpora_shared():
        task = instantiate(cfg.task, _convert_="all")
    builder = PromptBuilder(backbone.processor(), instantiate(cfg.pixels), backbone.family)
    return TaskDataModule(
        SampleMaker(task, builder, parse_frame(backbone.frame)),
        prompts_per_step=cfg.trainer.prompts_per_step,
        validation_batch=cfg.trainer.validation_batch,
        steps=cfg.trainer.steps,
        workers=cfg.trainer.workers,
        seed=cfg.seed,
        start_step=start_step,
        worker_timeout=cfg.trainer.worker_timeout,
    )


def check_task(cfg: DictConfig, settings: TrainSettings, backbone: Backbone, data: TaskDataModule) -> None:
    """The pre-flight on the first samples of both splits; says what can be earned."""
    check_examples(data.task, cfg.trainer.prompts_per_step, cfg.trainer.steps)
    for split in ("train", "validation"):
        samples = data.first(split, cfg.preflight_prompts)
        report = preflight(data.task, samples, data.make.builder, parse_frame(backbone.frame))
        log.info("pre-flight, %d samples of %s: %s", report.samples, split, report)
        if split == "train" and not isinstance(settings.algorithm, SFT):
            settings.rollout.check_room([sample.prompt for sample in samples], settings.algorithm.group_size)


def build_diagnoses(cfg: DictConfig) -> Mapping[str, Diagnosis]:
    """What follows the run, built now so that wrong settings are found before step 1."""
    if not cfg.diagnoses.get("enabled", True):
        return {}
    with corpora_shared():
        diagnoses = instantiate(cfg.diagnoses, _convert_="all")
    diagnoses.pop("enabled", None)
    return distinct(diagnoses)


def build_module(cfg: DictConfig, settings: TrainSettings, backbone: Backbone, data: TaskDataModule) -> PolicyModule:
    """Policy, reference and task in the algorithm's module."""
    builder, adapt = data.make.builder, instantiate(cfg.weights)
    policy = backbone.load()
    if adapt:
        adapt(policy)
        sizes = [(stored_numbers(parameter), parameter.requires_grad) for parameter in policy.parameters()]
        log.info(
            "weights: %d of %d parameters train", sum(n for n, trains in sizes if trains), sum(n for n, _ in sizes)
        )
    settings.trainer.check_weights(policy)
    codec = builder.encode, builder.decode
    parts = RunParts(policy, backbone.load_reference, data.task, *codec, data.draw, cfg.trainer.steps)
    algorithm, shared = settings.algorithm, settings.module_arguments
    if isinstance(algorithm, SFT):
        return SFTModule(parts, **shared)
    offload, sampling = settings.trainer.offload_reference, settings.rollout.sampling
    return GRPOModule(parts, algorithm=algorithm, sampling=sampling, offload_reference=offload, **shared)


def base_policy(cfg: DictConfig, backbone: Backbone) -> VLM:
    """The policy as it was before the run, in as many bits: with more, a card that fits the run could not hold both."""
    policy = backbone.load()
    if adapt := instantiate(cfg.weights):
        adapt.prepare(policy)
    return policy
