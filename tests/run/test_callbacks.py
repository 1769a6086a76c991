"""What ends a run early, and what is watched at each validation."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
from lightning import Trainer
from lightning.pytorch.callbacks import Callback
from torch import nn

from locus.evaluation.benchmarks.scenes import SceneBenchmark, SceneQuestions
from locus.files.checkpoints import checkpoints
from locus.policy.sharding import Sharding
from locus.run.callbacks import AttentionWatch, RunCheckpoint, StopAt
from locus.scenes.questions import colour
from locus.scenes.source import SceneSource
from tests.support.miniature import LARGE_BUDGET, grpo


@pytest.mark.parametrize(("least", "steps"), [(0.0, 1), (0.01, 3)])
def test_a_run_ends_where_its_headline_reaches_a_value(least: float, steps: int):
    """An accuracy of 1 that never passes ``trainer.stop_at=1``; or a base that is good enough, and is not trained.

    An untrained policy finds no box: its mean IoU is 0.
    """
    module, data = grpo(steps=3)
    trainer = trainer_with(StopAt("val/mean_iou", least))
    trainer.validate(module, data, verbose=False)
    assert not trainer.should_stop
    trainer.fit(module, data)
    assert module.finished_steps == steps


@pytest.mark.parametrize("every", [1, 2])
def test_a_run_that_has_ended_takes_no_step_where_it_is_resumed(tmp_path: Path, every: int):
    """Cut off in its diagnoses it would train on to the next validation, and end as another run; a higher value may,
    also where the run has ended between two checkpoints."""
    for least, steps in ((0.0, 1), (0.0, 1), (0.01, 3)):
        module, data = grpo(steps=3)
        newest = checkpoints(tmp_path)
        trainer = trainer_with(StopAt("val/mean_iou", least), RunCheckpoint(tmp_path, every, 1, 3, 1))
        trainer.fit(module, data, ckpt_path=newest[-1] if newest else None, weights_only=True)
        assert module.finished_steps == steps


@pytest.mark.parametrize("shared", [False, True])
def test_attention_is_watched_on_the_copy_that_rolls_out(shared: bool):
    """Of shared weights in mixed precision the copy has two types, which met in a traceback outside of autocast."""
    module, data = grpo()
    if shared:
        empty: dict[int, Any] = {id(one): nn.Parameter(one.to("meta"), False) for one in module.policy.parameters()}
        module.policy.sharding = Sharding(copy.deepcopy(module.policy, empty))
    questions = SceneBenchmark(SceneSource(1, 64, 64, [2, 3], [10, 16], seed=7), (colour,), 2)
    watch = AttentionWatch(SceneQuestions("scenes", questions), None, LARGE_BUDGET)
    trainer = trainer_with(watch, precision="bf16-mixed")
    trainer.validate(module, data, verbose=False)
    assert 0 < trainer.callback_metrics["val/attention_in_box"] < 1


def trainer_with(*callbacks: Callback, precision: Any = "32-true") -> Trainer:
    """Validates after each step."""
    return Trainer(
        accelerator="cpu",
        precision=precision,
        max_epochs=1,
        logger=False,
        val_check_interval=1,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        enable_checkpointing=any(isinstance(one, RunCheckpoint) for one in callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=list(callbacks),
    )
