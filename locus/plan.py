"""Plans a training run before any weight is loaded: ``python -m locus.plan`` (conf/plan.yaml). Entry point."""

from __future__ import annotations

from locus.run.help import answer_early

if __name__ == "__main__":
    answer_early()  # before the imports below, which take seconds

import logging
import math
import os
from collections.abc import Sequence
from dataclasses import replace
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import hydra
import numpy as np
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig

from locus.boxes import parse_frame
from locus.errors import LocusError, number, whole
from locus.files.run_files import write_json
from locus.policy.prompts import PromptBuilder
from locus.policy.rollouts import DecodeStep
from locus.run.runtime import entry_point
from locus.run.settings import TrainerSettings, TrainSettings
from locus.tasks.cue_search.sharing import corpora_shared
from locus.tasks.preflight import check_examples
from locus.tasks.task import Task
from locus.training.algorithm import SFT, Algorithm
from locus.training.grpo import shares_prompts
from locus.training.pace import Pace, measured_pace, stated_pace
from locus.training.plan import MEASURED_LAYERS, Outlook, Planned, largest_budgets, outlook
from locus.training.step_sizes import StepSizes
from locus.types import Prompt

log = logging.getLogger("locus")
BARS = 8
"""Of the histogram of prompt tokens."""


def check_plan(cfg: DictConfig) -> None:
    """Raises LocusError naming the key of ``plan`` that is wrong."""
    for name in ("memory_gb", "tflops", "bandwidth_gb", "launch_us"):
        if cfg.plan[name] is not None:
            number(f"plan.{name}", cfg.plan[name], 0, above=True)
    number("plan.headroom", cfg.plan.headroom, 0, 1)
    number("plan.efficiency", cfg.plan.efficiency, 0, 1, above=True)
    if cfg.plan.devices is not None:
        whole("plan.devices", cfg.plan.devices)
    if cfg.plan.completion_tokens is not None:
        whole("plan.completion_tokens", cfg.plan.completion_tokens)


def step_prompts(cfg: DictConfig, task: Task, builder: PromptBuilder) -> list[Prompt]:
    """The prompts of the first step, without pixels."""
    frame, keys = parse_frame(cfg.backbone.frame), next(iter(task.batches(cfg.trainer.prompts_per_step, cfg.seed)))
    prompts = []
    for example in map(task.example, keys):
        text, images = task.outline(example, frame)
        prompts.append(builder.prompt(example.example_id, builder.blank(images), text))
    return prompts


def device_count(cfg: DictConfig, trainer: TrainerSettings) -> int:
    """Devices that share a step; raises LocusError for all GPUs of a machine where this one has none to count."""
    if cfg.plan.devices is not None:
        return cfg.plan.devices
    if trainer.devices == "auto" and trainer.on_gpu and not torch.cuda.is_available():
        raise LocusError("trainer.devices=auto counts the GPUs of this machine, which has none: give plan.devices")
    return trainer.ranks


def planned_run(cfg: DictConfig, prompts: Sequence[Prompt], held_out: int) -> Planned:
    """The run of a configuration, whose steps are as the given one; of several devices each has its share.

    held_out: examples of a validation.
    """
    settings = TrainSettings.of(cfg)
    devices = device_count(cfg, settings.trainer)
    algorithm, rollout, backbone = settings.algorithm, settings.rollout, instantiate(cfg.backbone)
    most = rollout.sampling.max_new_tokens
    sizes = StepSizes(
        _share(prompts, len(prompts), devices),
        algorithm.group_size if isinstance(algorithm, Algorithm) else 1,
        rollout.sampling,
        min(cfg.plan.completion_tokens or most, most),
        rollout.token_budget,
        rollout.decoding,
        updates=algorithm.updates_per_rollout if isinstance(algorithm, Algorithm) else 1,
        epochs=algorithm.epochs if isinstance(algorithm, Algorithm) else 1,
        rolls_out=isinstance(algorithm, Algorithm),
        offloads_reference=settings.trainer.offload_reference,
        precision=torch.bfloat16 if str(cfg.trainer.precision) == "bf16-mixed" else None,
        on_gpu=settings.trainer.on_gpu,
    )
    planned = Planned(
        backbone,
        instantiate(cfg.weights) if cfg.weights else None,
        settings.trainer.scorer,
        settings.optimizer.make,
        sizes,
        needs_reference=isinstance(algorithm, Algorithm) and algorithm.needs_reference,
        refill=algorithm.refill if isinstance(algorithm, Algorithm) else 0,
        devices=devices,
        sharded=settings.trainer.sharded if cfg.plan.sharded is None else cfg.plan.sharded,
        validation=replace(
            sizes,
            prompts=_share(prompts, min(cfg.trainer.validation_batch, held_out), devices),
            group=1,
            sampling=rollout.validation,
            tokens=min(sizes.tokens, rollout.validation.max_new_tokens),
            rolls_out=True,
        ),
    )
    settings.trainer.check_weights(planned.outline)
    if isinstance(algorithm, SFT):
        return planned
    rollout.check_room(sizes.prompts, algorithm.group_size)
    budgets = rollout.token_budget, rollout.decoding
    shared = shares_prompts(planned.outline, sizes.prompts, algorithm, most, *budgets, planned.sharded)
    return replace(planned, sizes=replace(sizes, shares_prompts=shared))


def _share(prompts: Sequence[Prompt], count: int, devices: int) -> list[Prompt]:
    """One device's, of so many prompts like these."""
    return list(islice(cycle(prompts), -(-count // devices)))


# --- The machine ----------------------------------------------------------------------------------------------
def card_memory(cfg: DictConfig, on_gpu: bool) -> float | None:
    """Bytes that a run may use; None where a GPU is meant and there is none."""
    free = 1 - cfg.plan.headroom
    if cfg.plan.memory_gb is not None:
        return free * cfg.plan.memory_gb * 1e9
    if not on_gpu:
        return free * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return free * torch.cuda.get_device_properties(0).total_memory if torch.cuda.is_available() else None


def run_pace(cfg: DictConfig, planned: Planned) -> Pace | None:
    """From what is stated, or measured here with a few layers; None where a GPU is meant and there is none."""
    plan = cfg.plan
    if plan.tflops is not None:
        compiled = planned.sizes.decoding.step == DecodeStep.COMPILED
        return stated_pace(plan.tflops, plan.efficiency, plan.bandwidth_gb, plan.launch_us, compiled)
    on_gpu = planned.sizes.on_gpu
    if on_gpu and not torch.cuda.is_available():
        return None
    policy = planned.policy("cuda" if on_gpu else "cpu", MEASURED_LAYERS)
    return measured_pace(policy, planned.scorer, planned.optimizer, planned.sizes)


# --- Words ----------------------------------------------------------------------------------------------------
def histogram(tokens: Sequence[int]) -> str:
    """Lines of bars, and what stands out."""
    counts, edges = np.histogram(tokens, bins=min(BARS, len(set(tokens))))
    bars = [
        f"  {edges[i]:7,.0f} to {edges[i + 1]:7,.0f}  {'#' * round(40 * n / max(counts))} {n}"
        for i, n in enumerate(counts)
    ]
    head = f"tokens per prompt: {np.mean(tokens):,.0f} on average, {min(tokens):,} to {max(tokens):,}"
    return "\n".join([head, *bars])


def report(found: Outlook, planned: Planned) -> str:
    """The plan in the terminal."""
    parts, card = found.footprint, found.memory
    memory = {
        "weights": parts.weights,
        "gradients": parts.gradients,
        "optimiser state": parts.optimizer,
        "reference": parts.reference,
        "weights that roll out": parts.rollout_weights,
        "features of the step's images": parts.features,
        "keys and values of a decode pass": parts.cache,
        "a decode pass beside them": parts.decode_pass,
        "encoding for the rollout": parts.prefill,
        "scoring without gradient": parts.scoring,
        "whole copies that score": parts.gathered_scoring,
        "around the layers, for an update": parts.gathered_update,
        "micro-batch: vision tower": parts.vision,
        "micro-batch: prompts": parts.prefix,
        "micro-batch: head": parts.head,
        "micro-batch: completions": parts.completions,
        "optimiser, beside its state": parts.optimizer_step,
        "rollouts of a validation batch": max(parts.validation_pass, parts.validation_prefill),
    }
    lines = [f"parameters: {found.trained:,} trained, {found.frozen:,} frozen"]
    lines.append(f"memory of a device with completions of {planned.sizes.tokens:,} tokens, GB:")
    lines += [f"  {name:<34}{size / 1e9:9.2f}" for name, size in memory.items() if size]
    lines += [f"  peak of {phase:<26}{size / 1e9:9.2f}" for phase, size in parts.phases.items()]
    if card is not None:
        lines.append(f"  may be used {' ' * 21}{card / 1e9:10.2f}: it {'fits' if found.fits else 'DOES NOT FIT'}")
        budgets = largest_budgets(planned, card) if found.fits else None
        if budgets is not None:
            lines.append(
                f"largest budgets that fit: rollout.token_budget={budgets[0]} rollout.decode_budget={budgets[1]}"
            )
    if found.seconds is None:
        lines.append("no time is planned: there is no GPU here to measure; give plan.tflops (989 for an H100)")
        return "\n".join(lines)
    step = sum(found.seconds.values())
    phases = ", ".join(f"{name} {seconds:.3g}" for name, seconds in found.seconds.items())
    lines.append(f"seconds per step: {step:.3g} ({phases}); {planned.work.passes:,.0f} token passes")
    hours = found.hours or 0.0
    lines.append(
        f"{found.steps:,} steps: {hours:.3g} hours, {hours * found.devices:.3g} device hours; data not counted"
    )
    if planned.refill:
        lines.append(
            f"fresh prompts of algorithm.refill are not counted: up to {planned.refill} times the rollout more"
        )
    return "\n".join(lines)


def remedy(cfg: DictConfig, planned: Planned, memory: float, prompts: Sequence[Prompt], held_out: int) -> str:
    """What to change so that a run fits: budgets, then adapters on a bfloat16 base, with smaller budgets if need be."""
    changes = _budgets(planned, memory)
    if changes is not None:
        return changes
    adapters = ["weights=lora"] + ["backbone.dtype=bfloat16"] * ("dtype" in cfg.backbone)
    composed = hydra.compose("plan", [*HydraConfig.get().overrides.task, *adapters])
    other = planned_run(composed, prompts, held_out)
    changes = "" if other.footprint.peak <= memory else _budgets(other, memory)
    if changes is not None:
        return " ".join(filter(None, [*adapters, changes, "(adapters want ten times the learning rate)"]))
    least = other.footprint.static / 1e9
    return f"a larger card, or a smaller backbone: even {' '.join(adapters)} holds {least:.3g} GB before any activation"


def _budgets(planned: Planned, memory: float) -> str | None:
    budgets = largest_budgets(planned, memory)
    if budgets is None:
        return None
    given = planned.sizes.token_budget, planned.sizes.decoding.budget
    names = ("rollout.token_budget", "rollout.decode_budget")
    return " ".join(f"{name}={new}" for name, new, old in zip(names, budgets, given, strict=True) if new < old)


def plan(cfg: DictConfig) -> tuple[Outlook, dict[str, Any]]:
    """Plans a run; prints what it takes. Raises LocusError for one that does not fit, with the change that would."""
    check_plan(cfg)
    with corpora_shared():
        task = instantiate(cfg.task, _convert_="all")
    check_examples(task, cfg.trainer.prompts_per_step, cfg.trainer.steps)
    backbone = instantiate(cfg.backbone)
    builder = PromptBuilder(backbone.processor(), instantiate(cfg.pixels), backbone.family)
    prompts, held_out = step_prompts(cfg, task, builder), len(task.examples("validation"))
    planned = planned_run(cfg, prompts, held_out)
    if not planned.sizes.rolls_out and cfg.plan.completion_tokens is None:
        log.warning(
            "all targets are planned at the limit of %d tokens; usual ones are shorter, and may take more memory: give "
            "their length as plan.completion_tokens",
            planned.sizes.tokens,
        )
    memory = card_memory(cfg, planned.sizes.on_gpu)
    pace = run_pace(cfg, planned)
    steps = _steps(cfg, planned, pace)
    found = outlook(planned, memory, pace, steps, _validation(cfg, planned, pace, held_out, steps))
    tokens = [prompt.length for prompt in prompts]
    print(histogram(tokens))
    print(report(found, planned))
    record = {"tokens_per_prompt": tokens} | found.record()
    if memory is not None and not found.fits:
        raise LocusError(
            f"the run needs {found.footprint.peak / 1e9:.1f} GB, {memory / 1e9:.1f} may be used: "
            f"{remedy(cfg, planned, memory, prompts, held_out)}"
        )
    return found, record


def _steps(cfg: DictConfig, planned: Planned, pace: Pace | None) -> int:
    """As many as are asked for, or begin before the run's seconds are over."""
    steps, limit = cfg.trainer.steps, cfg.trainer.max_seconds
    if limit is None or pace is None:
        return steps
    return min(steps, math.ceil(limit / sum(pace.seconds(planned.work).values())))


def _validation(cfg: DictConfig, planned: Planned, pace: Pace | None, held_out: int, steps: int) -> float:
    """Seconds of all validations: before step 1, in between, and after the last."""
    if pace is None or planned.validation_work is None:
        return 0.0
    batches = -(-held_out // min(cfg.trainer.validation_batch, held_out))
    return pace.seconds(planned.validation_work)["rollout"] * batches * (1 + -(-steps // cfg.trainer.validate_every))


@hydra.main(version_base="1.3", config_path="../conf", config_name="plan")
@entry_point
def main(cfg: DictConfig) -> None:
    """The command."""
    _, record = plan(cfg)
    write_json(Path(HydraConfig.get().runtime.output_dir) / "plan.json", record)


if __name__ == "__main__":
    main()
