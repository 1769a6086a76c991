"""Runs on several ranks, and what they must have in common with the run of one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

from locus.files.checkpoints import DEEPSPEED as PARTS
from locus.files.checkpoints import latest_checkpoint, reader_of
from tests.support.interrupted import settings
from tests.support.runs import metrics, weights

_ON_CPU = ("trainer.accelerator=cpu", "trainer.precision=32-true", "trainer.workers=0")
DDP, FSDP2, DEEPSPEED = ((f"trainer={name}", *_ON_CPU) for name in ("ddp", "fsdp2", "deepspeed"))
CASES = {
    "full": (
        "algorithm.mini_batches=2",
        "algorithm.refill=2",
        "algorithm.loss.average=token_mean",
        "reward=iou_threshold",
    ),
    "lora": ("weights=lora", "weights.seed=3", "rollout.token_budget=260"),
    "sft": ("algorithm=sft",),
}


def overrides(case: str, prompts: int = 4) -> list[str]:
    """A run in which much moves, with a validation batch that does not divide by the ranks."""
    sizes = [f"trainer.prompts_per_step={prompts}", "trainer.validation_batch=3", "trainer.stop_at=null"]
    # Adam makes a step of what is rounding alone; with this epsilon a step follows its gradient.
    return [*settings(), *sizes, "+optimizer.make.eps=1e-2", "optimizer.make.lr=2e-2", *CASES[case]]


def same_table(one: Path, other: Path) -> None:
    """Asserts the same rows in the same order, numbers up to rounding."""
    ours, theirs = pq.read_table(one), pq.read_table(other)
    assert ours.schema.equals(theirs.schema)
    for name in ours.schema.names:
        left, right = (table[name].to_pylist() for table in (ours, theirs))
        if ours.schema.field(name).type == pa.float64():
            left, right = (np.array(column, dtype=float) for column in (left, right))
            np.testing.assert_allclose(left, right, rtol=1e-4, atol=1e-4, err_msg=name)
        else:
            assert left == right, name


def same_run(one: Path, other: Path) -> None:
    """Asserts that two folders hold the same run up to rounding, and that it trained."""
    for name in ("rollouts.parquet", "validation.parquet"):
        same_table(one / name, other / name)
    ours, theirs = metrics(one), metrics(other)
    assert ours.columns.tolist() == theirs.columns.tolist()
    np.testing.assert_allclose(
        ours.drop(columns="train/rollout_mismatch", errors="ignore"),
        theirs.drop(columns="train/rollout_mismatch", errors="ignore"), rtol=1e-3, atol=1e-5,
    )  # fmt: skip
    assert (ours["train/grad_norm"].dropna() > 0).any()
    assert weights(one).keys() == weights(other).keys()
    # Of adapters it holds these alone, which are small beside the weights that they are added to.
    left, right = (checkpointed(folder) for folder in (one, other))
    assert left.keys() == right.keys()
    worst = {name: float((left[name] - right[name]).norm() / left[name].norm().clamp(min=1e-6)) for name in left}
    assert max(worst.values()) < 1e-5, max(worst.items(), key=lambda entry: entry[1])


def written_once(folder: Path, ranks: int) -> None:
    """Asserts one set of files, with a log of each rank that was started."""
    expected = {".hydra", ".writer", "checkpoints", "config.yaml", "figures", "metrics.csv", "policy", "report.html"}
    expected |= {"claims.csv", "rollouts.parquet", "run.json", "summary.json", "train.log", "validation"}
    expected |= {"validation.parquet", *(f"rank-{rank}.log" for rank in range(1, ranks))}
    assert {path.name for path in folder.iterdir()} == expected
    table = pd.read_parquet(folder / "validation.parquet")
    assert not table.duplicated(["step", "example_id"]).any()
    assert (table.groupby("step").size() == 4).all()  # each of the four once


def checkpointed(folder: Path) -> dict[str, torch.Tensor]:
    """The weights in a run's newest checkpoint."""
    path, _ = latest_checkpoint(folder)
    if reader_of(path) == ("deepspeed",):
        state = torch.load(path / PARTS / "mp_rank_00_model_states.pt", weights_only=False)["module"]
        adapters = {name: tensor for name, tensor in state.items() if ".lora_" in name}
        return adapters or state  # a tied head is in it, too
    if path.is_dir():
        dcp_to_torch_save(path, folder / "joined.pt")
        path = folder / "joined.pt"
    state = torch.load(path)["state_dict"]
    (folder / "joined.pt").unlink(missing_ok=True)
    return state
