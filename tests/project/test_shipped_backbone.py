"""The embedded backbone: it opens with plain transformers, is small, and can do what its card says."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd
import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor, Qwen3VLForConditionalGeneration

from locus.policy.backbone import Backbone
from locus.policy.engines import LocalEngine
from locus.policy.prompts import PixelLimits, PromptBuilder
from locus.scenes.questions import colour, grounding
from locus.scenes.source import SceneSource
from locus.tasks.datamodule import SampleMaker, Samples
from locus.tasks.rollouts import roll_out
from locus.tasks.scene_questions import SceneQuestions
from locus.types import Sampling
from tests.support.paths import REPO
from tests.support.runs import command, succeeded

TINY = REPO / "locus" / "assets" / "tiny"
UNSEEN = SceneSource(1, 128, 128, (4, 7), (10, 26), stretch=1.2, clutter=0.4, seed=31)
GAIN = 0.10
"""Of mean IoU in the default run, by the lower end of its interval, which was 0.12 to 0.15 with seeds 11 to 15."""
LOSSES = {"H2 Questions in crowded scenes improve": 3.0, "H3 Other questions are kept": 6.0}
"""Points that a run may lose of 1,000 questions, and of the 99 or 300 of the family that decides, noise included."""


def test_it_opens_and_is_small():
    """A folder that lacks a file, or weights that a package index refuses."""
    model = AutoModelForImageTextToText.from_pretrained(TINY)
    assert isinstance(model, Qwen3VLForConditionalGeneration) and model.dtype == torch.bfloat16
    assert 3e6 <= sum(parameter.numel() for parameter in model.parameters()) <= 10e6
    assert AutoProcessor.from_pretrained(TINY).tokenizer.eos_token == "<|im_end|>"
    assert sum(file.stat().st_size for file in TINY.rglob("*")) <= 20e6
    assert not list(Path(TINY).glob("*.bin"))  # pickles run code


def test_its_card_says_what_it_is():
    """Weights of unknown origin or licence."""
    card = (TINY / "README.md").read_text()
    assert "license: apache-2.0" in card and "python -m locus.pretrain" in card
    assert len(re.findall(r"^\| .* \| \d\.\d{3} \|$", card, re.MULTILINE)) >= 10


def test_it_answers_questions():
    """Weights that do not belong to this tokenizer, processor or frame answer at chance."""
    backbone = Backbone("processed", path=str(TINY))
    policy, make = backbone.load(), PromptBuilder(backbone.processor(), PixelLimits())
    greedy, budget = Sampling(temperature=0.0, max_new_tokens=24), 32_768
    for ask, least in ((colour, 0.6), (grounding, 0.5)):  # by chance 0.1, and next to 0
        task = SceneQuestions(UNSEEN, ask, 60, seed=0)
        samples = Samples(SampleMaker(task, make, policy.frame), "validation")
        rolled_out = roll_out(policy, task, samples, make.decode, greedy, 1, 0, 0, LocalEngine(budget, budget))
        groups = [group for group, _ in rolled_out]
        assert task.validation_metrics(groups)["accuracy"] >= least


@pytest.mark.slow
def test_the_default_run(tmp_path, capsys):
    """The effect that the project exists for, lost by any change to data, rollouts, rewards, loss or weights.

    Attention moves to the evidence of questions that are never trained on; their answers are kept. Gains count by the
    lower ends of their intervals: one seed then tells more than the estimates of two, in half of the time.
    """
    succeeded(command("train", "seed=1", "logger=csv", f"hydra.run.dir={tmp_path}"))
    claims = pd.read_csv(tmp_path / "claims.csv").set_index("name")
    with capsys.disabled():
        print(f"\n{claims[['estimate', 'low', 'high']].to_dict('index')}")
    assert claims.low["H1 change of the mean IoU"] >= GAIN
    assert claims.low["H4 Attention moves to the evidence"] > 0
    assert all(claims.estimate[name] >= -most for name, most in LOSSES.items())
