"""Checkpoints of ``trainer=fsdp2``: parts of all ranks, whole or not there, read by any number of ranks."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path

import pytest
import torch
from torch.distributed import checkpoint
from transformers import AutoModelForImageTextToText

from locus.files.checkpoints import PARTS_POSITION, checkpoint_path, latest_checkpoint
from tests.support.interrupted import cut, other_rank, refused_without, wait_for
from tests.support.run_of_ranks import FSDP2, overrides, same_run
from tests.support.runs import SMALLEST, command, finish, refused, resume, spawn, train, weights


@pytest.mark.slow
def test_a_run_of_shared_weights_resumes_on_another_number(tmp_path: Path):
    """Parts that only as many ranks can read, the optimiser's left behind, and half a checkpoint taken for one.

    It begins with a rank that is killed while others wait to gather a layer from it.
    """
    one, folder = tmp_path / "one", tmp_path / "run"
    train(one, *overrides("lora"))
    begun = *SMALLEST, *FSDP2, *overrides("lora"), "trainer.devices=2", f"hydra.run.dir={folder}"
    process = spawn("-m", "locus.train", *begun)
    wait_for(lambda: (folder / "checkpoints" / "step-000002.ckpt").exists(), process)
    os.kill(other_rank(process), signal.SIGKILL)
    refused(finish(process, timeout=120), "rank 1 of 2 ended: killed by SIGKILL", f"resume with resume={folder}")
    assert json.loads((folder / "summary.json").read_text())["status"] == "failed"
    newest, step = latest_checkpoint(folder)
    partial = newest.with_name(f".step-{step + 1:06d}.ckpt.partial")
    shutil.copytree(newest, partial, dirs_exist_ok=True)  # killed before the move
    (partial / PARTS_POSITION).unlink()
    resume(folder, "trainer.devices=1")
    same_run(folder, one)
    assert not list(folder.rglob("*.partial"))
    model = AutoModelForImageTextToText.from_pretrained(folder / "policy")
    exported = weights(folder)
    assert all(torch.equal(tensor, exported[name]) for name, tensor in model.state_dict().items() if name in exported)
    # Whole weights are another trainer's.
    cut(folder, 3)
    refused(command("train", f"resume={folder}", "trainer.strategy=auto", "trainer.devices=1"), "is in parts", "fsdp2")
    refused(command("train", f"resume={one}", "trainer.strategy=fsdp2", "trainer.steps=5"), "strategy=ddp")


def saved_in_parts(folder: Path, step: int) -> Path:
    """A checkpoint of this step in the format of the ranks' parts, of one rank."""
    path = checkpoint_path(folder, step)
    checkpoint.save({"state_dict": {"weight": torch.ones(100)}}, checkpoint_id=path, no_dist=True)
    torch.save({"locus": {"finished_steps": step}}, path / PARTS_POSITION)
    return path


@pytest.mark.parametrize("name", [".metadata", PARTS_POSITION, "__0_0.distcp"])
@pytest.mark.parametrize("kept", [None, 0.9])
def test_a_checkpoint_with_a_part_missing_or_cut_is_corrupt(tmp_path: Path, name: str, kept: float | None):
    """A run that goes on from what a copy, a quota or a lost node has left of a checkpoint."""
    refused_without(saved_in_parts, tmp_path, name, kept)


def test_what_cannot_be_shared_is_refused(tmp_path: Path):
    """Plain rows call the model past the hooks that gather its weights: a wait for ranks that do not."""
    ended = command("train", *SMALLEST, *FSDP2, "trainer.logprobs=separate", f"hydra.run.dir={tmp_path}")
    refused(ended, "trainer.logprobs=separate", "trainer=ddp")
