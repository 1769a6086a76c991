"""Whole runs of the options for reward, KL, weights, pixels and frame, alone and together."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import AutoModelForImageTextToText

from locus.boxes import giou
from locus.tasks.answers import parse_answer
from tests.support.runs import (
    command,
    differences,
    metrics,
    refused,
    resume,
    same_weights,
    succeeded,
    train,
    warm_policy,
)

pytestmark = pytest.mark.slow
LOSS, NO_KL = "algorithm.loss", "algorithm.loss.kl_coefficient=0"
LORA = ("weights=lora", "weights.rank=4", "optimizer.make.lr=1e-2")


def halfway(folder: Path, place: Path) -> Path:
    """A copy of a run of two steps, taken back to its first."""
    shutil.copytree(folder, place)
    (place / "checkpoints" / "step-000002.ckpt").unlink()
    shutil.rmtree(place / "policy")
    (place / "summary.json").unlink()
    return place


def trained(folder: Path, *overrides: str) -> Path:
    """Two steps from a policy that answers in format."""
    train(folder, f"backbone.path={warm_policy()}", "trainer.steps=2", *overrides)
    return folder


def test_lora_without_kl_for_giou(tmp_path):
    """Options that work alone and not together; checkpoints of the whole model; a resume that begins adapters anew."""
    folder = trained(tmp_path / "run", *LORA, NO_KL, "reward=giou")
    cut = halfway(folder, tmp_path / "cut")
    resume(cut)
    assert list(differences(cut, folder)) == []

    logged = metrics(folder)
    assert "train/kl" not in logged and (logged["train/grad_norm"].dropna() > 0).all()
    rollouts = pd.read_parquet(folder / "rollouts.parquet")
    found = rollouts[rollouts["box"].notna()]
    assert len(found) > 4
    near = (1 + giou(np.stack(found["box"]), np.stack(found["target"]))) / 2
    np.testing.assert_allclose(found["reward"], 0.9 * near + 0.1 * found["format"], atol=1e-9)
    assert (found["reward"] > 0.9 * found["iou"] + 0.1 * found["format"] + 1e-6).any()  # iou is plain IoU

    states = [torch.load(path, weights_only=True)["state_dict"] for path in sorted(folder.glob("checkpoints/*"))]
    assert len(states) == 2 and all(".lora_" in name for state in states for name in state)
    assert any(not torch.equal(states[0][name], states[1][name]) for name in states[0])
    plain = AutoModelForImageTextToText.from_pretrained(warm_policy()).state_dict()
    policy = AutoModelForImageTextToText.from_pretrained(folder / "policy").state_dict()
    moved = {name for name in plain if not torch.equal(plain[name], policy[name])}
    assert plain.keys() == policy.keys()
    assert moved == {f"model{name.removeprefix('policy.model.model').split('.lora_')[0]}.weight" for name in states[0]}


@pytest.mark.parametrize("vision", ["true", "false"])
def test_lora_with_kl_and_dropout_resumes(tmp_path, vision):
    """Dropout that draws other numbers after a resume; a reference that is the trained policy, whose KL is nothing."""
    options = (
        "algorithm.loss.kl_estimator=k2",
        "algorithm.mini_batches=2",
        "weights.dropout=0.2",
        f"backbone.train_vision={vision}",
    )
    folder = trained(tmp_path / "run", *LORA, *options)
    cut = halfway(folder, tmp_path / "cut")
    resume(cut)
    assert list(differences(cut, folder)) == []
    assert metrics(folder)["train/kl"].dropna().iloc[-1] > 1e-6
    (state,) = torch.load(folder / "checkpoints" / "step-000002.ckpt", weights_only=True)["optimizer_states"]
    names = torch.load(folder / "checkpoints" / "step-000002.ckpt", weights_only=True)["state_dict"]
    assert len(state["state"]) == len(names) and any(".visual." in name for name in names) == (vision == "true")


def test_lora_serves_sft(tmp_path):
    """Adapters that only GRPO knows of."""
    folder = trained(tmp_path / "run", *LORA, "algorithm=sft")
    assert not same_weights(folder, warm_policy().parent)


def test_adapters_are_not_resumed_on_another_backbone(tmp_path):
    """Adapters added to weights that they were not trained on: a policy that nobody trained, without a word."""
    cut = halfway(trained(tmp_path / "run", *LORA), tmp_path / "cut")
    other = trained(tmp_path / "other") / "policy"
    refused(command("train", f"resume={cut}", f"backbone.path={other}"), "another backbone", "backbone.path")


@pytest.mark.parametrize("option", ["reward=iou_threshold", "reward=format_only", f"{LOSS}.kl_estimator=k1", NO_KL])
def test_every_option_trains(tmp_path, option):
    """An option that composes and then fails in a run."""
    logged = metrics(trained(tmp_path / "run", option))
    assert np.isfinite(logged["train/grad_norm"].dropna()).all()
    assert ("train/kl" in logged) == (option != NO_KL)


@pytest.mark.parametrize(
    "option, scale",
    [("pixels.max_pixels=4096", 2.0), ("backbone.frame=unit1000", 0.128)],  # the scenes have 128 x 128 pixels
)
def test_pixels_and_frame_of_the_embedded_backbone(tmp_path, option, scale):
    """The frame and the pixels as ablations: prompts in one frame, answers read in another, or limits unheard.

    Supervised first: asked in words that it has never met, the bundled backbone writes no boxes.
    """
    small = ["logger=csv", "diagnoses=none", "data.train_examples=64", "data.validation_examples=16"]
    small += ["data.source.count=80", "algorithm=sft", "rationales=labels", "optimizer.make.lr=1e-3"]
    small += ["trainer.steps=80", "trainer.validate_every=80", "trainer.prompts_per_step=8"]
    succeeded(command("train", *small, option, f"hydra.run.dir={tmp_path}"))
    validation = pd.read_parquet(tmp_path / "validation.parquet")
    found = validation[(validation["step"] == 80) & (validation["status"] == "ok")]
    assert len(found) > 2  # from its boxes to pixels of the file
    written = np.array([parse_answer(text).xyxy for text in found["text"]])
    np.testing.assert_allclose(np.stack(found["box"]), written * scale, rtol=1e-9)
