"""GRPO learns: on an easy scene family, from random weights with a short supervised warm-up, on CPU.

All settings are those of ``conf/experiment/warmup.yaml`` and ``conf/experiment/easy.yaml``; two seeds, minutes each.
"""

from __future__ import annotations

import time

import numpy as np
import pandas as pd
import pytest

from locus.boxes import iou
from tests.support.runs import command, succeeded

RISE = 0.10
"""Of the validation's mean IoU over the GRPO run's own start."""


def best_constant_box(targets: np.ndarray) -> tuple[float, tuple[int, ...]]:
    """[N, 4] target boxes -> the highest mean IoU that one box in whole pixels has with all of them, and that box.

    What a policy earns that has learned where objects tend to be, and looks at neither image nor cue.
    """
    sides = np.arange(np.floor(targets.min()), np.ceil(targets.max()) + 1)
    spans = np.array([(low, high) for low in sides for high in sides if low < high])
    best = (0.0, (0, 0, 0, 0))
    for x1, x2 in spans:
        boxes = np.column_stack([np.full(len(spans), x1), spans[:, 0], np.full(len(spans), x2), spans[:, 1]])
        means = iou(boxes[:, None], targets[None]).mean(axis=1)
        if means.max() > best[0]:
            best = (float(means.max()), tuple(boxes[means.argmax()].astype(int).tolist()))
    return best


def test_best_constant_box_by_hand():
    """Two boxes: the best answer to both is any that holds one and is held by the other."""
    targets = np.array([[0, 0, 4, 4], [0, 0, 4, 2]], dtype=float)
    assert best_constant_box(targets) == (0.75, (0, 0, 4, 2))


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_grpo_raises_the_validation_iou(tmp_path, capsys, seed):
    """A sign error, a reward that is not the answer's, rollouts of another prompt: each learns nothing, or unlearns."""
    own = f"seed={seed}", "logger=csv"
    start = time.monotonic()
    succeeded(command("train", "experiment=warmup", *own, f"hydra.run.dir={tmp_path / 'warmup'}"))
    policy = f"backbone.path={tmp_path / 'warmup' / 'policy'}"
    warm = time.monotonic()
    succeeded(command("train", "experiment=easy", policy, *own, f"hydra.run.dir={tmp_path / 'easy'}"))
    end = time.monotonic()

    validation = pd.read_parquet(tmp_path / "easy" / "validation.parquet")
    means = validation.groupby("step")["iou"].mean()
    constant, box = best_constant_box(np.stack(validation[validation["step"] == 0]["target"]))
    with capsys.disabled():
        print(
            f"\nseed {seed}: validation mean IoU {' -> '.join(f'{value:.3f}' for value in means)} at steps "
            f"{', '.join(map(str, means.index))}; best constant box {constant:.3f} {list(box)}; "
            f"warm-up {warm - start:.0f} s, GRPO {end - warm:.0f} s"
        )
    assert means.index[0] == 0 and len(means) > 1
    assert means.iloc[-1] >= means.iloc[0] + RISE
