"""What happens beside the algorithm: tables of rollouts and validation, pictures, checkpoints."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import pyarrow as pa
import torch
from lightning import Trainer
from lightning.pytorch.callbacks import Callback, Checkpoint
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.trainer.states import TrainerFn

from locus import ranks
from locus.analysis.diagnoses.attention import Attention
from locus.analysis.diagnoses.shared import located
from locus.analysis.pictures import rollout_picture
from locus.evaluation.benchmark import Benchmark
from locus.evaluation.evaluator import Evaluator
from locus.files.checkpoints import checkpoint_path, checkpoints
from locus.files.progress import Progress
from locus.files.run_files import remove
from locus.files.step_tables import ROLLOUTS, VALIDATION, StepTable, with_columns
from locus.tasks.task import Task
from locus.types import Rollout, RolloutGroup, Sample, Sampling

Module: TypeAlias = Any
"""One of `locus.training`, whose attributes Lightning's type does not know: ``policy``, ``finished_steps``."""


def graded_columns(task: Task, sample: Sample, rollout: Rollout) -> dict[str, Any]:
    """What was asked, answered and earned, as columns of the run's tables."""
    grade = rollout.grade
    earned = {"text": rollout.text, "status": grade.status.value, "reward": grade.total}
    return dict(task.row(sample.example)) | dict(grade.parts) | dict(grade.columns) | earned


PICTURES = 4
"""Samples of each validation that are drawn."""
GREEDY = Sampling(temperature=0.0, max_new_tokens=24)
"""Of a watched question."""


class TableCallback(Callback):
    """A callback that fills a table of the run; whoever ends the run closes it.

    Args:
        folder: of the run.
        task: whose grades are written.
        last_step: rows of later steps are dropped.
    """

    name: str
    schema: pa.Schema

    def __init__(self, folder: Path, task: Task, last_step: int):
        self.folder, self.task = folder, task
        self.table = StepTable(folder / self.name, with_columns(self.schema, task.columns), last_step)


class RolloutTable(TableCallback):
    """Writes every training rollout to ``rollouts.parquet``, one row each."""

    name, schema = "rollouts.parquet", ROLLOUTS

    def on_train_batch_end(self, trainer: Trainer, module: Module, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Appends the rollouts of the step that just ended."""
        groups: list[tuple[RolloutGroup, torch.Tensor]] = outputs["groups"]
        if groups:
            rows = (row for group, advantages in groups for row in self.rows(module, group, advantages))
            self.table.append(module.finished_steps, rows)

    def rows(self, module: Module, group: RolloutGroup, advantages: torch.Tensor) -> Iterator[dict[str, Any]]:
        """The G rows of a group."""
        for index, rollout in enumerate(group.rollouts):
            yield graded_columns(self.task, group.sample, rollout) | {
                "step": module.finished_steps,
                "prompt_id": group.sample.prompt.prompt_id,
                "rollout": index,
                "advantage": float(advantages[index]),
                "logprob_sum": float(rollout.completion.logprobs.sum()),
                "length": len(rollout.completion.token_ids),
                "finished": rollout.completion.finished,
            }


class ValidationTable(TableCallback):
    """Writes every validation sample to ``validation.parquet``, and pictures of the first ones."""

    name, schema = "validation.parquet", VALIDATION

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        module: Module,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Appends the samples of a batch; draws the first ones of the first batch."""
        groups: list[RolloutGroup] = outputs["groups"]
        self.table.append(module.finished_steps, (self.row(module, group) for group in groups))
        if batch_idx == 0:
            self.draw(trainer, module, groups[:PICTURES])

    def row(self, module: Module, group: RolloutGroup) -> dict[str, Any]:
        """The row of one sample."""
        columns = graded_columns(self.task, group.sample, group.rollouts[0])
        return columns | {"step": module.finished_steps, "example_id": group.sample.prompt.prompt_id}

    def draw(self, trainer: Trainer, module: Module, groups: Sequence[RolloutGroup]) -> None:
        """Saves a picture of each group to ``validation/step-…`` and sends them to W&B where that is on."""
        folder = self.folder / "validation" / f"step-{module.finished_steps:06d}"
        folder.mkdir(parents=True, exist_ok=True)
        pictures, texts = [], []
        for index, group in enumerate(groups):
            example, frame = group.sample.example, group.sample.view.frame
            query = self.task.prompt(example, frame)
            if query.images:
                pictures.append(rollout_picture(query, self.task.row(example), group))
                pictures[-1].save(folder / f"{index:02d}.png")
                texts.append(group.rollouts[0].text)
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger) and pictures:
                logger.log_image("val/rollouts", pictures, step=module.finished_steps, caption=texts)


class AttentionWatch(Callback):
    """Logs how much of the attention lies in the evidence boxes of a fixed batch of questions, at every validation.

    Args:
        benchmark: whose items have evidence boxes.
        limit: items, taken evenly over the benchmark, the same ones every time; null for all.
        token_budget: padded tokens of a batch.
    """

    def __init__(self, benchmark: Benchmark, limit: int | None, token_budget: int):
        self.diagnosis, self.token_budget = Attention(benchmark, limit, overlays=0), token_budget
        self.items = located(benchmark, limit)

    def on_validation_epoch_end(self, trainer: Trainer, module: Module) -> None:
        """``val/attention_in_box``, ``val/peak_in_box`` and ``val/attention_in_box/layer_<n>``."""
        data = trainer.datamodule  # type: ignore[attr-defined]  # set by Lightning without a declaration
        # What this validation has rolled out on, as it did: of a sharded policy other ranks make no copy here.
        with trainer.precision_plugin.val_step_context():
            evaluator = Evaluator(module.rollout_policy(), data.make.builder, GREEDY, self.token_budget)
            means = self.diagnosis.looks(evaluator, self.items).mean(numeric_only=True)
        names = {name: f"val/{name}" for name in ("attention_in_box", "peak_in_box")}
        names |= {
            one: f"val/attention_in_box/{one.replace(' ', '_')}" for one in means.index if one.startswith("layer")
        }
        module.log_metrics({shown: float(means[name]) for name, shown in names.items()})


class RunCheckpoint(Checkpoint):
    """A checkpoint every so many steps and at the end, after the step's validation if it has one.

    Args:
        folder: of the run.
        every: steps between checkpoints.
        validate_every: steps between validations.
        last: the run's last step, always saved.
        keep: how many of the newest stay.
    """

    def __init__(self, folder: Path, every: int, validate_every: int, last: int, keep: int):
        self.folder, self.every, self.validate_every, self.last, self.keep = folder, every, validate_every, last, keep

    def on_train_batch_end(self, trainer: Trainer, module: Module, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Saves a step that is not validated; the last one always is, be it by number or by time."""
        if trainer.should_stop:
            self.last = module.finished_steps
        if module.finished_steps == self.last:
            trainer.val_check_batch = 1
        elif module.finished_steps % self.validate_every:
            self.save(trainer, module.finished_steps)

    def on_validation_end(self, trainer: Trainer, module: Module) -> None:
        """Saves a step that is."""
        if trainer.state.fn == TrainerFn.FITTING:
            if trainer.should_stop:  # for what this validation has found: later, no step could follow the checkpoint
                self.last = module.finished_steps
            self.save(trainer, module.finished_steps)

    def on_train_end(self, trainer: Trainer, module: Module) -> None:
        """Saves the last step of a run that ended early."""
        saved = ranks.agreed(checkpoint_path(self.folder, module.finished_steps).exists())
        if trainer.should_stop and not saved:
            self.last = module.finished_steps
            self.save(trainer, module.finished_steps)

    def on_load_checkpoint(self, trainer: Trainer, module: Module, checkpoint: dict[str, Any]) -> None:
        """Leaves it to the sampler whether there is a next step: the run may have more steps than it had."""
        checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]["is_last_batch"] = False

    def save(self, trainer: Trainer, step: int) -> None:
        """Saves the checkpoint if it is due, then removes the oldest beyond ``keep``."""
        if step % self.every and step != self.last:
            return
        trainer.save_checkpoint(checkpoint_path(self.folder, step), weights_only=False)
        if not trainer.is_global_zero:
            return
        for old in checkpoints(self.folder)[: -self.keep]:
            remove(old)


class StopAt(Callback):
    """Ends the run with the first validation whose headline reaches a value; resumed, it takes no further step.

    Lightning's EarlyStopping wants it passed, which an accuracy never does to 1, and ends a run for other reasons, too.

    Args:
        headline: name of the scalar, more of which is better.
        least: the value to reach.
    """

    def __init__(self, headline: str, least: float):
        self.headline, self.least = headline, least
        self.reached = float("-inf")

    def on_train_start(self, trainer: Trainer, module: Module) -> None:
        """A run may have ended here already, and been cut off in what follows its steps."""
        trainer.should_stop |= self.is_reached

    def on_validation_end(self, trainer: Trainer, module: Module) -> None:
        """The validation before step 1 ends nothing."""
        if trainer.state.fn == TrainerFn.FITTING:
            self.reached = float(trainer.callback_metrics[self.headline])
            trainer.should_stop |= self.is_reached

    @property
    def is_reached(self) -> bool:
        """In float32, as scalars come: an accuracy of 0.9 reaches 0.9."""
        return bool(torch.tensor(self.reached) >= self.least)

    def state_dict(self) -> dict[str, float]:
        """What the last validation has reached."""
        return {"reached": self.reached}

    def load_state_dict(self, state_dict: dict[str, float]) -> None:
        """As it was; the value to reach is that of now."""
        self.reached = state_dict["reached"]


class ProgressLines(Callback):
    """Logs the progress of a training and of each of its validations (see `locus.files.progress`).

    Args:
        what: the training's name in its lines.
        steps: of the whole run.
        metrics: names of the metrics whose latest values end a line; those not logged yet are left out.
    """

    def __init__(self, what: str, steps: int, metrics: Sequence[str]):
        self.what, self.steps, self.metrics = what, steps, metrics
        self.latest: dict[str, float] = {}

    def on_train_start(self, trainer: Trainer, module: Module) -> None:
        """Starts the count, at the step that a resumed run has reached."""
        self.training = Progress(self.what, self.steps, "steps", module.finished_steps, bar=True)

    def on_train_batch_end(self, trainer: Trainer, module: Module, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Counts a step."""
        self.training.reach(module.finished_steps, self.headline(trainer))

    def on_validation_start(self, trainer: Trainer, module: Module) -> None:
        """Starts the count of a validation."""
        what, batches = f"validation at step {module.finished_steps}", int(sum(trainer.num_val_batches))
        self.validation = Progress(what, batches, "batches", bar=True)

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        module: Module,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Counts a batch."""
        self.validation.reach(batch_idx + 1)

    def on_validation_end(self, trainer: Trainer, module: Module) -> None:
        """Keeps the metrics: the trainer forgets those of the validation before training."""
        self.headline(trainer)

    def headline(self, trainer: Trainer) -> dict[str, float]:
        """Name -> latest value."""
        known = trainer.callback_metrics
        self.latest |= {name: float(known[name]) for name in self.metrics if name in known}
        return {name: self.latest[name] for name in self.metrics if name in self.latest}
