"""Training in miniature: modules with their data, fitted by a Lightning trainer on generated scenes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import count
from typing import Any

import torch
from lightning import Trainer
from lightning.pytorch.loggers.logger import DummyLogger

from locus.policy.logprobs import PackedScorer
from locus.policy.rollouts import RolloutDecoding
from locus.policy.vlm import VLM
from locus.scenes.source import SceneSource
from locus.tasks.cue_search.corpus import Corpus
from locus.tasks.cue_search.crops import CropStrategy
from locus.tasks.cue_search.drawing import build_corpus
from locus.tasks.cue_search.rationales import NO_RATIONALES, Rationales
from locus.tasks.cue_search.task import CueSearch
from locus.tasks.datamodule import SampleMaker, TaskDataModule
from locus.tasks.task import Task
from locus.training.algorithm import Algorithm
from locus.training.grpo import GRPOModule
from locus.training.loss import Loss
from locus.training.module import PolicyModule, RunParts
from locus.training.sft import SFTModule
from locus.types import Completion, Grade, Rollout, Sample, Sampling, Status
from tests.support.models import FAMILIES, backbone, builder

FAMILY = "qwen3_vl"
PROMPTS, GROUP, TOKENS = 4, 4, 6
"""B prompts of G rollouts of at most T tokens in each step."""
LARGE_BUDGET, SMALL_BUDGET = 10_000, 210
"""Tokens per micro-batch: all prompts in one, and one prompt each."""


@lru_cache
def scenes() -> tuple[SceneSource, Corpus]:
    """One object each on small flat canvases: 12 examples to train on, and 4."""
    source = SceneSource(24, 64, 64, [1, 1], [16, 32], gap=0, lookalikes=0.0, clutter=0.0, seed=0)
    strategy = CropStrategy({"any": (0.0, 1.0)}, {"any": 1.0}, 8, {}, {})
    return source, build_corpus(source.table(), strategy, 12, 4, seed=0)


def data_module(steps: int, prompts: int = PROMPTS, **parts: Any) -> TaskDataModule:
    source, corpus = scenes()
    make = SampleMaker(CueSearch(corpus, source, **parts), builder(FAMILY), FAMILIES[FAMILY][1])
    return TaskDataModule(make, prompts, validation_batch=4, steps=steps, workers=0, seed=0)


class Recorder(DummyLogger):
    """Keeps what is logged, a dictionary a step."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[dict[str, float]] = []

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.rows.append(dict(metrics))


class RecordingSGD(torch.optim.SGD):
    """Keeps the gradient and the rate of each step, before it is taken."""

    def __init__(self, parameters: Any, lr: float):
        super().__init__(parameters, lr=lr)
        self.gradients: list[list[torch.Tensor]] = []
        self.rates: list[float] = []

    def step(self, closure: Callable | None = None) -> None:
        own = [parameter for group in self.param_groups for parameter in group["params"]]
        self.gradients.append([torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in own])
        self.rates.append(self.param_groups[0]["lr"])
        return super().step(closure)


@dataclass(eq=False)
class Run:
    """What a run leaves for its test."""

    module: PolicyModule
    rows: list[dict[str, float]]
    """Logged metrics, one dictionary a training step."""
    steps: list[Any] = field(default_factory=list)
    """What each training step returned."""

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        return self.module.trainer.optimizers[0]


def run_parts(steps: int, data: TaskDataModule, **settings: object) -> RunParts:
    own, make = backbone(FAMILY, **settings), builder(FAMILY)
    return RunParts(own.load(), own.load, data.task, make.encode, make.decode, data.draw, steps)


def grpo(steps: int = 1, prompts: int = PROMPTS, lr: float = 1e-2, train_vision: bool = True,
         scorer: Any = None, max_skipped: int = 2, budget: int = LARGE_BUDGET, clip_norm: float = 1e9,
         warmup_ratio: float = 0.0, weights: Callable[[VLM], None] | None = None,
         **algorithm: Any) -> tuple[GRPOModule, TaskDataModule]:  # fmt: skip
    """A GRPO module with its data, not yet run."""
    data = data_module(steps, prompts)
    parts = run_parts(steps, data, train_vision=train_vision)
    if weights is not None:
        weights(parts.policy)
    settings = {"group_size": GROUP, "loss": Loss(kl_coefficient=0.1)} | algorithm
    module = GRPOModule(
        parts,
        Algorithm(**settings),
        scorer or PackedScorer(),
        Sampling(max_new_tokens=TOKENS),
        validation_sampling=Sampling(temperature=0, max_new_tokens=TOKENS),
        optimizer=lambda parameters: RecordingSGD(parameters, lr=lr),
        warmup_ratio=warmup_ratio,
        clip_norm=clip_norm,
        token_budget=budget,
        decoding=RolloutDecoding(budget),
        max_skipped=max_skipped,
        seed=0,
    )
    return module, data


def fit(module: PolicyModule, data: TaskDataModule) -> Run:
    """Runs all steps through a trainer."""
    logger, run = Recorder(), Run(module, [])
    training_step = module.training_step

    def kept(*arguments: Any) -> Any:
        run.steps.append(training_step(*arguments))
        return run.steps[-1]

    module.training_step = kept
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=1,
        logger=logger,
        limit_val_batches=0,
        log_every_n_steps=1,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, data)
    run.rows = [row for row in logger.rows if "train/grad_norm" in row]
    return run


def copies(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The weights as they are now."""
    return {name: value.clone() for name, value in model.state_dict().items()}


def unchanged(model: torch.nn.Module, before: dict[str, torch.Tensor]) -> bool:
    """Bit for bit."""
    return all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def graded(score: Callable[[torch.Tensor, Sample], float]) -> Callable:
    """A `locus.tasks.rollouts.graded` whose reward is ``score`` of the tokens and the sample."""

    def fake(task: Task, sample: Sample, completion: Completion, text: str) -> Rollout:
        total = float(score(completion.token_ids, sample))
        parts = {"iou": total, "format": 0.0, "nonzero_iou": 0.0}
        return Rollout(completion, text, Grade(total, parts, Status.NO_ANSWER_TAG))

    return fake


def alternating(good: Callable[[str], bool]) -> Callable:
    """A `graded` that gives 0, 1, 0, 1 to rollouts of prompts of which ``good`` holds; to others 0.3, but for 1e-9."""
    calls = count()
    return graded(
        lambda ids, sample: next(calls) % 2 if good(sample.prompt.prompt_id) else 0.3 + 1e-9 * (next(calls) % 2)
    )


def first_batch(data: TaskDataModule) -> list[Sample]:
    """The samples of the first step."""
    return next(iter(data.train_dataloader()))


def frozen_copy(module: GRPOModule) -> VLM:
    """The reference's model."""
    with module.reference.on(torch.device("cpu")) as vlm:
        return vlm


def sft(
    steps: int, budget: int = LARGE_BUDGET, lr: float = 3e-3, rationales: Rationales = NO_RATIONALES, tokens: int = 16
) -> tuple[SFTModule, TaskDataModule]:
    data = data_module(steps, rationales=rationales)
    optimizer: Callable = (lambda p: torch.optim.AdamW(p, lr=lr)) if steps > 1 else (lambda p: RecordingSGD(p, lr=lr))
    return SFTModule(
        run_parts(steps, data),
        PackedScorer(),
        validation_sampling=Sampling(temperature=0, max_new_tokens=tokens),
        optimizer=optimizer,
        warmup_ratio=0.0,
        clip_norm=1.0 if steps > 1 else 1e9,
        token_budget=budget,
        decoding=RolloutDecoding(budget),
        max_skipped=2,
        seed=0,
    ), data
