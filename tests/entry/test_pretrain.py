"""``python -m locus.pretrain`` leaves a backbone that opens."""

from __future__ import annotations

import pandas as pd
import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from locus.files.run_files import BEGUN_WITH
from locus.pretrain import final_scores
from tests.support.runs import command, refused, succeeded, weights

SMALLEST = (
    *("logger=csv", "lessons.patch_lessons=2", "lessons.patch_images=2", "lessons.question_images=2"),
    *("lessons.seen_images=1", "context.questions=1", "probe.scenes=2"),
    *(
        "lessons.cue_source.count=8",
        "lessons.cue_examples=4",
        "lessons.first_cue_lesson=3",
        "validation.questions=2",
        "validation.cues=2",
    ),
    *("trainer.steps=4", "trainer.validate_every=4", "trainer.checkpoint_every=1", "trainer.keep_checkpoints=9"),
    *("backbone.architecture.text_layers=2", "backbone.architecture.vision_layers=2", "trainer.precision=32-true"),
)


def test_the_command(tmp_path):
    """What it leaves opens with plain transformers, and resuming is the same as not stopping."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    succeeded(command("pretrain", *SMALLEST, f"hydra.run.dir={whole}", "progress.every=0"))
    log = (whole / "pretrain.log").read_text()
    assert all(f"pretraining: {step}/4 steps, " in log for step in (1, 2, 3, 4)) and ", train/patch_loss " in log
    model = AutoModelForImageTextToText.from_pretrained(whole / "policy")
    assert model.dtype == torch.bfloat16 and AutoProcessor.from_pretrained(whole / "policy")
    card = (whole / "policy" / "README.md").read_text()
    assert "license: apache-2.0" in card and "| cue search, mean IoU |" in card
    assert "| all else black |" in card and len(pd.read_parquet(whole / "context.parquet")) > 20
    assert "| attribute | sparse | crowded |" in card
    rows = pd.read_csv(whole / "metrics.csv")
    assert (
        rows["train/patch_loss"].count() == 4
        and rows["train/look_loss"].count() == 2
        and rows["val/grounding"].count() == 1
    )
    succeeded(command("pretrain", *SMALLEST, "trainer.steps=2", "module.steps=4", f"hydra.run.dir={parts}"))
    newest = parts / "checkpoints" / "step-000002.ckpt"
    aside = newest.rename(parts / newest.name)  # without it the run is at a lesson that it has not validated
    refused(command("pretrain", f"resume={parts}", "trainer.steps=1"), "trainer.steps=1: the run is at step 1 already")
    aside.rename(newest)
    begun_with = parts / BEGUN_WITH  # a run that was begun before trainer.worker_timeout was a key
    older = "".join(line for line in begun_with.read_text().splitlines(True) if "worker_timeout" not in line)
    assert older != begun_with.read_text()
    begun_with.write_text(older)
    succeeded(command("pretrain", f"resume={parts}", "trainer.steps=4"))
    one, two = weights(whole), weights(parts)
    assert one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize(
    ("override", "remedy"),
    [
        ("trainer.steps=0", "give a whole number from 1 on"),
        ("trainer.validate_every=0", "give a whole number from 1 on"),
        ("trainer.checkpoint_every=0", "give a whole number from 1 on"),
        ("trainer.keep_checkpoints=0", "give a whole number from 1 on"),
        ("trainer.workers=-1", "give a whole number from 0 on"),
        ("trainer.worker_timeout=0", "give a number above 0"),
    ],
)
def test_numbers_that_cannot_be_meant_are_refused(tmp_path, override: str, remedy: str):
    """A division by zero after the first lesson; all checkpoints kept where none was to be."""
    ended = command("pretrain", *SMALLEST, override, f"hydra.run.dir={tmp_path}")
    refused(ended, f"{override}: {remedy}")
    assert not (tmp_path / "metrics.csv").exists()


def test_the_cards_numbers_are_the_last_validations():
    """None at all, where a run that was stopped after its last lesson is resumed; or those of another validation."""
    nan = float("nan")
    rows = pd.DataFrame(
        {
            "step": [2, 2, 3, 4, 4],
            "val/colour": [0.1, nan, nan, 0.5, nan],
            "val/cue_iou": [nan, 0.2, nan, nan, 0.6],
            "train/patch_loss": [nan, nan, 1.0, nan, nan],
        }
    )
    assert final_scores(rows) == pytest.approx({"val/colour": 0.5, "val/cue_iou": 0.6})
