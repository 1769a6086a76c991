"""What GRPO and SFT share: a policy, its optimiser, validation by sampling, and the run's position."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, cast

import torch
from lightning import LightningModule
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from locus import ranks
from locus.errors import LocusError
from locus.policy.engines import LocalEngine, RolloutEngine
from locus.policy.inference import inference_policy
from locus.policy.lora import fingerprint, frozen_state
from locus.policy.rollouts import RolloutDecoding
from locus.policy.sampling import prompt_generator
from locus.policy.sharding import clip_gradients, free, shard, whole
from locus.policy.vlm import VLM, EncodedPrompts, VisionFeatures
from locus.tasks.rollouts import roll_out
from locus.tasks.task import Task
from locus.training.clock import StepClock
from locus.training.parallel import PartedOptimizer
from locus.types import Pixels, RolloutGroup, Sample, Sampling


@dataclass(frozen=True, eq=False)
class RunParts:
    """What a run has built before its module."""

    policy: VLM
    load_reference: Callable[[], VLM]
    """Builds a model with the policy's first weights."""
    task: Task
    """With its rewards."""
    encode: Callable[[str], list[int]]
    decode: Callable[[torch.Tensor], str]
    draw: Callable[[int, int, int, Set[str]], list[Sample]]
    """(step, attempt, count, ids used) -> this rank's share of fresh samples."""
    steps: int
    """Training steps of the whole run."""


def groups_of_all(groups: Sequence[RolloutGroup | None]) -> list[RolloutGroup]:
    """The groups of a whole batch, None at the places of other ranks; those come without pixels."""
    if ranks.position()[1] == 1:
        return ranks.gathered(groups)
    everyone = ranks.gathered([None if group is None else _without_pixels(group) for group in groups])
    return [own or other for own, other in zip(groups, everyone, strict=True)]


def _without_pixels(group: RolloutGroup) -> RolloutGroup:
    sample, pixels = group.sample, group.sample.prompt.pixels
    empty = Pixels(pixels.levels[:0].clone(), pixels.table, pixels.frames)
    return replace(group, sample=replace(sample, prompt=replace(sample.prompt, pixels=empty)))


class PolicyModule(LightningModule):
    """A LightningModule around a policy; subclasses write `training_step` and call `apply_update`.

    Args:
        parts: what the run has built.
        validation_sampling: how the one completion per held-out prompt is drawn.
        optimizer: parameters -> optimiser.
        warmup_ratio: share of the run's updates with linear warm-up; then the rate is constant.
        clip_norm: of the gradient.
        token_budget: tokens that are encoded, or scored, at a time.
        decoding: of rollouts.
        max_skipped: updates in a row that may be skipped for a non-finite loss or gradient.
        seed: of the sampling.
        updates_per_step: optimiser steps per training step.
        completions_per_prompt: rollouts, or targets, that a prompt is trained on in a step.
        engine: writes completions; None for `LocalEngine`.
        max_seconds: of training steps, see `StepClock`; the warm-up goes by ``parts.steps`` all the same.
    """

    def __init__(
        self,
        parts: RunParts,
        validation_sampling: Sampling,
        optimizer: Callable[[Iterable[torch.nn.Parameter]], Optimizer],
        warmup_ratio: float,
        clip_norm: float,
        token_budget: int,
        decoding: RolloutDecoding,
        max_skipped: int,
        seed: int,
        updates_per_step: int = 1,
        completions_per_prompt: int = 1,
        engine: RolloutEngine | None = None,
        max_seconds: float | None = None,
    ):
        super().__init__()
        self.automatic_optimization = False
        self.policy, self.task, self.decode = parts.policy, parts.task, parts.decode
        headline = self.task.headline
        self.shown = ("train/reward", "train/iou", f"train/{headline}", "train/kl", "train/loss", f"val/{headline}")
        """In the progress bar, of what is logged."""
        self.validation_sampling, self.seed = validation_sampling, seed
        self.make_optimizer, self.clip_norm = optimizer, clip_norm
        self.warmup_updates = max(1, round(warmup_ratio * parts.steps * updates_per_step))
        self.token_budget, self.decoding, self.max_skipped = token_budget, decoding, max_skipped
        self.engine = engine or LocalEngine(token_budget, decoding.budget, decoding.step)
        self.updates_per_step, self.completions_per_prompt = updates_per_step, completions_per_prompt
        self.finished_steps = 0
        """Finished training steps: one rollout batch, or one batch of targets, with its updates."""
        self.clock = StepClock(max_seconds)
        self.skipped_in_a_row = 0
        self._validated: list[RolloutGroup] = []
        self._asked: list[dict[str, Any]] = []
        """The numbers of each of the optimiser's groups, as configured."""
        self._fingerprint: torch.Tensor | None = None
        self._inference: list[VLM] | None = None  # in a list, as a module would get into checkpoints

    def configure_model(self) -> None:
        """Under ``trainer=fsdp2`` the ranks share the weights from here on."""
        if self.device_mesh is not None and self.policy.sharding is None:
            self._fingerprint = self.backbone_fingerprint  # while its weights are whole
            mixed = self.trainer.precision == "bf16-mixed"
            shard(self.policy, self.device_mesh["data_parallel"], torch.bfloat16 if mixed else None)

    @property
    def backbone_fingerprint(self) -> torch.Tensor | None:
        """Of the weights that adapters are added to; None without adapters."""
        if self.policy.sharding is not None:
            return self._fingerprint
        return fingerprint(frozen_state(self.policy)) if self.policy.adapters else None

    def gather(self) -> None:
        """Rank zero has the policy whole again, on the CPU; the others keep an outline. All ranks must ask together."""
        if self.policy.sharding is not None:
            self.policy = whole(self.policy, keep=ranks.position()[0] == 0, device=torch.device("cpu"))

    def on_train_batch_start(self, batch: list[Sample], batch_idx: int) -> None:
        """Dropout's numbers follow from seed and step, as the sampling's do: a resumed run draws the same."""
        if self.policy.drops_out:
            rank, _ = ranks.position()
            name = f"dropout/{rank}" if rank else "dropout"
            torch.manual_seed(prompt_generator(self.seed, self.finished_steps, name).initial_seed())

    def finish_step(self) -> None:
        """Counts a step and its seconds; the run ends with it where they reach their limit."""
        self.finished_steps += 1
        self.clock.end()
        self.trainer.should_stop |= self.clock.is_over

    def on_train_batch_end(self, *_: Any) -> None:
        """The next step may begin: tables and checkpoints are written by now, as callbacks come first."""
        self.clock.begin()

    def on_validation_end(self) -> None:
        """The next step may begin, if this is no validation of a finished run."""
        self.clock.begin()

    @contextmanager
    def rollout_phase(self) -> Iterator[None]:
        """Rollouts inside share one `inference_policy`, freed at the end; an update in between makes it anew."""
        self._inference = []
        try:
            yield
        finally:
            self._inference = None

    def rollout_policy(self) -> VLM:
        """What rollouts run on now; outside of a phase a new one at each call."""
        made = [] if self._inference is None else self._inference
        if not made:
            made.append(inference_policy(self.policy.eval()))
        return made[0]

    def roll_out(
        self,
        samples: Sequence[Sample],
        sampling: Sampling,
        group: int,
        step: int,
        encoded: EncodedPrompts | None = None,
    ) -> list[tuple[RolloutGroup, VisionFeatures | None]]:
        """Samples -> graded groups with their vision features; see `locus.tasks.rollouts.roll_out`."""
        if samples or self.policy.sharding is not None:  # whose copy all ranks make together
            policy = self.rollout_policy()
        if not samples:  # a rank's share of a small batch
            return []
        return roll_out(
            policy,
            self.task,
            samples,
            self.decode,
            sampling,
            group,
            seed=self.seed,
            step=step,
            engine=self.engine,
            encoded=encoded,
        )

    @property
    def optimizer(self) -> LightningOptimizer:
        """The one optimiser, see `configure_optimizers`."""
        return cast(LightningOptimizer, self.optimizers())

    def apply_update(self, finite: bool) -> float:
        """Clips and applies the accumulated gradient, over all ranks; a non-finite loss or norm skips the update.

        Returns the gradient's norm before clipping. Raises LocusError after ``max_skipped`` skipped updates in a row.
        """
        free(self.policy)  # its parameters are this rank's parts again, which have the gradients
        parameters = [parameter for parameter in self.policy.parameters() if parameter.requires_grad]
        engine = self.trainer.strategy if isinstance(self.trainer.strategy, PartedOptimizer) else None
        if self.policy.sharding is not None or engine:
            finite = all(ranks.exchanged(finite))
        elif ranks.position()[1] > 1:
            reduce = partial(self.trainer.strategy.reduce, reduce_op="sum")
            finite = ranks.sum_gradients(parameters, finite, reduce)
        norm = float("nan")
        if finite and engine:  # which clips and steps in one
            engine.complete_gradients(parameters)
            self.optimizer.step()
            norm = engine.norm()
        elif finite:
            norm = clip_gradients(parameters, self.clip_norm)
        if norm == norm and norm != float("inf"):
            if self._inference:
                self._inference.clear()
            if not engine:
                self.optimizer.step()
            cast(LRScheduler, self.lr_schedulers()).step()
            self.skipped_in_a_row = 0
            return norm
        self.skipped_in_a_row += 1
        if self.skipped_in_a_row >= self.max_skipped:
            raise LocusError(
                f"{self.skipped_in_a_row} updates in a row had a non-finite loss or gradient at step "
                f"{self.finished_steps}: resume with a lower optimizer.make.lr; where that is not enough, remove the "
                "newest files of checkpoints/ before, which takes the run further back"
            )
        return norm

    def on_validation_epoch_start(self) -> None:
        """All batches are asked of the same weights, see `rollout_phase`."""
        self._inference = []

    def validation_step(self, samples: list[Sample], batch_idx: int) -> dict[str, Any]:
        """One rollout per held-out prompt, with the same random numbers at every validation."""
        own = [group for group, _ in self.roll_out(samples, self.validation_sampling, 1, step=-1)]
        groups = groups_of_all(ranks.laid_out(own))
        self._validated += map(_without_pixels, groups)  # all pictures of a validation may be gigabytes
        return {"groups": groups}

    def on_validation_epoch_end(self) -> None:
        """Logs means over all validation samples, and by the task's groups."""
        self._inference = None
        metrics = self.task.validation_metrics(self._validated)
        self.log_metrics({f"val/{name}": value for name, value in metrics.items()})
        self._validated = []

    def log_metrics(self, metrics: dict[str, float]) -> None:
        """To the loggers at once, with the step they belong to: a kill between two hooks then loses nothing."""
        for logger in self.loggers:
            logger.log_metrics(metrics, step=self.finished_steps)
        for name, value in metrics.items():
            self.log(name, value, prog_bar=name in self.shown, logger=False, batch_size=1)

    def configure_optimizers(self) -> tuple[list[Optimizer], list[LambdaLR]]:
        """The given optimiser over trainable parameters, with linear warm-up."""
        try:
            optimizer = self.make_optimizer([p for p in self.policy.parameters() if p.requires_grad])
        except (TypeError, ValueError) as error:
            raise LocusError(f"optimizer.make: {error}") from error
        scheduler = LambdaLR(optimizer, lambda update: min(1.0, (update + 1) / self.warmup_updates))
        self._asked = [{key: group[key] for key in group if key != "params"} for group in optimizer.param_groups]
        return [optimizer], [scheduler]

    def on_train_start(self) -> None:
        """Rate, decay and all else of the optimiser are as configured now; a checkpoint brings those of its own run.

        A run that was out of time when it ended has no further step.
        """
        scheduler = cast(LambdaLR, self.lr_schedulers())
        scheduler.base_lrs = [asked["initial_lr"] for asked in self._asked]
        for group, asked, factor in zip(self.optimizer.param_groups, self._asked, scheduler.lr_lambdas, strict=True):
            group.update(asked | {"lr": asked["initial_lr"] * factor(scheduler.last_epoch)})
        self.trainer.should_stop |= self.clock.is_over
        self.clock.begin()

    def trained_state(self) -> dict[str, Any]:
        """What a checkpoint has of the weights: without those that adapters are added to."""
        frozen = frozen_state(self.policy)
        return {
            name: tensor for name, tensor in self.state_dict().items() if name.removeprefix("policy.") not in frozen
        }

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds the run's position; sampling needs no generator state, its numbers follow from seed and step.

        Where only adapters train, the weights that they are added to are left out: they come from the backbone.
        """
        checkpoint["locus"] = {"finished_steps": self.finished_steps, "skipped_in_a_row": self.skipped_in_a_row}
        if (observed := self.task.state()) is not None:
            checkpoint["locus"]["task"] = observed
        checkpoint["locus"]["seconds"] = self.clock.seconds
        if frozen := frozen_state(self.policy):
            checkpoint["locus"]["backbone"] = self.backbone_fingerprint
            left_out = {f"policy.{name}" for name in frozen}
            state = checkpoint["state_dict"].items()
            checkpoint["state_dict"] = {name: tensor for name, tensor in state if name not in left_out}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restores the run's position; raises LocusError when its adapters were trained on another backbone.

        The task may refuse to go on as well.
        """
        known, ours = checkpoint["locus"].get("backbone"), self.backbone_fingerprint
        if known is not None and ours is not None and not torch.equal(known, ours):
            raise LocusError(
                "the checkpoint's adapters were trained on another backbone: resume with the backbone.path and "
                "backbone.seed that the run began with, and its files unchanged"
            )
        self.finished_steps = checkpoint["locus"]["finished_steps"]
        self.task.restore(checkpoint["locus"].get("task"))
        self.skipped_in_a_row = checkpoint["locus"]["skipped_in_a_row"]
        self.clock.seconds = checkpoint["locus"].get("seconds", 0.0)  # none in those of earlier versions

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """As any module; raises LocusError when the checkpoint is of another model."""
        kept = {f"policy.{name}": tensor for name, tensor in frozen_state(self.policy).items()}
        try:
            return super().load_state_dict(kept | dict(state_dict), strict, assign)
        except RuntimeError as error:
            raise LocusError("the checkpoint is of another model: resume with the backbone it was made with") from error
