"""A run's validations, from the rows of ``metrics.csv``."""

from __future__ import annotations

import pandas as pd

from locus.analysis.run_metrics import final_validation, validation_rows, validation_scalars

METRICS = pd.DataFrame(
    [
        {"step": 0, "val/attention_in_box": 0.2},  # logged beside the task, in a row of its own
        {"step": 0, "val/reward": 0.1, "val/mean_iou": 0.1, "val/tiny/mean_iou": 0.05},
        {"step": 1, "train/reward": 0.3},
        {"step": 2, "val/attention_in_box": 0.4},
        {"step": 2, "val/reward": 0.4, "val/mean_iou": 0.5, "val/tiny/mean_iou": 0.15},
    ]
)


def test_one_row_a_validation():
    """Two rows for one validation, or one whose attention is missing; the headline is not the first column."""
    table = validation_rows(METRICS)
    assert list(table) == ["step", "mean IoU", "reward", "attention_in_box", "tiny IoU"]
    assert table.to_numpy().tolist() == [[0, 0.1, 0.1, 0.2, 0.05], [2, 0.5, 0.4, 0.4, 0.15]]
    assert list(validation_rows(METRICS[["step", "train/reward"]])["step"]) == []


def test_the_last_validation_has_what_was_logged_beside_the_task():
    """The base's attention in a summary, and none of the trained policy."""
    last = {"val/attention_in_box": 0.4, "val/reward": 0.4, "val/mean_iou": 0.5, "val/tiny/mean_iou": 0.15}
    assert final_validation(METRICS, "mean_iou") == last


def test_any_tasks_scalars_are_shown():
    """A validation of another task than cue search, that is nowhere to be seen."""
    rows = METRICS[["step", "val/reward"]].assign(**{"val/accuracy": [None, 0.5, None, None, 1.0]})
    assert validation_scalars(rows) == {"val/reward": "reward", "val/accuracy": "accuracy"}
    assert validation_rows(rows)["accuracy"].tolist() == [0.5, 1.0]
    assert final_validation(rows, "accuracy") == {"val/reward": 0.4, "val/accuracy": 1.0}
