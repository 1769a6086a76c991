"""What ends a run early."""

from __future__ import annotations

from pathlib import Path

import pytest
from lightning import Trainer
from lightning.pytorch.callbacks import Callback

from locus.files.checkpoints import checkpoints
from locus.run.callbacks import RunCheckpoint, StopAt
from tests.support.miniature import grpo


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


def trainer_with(*callbacks: Callback) -> Trainer:
    """Validates after each step."""
    return Trainer(
        accelerator="cpu",
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
