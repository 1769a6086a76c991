"""What ends a run early."""

from __future__ import annotations

import pytest
from lightning import Trainer

from locus.run.callbacks import StopAt
from tests.support.miniature import grpo


@pytest.mark.parametrize(("least", "steps"), [(0.0, 1), (0.01, 3)])
def test_a_run_ends_where_its_headline_reaches_a_value(least: float, steps: int):
    """An accuracy of 1 that never passes ``trainer.stop_at=1``; or a base that is good enough, and is not trained.

    An untrained policy finds no box: its mean IoU is 0.
    """
    module, data = grpo(steps=3)
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=1,
        logger=False,
        val_check_interval=1,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[StopAt("val/mean_iou", least)],
    )
    trainer.validate(module, data, verbose=False)
    assert not trainer.should_stop
    trainer.fit(module, data)
    assert module.finished_steps == steps
