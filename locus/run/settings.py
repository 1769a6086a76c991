"""The numbers of a configuration as checked objects: a wrong one ends the command before anything is computed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from hydra.utils import instantiate
from lightning_utilities.core.imports import RequirementCache
from omegaconf import DictConfig

from locus.errors import LocusError, by_name, number, whole
from locus.policy.engines import LocalEngine, RolloutEngine
from locus.policy.logprobs import PackedScorer, Scorer, SeparateScorer
from locus.policy.rollouts import RolloutDecoding, check_decode_room
from locus.policy.split_groups import check_room
from locus.policy.vlm import VLM
from locus.run.decoding_settings import sampling_of
from locus.tasks.order import Order
from locus.training.algorithm import SFT, Algorithm, Optimization
from locus.types import Prompt, Sampling

RESERVED_SEEDS = range(1_000_000, 4_000_000)
"""Of conf/scenes: pretraining, evaluation and the questions of a mixture draw their scenes with these."""
PRECISIONS: dict[str, Any] = {"32-true": "32-true", "bf16-mixed": "bf16-mixed", "bf16-true": "32-true"}
"""Names of trainer.precision -> what Lightning is told. Its own bf16-true would cast adapters and prompts, too; here
nothing is cast: frozen weights, and with them the arithmetic, are in backbone.dtype, adapters in float32."""
DEEPSPEED = "deepspeed>=0.19.8,<0.20"
"""As tested; one that does not know `managed_gradient_accumulation` would sum within each backward pass, in silence."""


@dataclass(frozen=True)
class TrainerSettings:
    """The run around the algorithm (conf/trainer)."""

    accelerator: str
    precision: str
    """One of `PRECISIONS`."""
    steps: int
    prompts_per_step: int
    validation_batch: int
    validate_every: int
    checkpoint_every: int
    keep_checkpoints: int
    workers: int = 0
    worker_timeout: float = 600
    """Seconds that a step waits for a worker before the run ends."""
    stop_at: float | None = None
    """Ends the run once the validation headline reaches this."""
    max_seconds: float | None = None
    """Ends the run after the step in which the seconds of its training steps reach this; None for ``steps`` alone."""
    logprobs: str = "packed"
    """packed (the group forward) or separate (plain rows)."""
    offload_reference: bool = False
    """Whether a reference of its own leaves the device between its turns; adapters switched off are none."""
    logprobs_chunk: int | None = None
    """Positions that hold full-vocabulary logits at a time, when packed; None for as many as fill half a gigabyte."""
    order: Order | None = None
    """Which examples a step trains on; the task takes it."""
    strategy: str = "auto"
    """auto (one process), ddp (one per device, each with its share of the prompts), deepspeed (and its part of the
    optimiser's state) or fsdp2 (and of the weights)."""
    devices: int | str = 1
    """Of each node; auto for all GPUs that are visible."""
    num_nodes: int = 1

    def __post_init__(self) -> None:
        names = ("steps", "prompts_per_step", "validation_batch", "validate_every", "checkpoint_every")
        for name in (*names, "keep_checkpoints"):
            whole(f"trainer.{name}", getattr(self, name))
        if self.logprobs_chunk is not None:
            whole("trainer.logprobs_chunk", self.logprobs_chunk)
        by_name("trainer.offload_reference", str(self.offload_reference), {"True": True, "False": False})
        whole("trainer.workers", self.workers, 0)
        number("trainer.worker_timeout", self.worker_timeout, 0, above=True)
        if self.stop_at is not None:
            number("trainer.stop_at", self.stop_at, float("-inf"))
        if self.max_seconds is not None:
            number("trainer.max_seconds", self.max_seconds, 0, above=True)
        by_name("trainer.logprobs", self.logprobs, self._scorers)
        self._check_ranks()
        if str(self.precision).startswith("16"):
            raise LocusError(
                f"trainer.precision={self.precision}: float16 needs a loss scale, which gradient clipping here does "
                "not undo; use 32-true or bf16-mixed"
            )
        by_name("trainer.precision", self.precision, PRECISIONS)

    def check_weights(self, policy: VLM) -> None:
        """Raises LocusError for weights that would train in less than float32, or fit the precision in no other way."""
        if self.precision == "bf16-true" and policy.lm_head.weight.dtype != torch.bfloat16:
            raise LocusError(
                "trainer.precision=bf16-true computes in the type of the weights: give backbone.dtype=bfloat16 with "
                "weights=lora, or trainer.precision=bf16-mixed"
            )
        low = {str(one.dtype) for one in policy.parameters() if one.requires_grad and one.dtype.itemsize < 4}
        if low:
            raise LocusError(
                f"weights that train are {low.pop().removeprefix('torch.')}, in which AdamW loses its small updates: "
                "give backbone.dtype=float32 with trainer.precision=bf16-mixed, or weights=lora, whose adapters are "
                "float32"
            )

    def _check_ranks(self) -> None:
        by_name("trainer.strategy", self.strategy, dict.fromkeys(("auto", "ddp", "deepspeed", "fsdp2")))
        if self.devices != "auto":
            whole("trainer.devices", self.devices)
        whole("trainer.num_nodes", self.num_nodes)
        if self.ranks > 1 and self.strategy == "auto":
            raise LocusError(
                f"trainer.devices={self.devices} trainer.num_nodes={self.num_nodes}: choose trainer=ddp or fsdp2"
            )
        if self.sharded and self.logprobs == "separate":
            raise LocusError("trainer.logprobs=separate needs whole weights: choose trainer=ddp")
        if self.prompts_per_step % self.ranks:
            raise LocusError(
                f"trainer.prompts_per_step={self.prompts_per_step} on {self.ranks} ranks: it is of all ranks together, "
                "give a multiple of their number (trainer.devices times trainer.num_nodes)"
            )

    @property
    def on_gpu(self) -> bool:
        """Whether a GPU is meant, be there one or not; ``auto`` takes what there is."""
        return torch.cuda.is_available() if self.accelerator == "auto" else self.accelerator != "cpu"

    @property
    def sharded(self) -> bool:
        """Whether the ranks share the weights."""
        return self.strategy == "fsdp2"

    @property
    def in_parts(self) -> bool:
        """Whether a rank has a part of what trains, and writes a part of each checkpoint."""
        return self.strategy in ("deepspeed", "fsdp2")

    @property
    def local_ranks(self) -> int:
        """Processes of each node, one per device."""
        if isinstance(self.devices, int):
            return self.devices
        return max(1, torch.cuda.device_count()) if self.on_gpu else 1

    @property
    def ranks(self) -> int:
        """Processes of the run."""
        return self.local_ranks * self.num_nodes

    @property
    def _scorers(self) -> dict[str, Scorer]:
        return {"packed": PackedScorer(self.logprobs_chunk), "separate": SeparateScorer()}

    @property
    def scorer(self) -> Scorer:
        """What computes log-probs of completions."""
        return self._scorers[self.logprobs]


@dataclass(frozen=True)
class RolloutSettings:
    """How completions are drawn, and how many are held at a time."""

    sampling: Sampling
    validation: Sampling
    token_budget: int
    """Tokens that are encoded, or scored, at a time; scoring splits a group above it."""
    decoding: RolloutDecoding
    engine: RolloutEngine
    """Writes the completions."""

    def __post_init__(self) -> None:
        whole("rollout.token_budget", self.token_budget)

    def check_room(self, prompts: Sequence[Prompt], group: int) -> None:
        """Raises LocusError unless the budgets hold each of these prompts with what is written at its longest."""
        longest = self.sampling.max_new_tokens
        check_room(prompts, longest, self.token_budget)
        if isinstance(self.engine, LocalEngine):
            check_decode_room(prompts, group, longest, self.decoding.budget)


@dataclass(frozen=True)
class TrainSettings:
    """All numbers of ``python -m locus.train`` that are no part of the task or the backbone."""

    seed: int
    preflight_prompts: int
    preflight_blind: int
    trainer: TrainerSettings
    rollout: RolloutSettings
    optimizer: Optimization
    algorithm: Algorithm | SFT

    def __post_init__(self) -> None:
        check_seed(self.seed)
        whole("preflight_prompts", self.preflight_prompts)
        whole("preflight_blind", self.preflight_blind, 0)
        if not isinstance(self.algorithm, Algorithm):
            return
        if self.algorithm.mini_batches > self.trainer.prompts_per_step:
            raise LocusError(
                f"algorithm.mini_batches={self.algorithm.mini_batches} of {self.trainer.prompts_per_step} prompts a "
                "step: lower it, or raise trainer.prompts_per_step"
            )
        if self.rollout.sampling.temperature == 0:
            raise LocusError(
                "rollout.sampling.temperature=0: a group's rollouts would all be the same, and teach nothing; give a "
                "number above 0, such as the paper's 1"
            )

    @classmethod
    def of(cls, cfg: DictConfig) -> TrainSettings:
        """Of conf/train.yaml; raises LocusError naming the key that is wrong."""
        sampling, validation = (sampling_of(cfg, f"rollout.{name}") for name in ("sampling", "validation"))
        built = (instantiate(cfg[name]) for name in ("optimizer", "algorithm"))
        trainer = instantiate(cfg.trainer, _convert_="all")
        if trainer.strategy == "deepspeed":
            check_deepspeed(trainer)
        if trainer.in_parts:
            _check_in_parts(cfg)
        decoding = RolloutDecoding(cfg.rollout.decode_budget, cfg.rollout.decode_step)
        engine = instantiate(cfg.rollout.engine)
        if isinstance(engine, LocalEngine) and (engine.token_budget, engine.decoding) != (
            cfg.rollout.token_budget,
            decoding,
        ):
            raise LocusError(
                "rollout.engine: its budgets and step are those of all that counts tokens; set rollout.token_budget, "
                "rollout.decode_budget and rollout.decode_step, and leave the engine's own out"
            )
        rollout = RolloutSettings(sampling, validation, cfg.rollout.token_budget, decoding, engine)
        return cls(cfg.seed, cfg.preflight_prompts, cfg.preflight_blind, trainer, rollout, *built)

    @property
    def step_sizes(self) -> str:
        """What a step trains on, and what its updates are where the algorithm's preset comes from."""
        prompts, algorithm = self.trainer.prompts_per_step, self.algorithm
        if isinstance(algorithm, SFT):
            return f"{prompts} prompts"
        parts, source = algorithm.mini_batches, algorithm.source_prompts_per_step
        sizes = f"{prompts} prompts x {algorithm.group_size} rollouts, {parts} x {prompts / parts:g} prompts per update"
        if source in (None, prompts):
            return sizes
        return f"{sizes}; the preset's source has {parts} x {source / parts:g}: trainer.prompts_per_step={source}"

    @property
    def module_arguments(self) -> dict[str, Any]:
        """What every training module takes."""
        return {
            "scorer": self.trainer.scorer,
            "validation_sampling": self.rollout.validation,
            "token_budget": self.rollout.token_budget,
            "decoding": self.rollout.decoding,
            "engine": self.rollout.engine,
            "optimizer": self.optimizer.make,
            "warmup_ratio": self.optimizer.warmup_ratio,
            "clip_norm": self.optimizer.clip_norm,
            "max_skipped": self.optimizer.max_skipped,
            "seed": self.seed,
            "max_seconds": self.trainer.max_seconds,
        }


def check_deepspeed(trainer: TrainerSettings) -> None:
    """Raises LocusError where there is no DeepSpeed, or no GPU for it."""
    if not trainer.on_gpu:
        raise LocusError(
            f"trainer=deepspeed is for GPUs, not for trainer.accelerator={trainer.accelerator}: choose trainer=ddp, or "
            "trainer=fsdp2"
        )
    if not RequirementCache(DEEPSPEED):
        raise LocusError(f"trainer=deepspeed needs {DEEPSPEED}: pip install '{DEEPSPEED}', or choose trainer=fsdp2")


def _check_in_parts(cfg: DictConfig) -> None:
    """Raises LocusError for what needs whole weights, or the optimiser's whole state, before any are loaded."""
    strategy = cfg.trainer.strategy
    if cfg.weights and (kind := cfg.weights.get("quantization")):
        raise LocusError(
            f"trainer={strategy} takes no weights in four bits (weights.quantization={kind}): choose trainer=ddp, or "
            "weights.quantization=null"
        )
    if str(cfg.optimizer.make.get("_target_")).endswith(".adamw_8bit"):
        raise LocusError(
            f"trainer={strategy} shares the optimiser's state, adamw_8bit steps over whole weights: give "
            "optimizer.make._target_=torch.optim.AdamW, or choose trainer=ddp"
        )


def check_seed(seed: Any) -> None:
    """Raises LocusError for what cannot be a seed, or would draw the scenes of evaluation or pretraining."""
    whole("seed", seed, 0)
    if seed in RESERVED_SEEDS:
        raise LocusError(
            f"seed={seed}: the scenes of seeds {RESERVED_SEEDS.start} to {RESERVED_SEEDS.stop - 1} are held out from "
            "training; give another"
        )
