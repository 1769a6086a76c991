"""The numbers of a configuration: they follow the backbone's size, what is chosen is said, and a wrong one is named."""

from __future__ import annotations

import pytest

from locus.errors import LocusError
from locus.run.settings import RECIPE, DecodingSettings, TrainSettings, chosen
from locus.training.algorithm import SFT
from tests.support.paths import CONF

REAL = ["backbone=qwen2_5_vl_7b", "data=coco", "data.annotations=a.json", "data.images=a", "trainer=gpu"]


@pytest.mark.parametrize("backbone", [file.stem for file in sorted((CONF / "backbone").glob("*.yaml"))])
def test_every_backbone_has_its_recipe(backbone, compose_app):
    """A backbone of billions of parameters with the rate, the 48 tokens or the diagnoses of the tiny one."""
    cfg = compose_app("train", [f"backbone={backbone}"])
    settings = TrainSettings.of(cfg)
    found = cfg.optimizer.make.lr, settings.rollout.sampling.max_new_tokens, settings.rollout.token_budget
    found += settings.rollout.decoding.budget, cfg.pixels.min_pixels, cfg.pixels.max_pixels, cfg.diagnoses.enabled
    tiny = backbone.startswith("tiny")
    assert found == (
        (2e-4, 48, 32768, 32768, None, None, True) if tiny else (1e-6, 2048, 65536, 262144, 262144, 4194304, False)
    )
    assert settings.rollout.validation.max_new_tokens == found[1]


def test_a_real_backbone_alone_is_the_papers(compose_app):
    """Numbers of experiment=table8 that nobody gets without it; evaluation that resizes without being asked."""
    plain, paper = compose_app("train", REAL), compose_app("train", [*REAL, "experiment=table8"])
    assert (plain.rollout, plain.optimizer, plain.pixels) == (paper.rollout, paper.optimizer, paper.pixels)
    for app in ("evaluate", "analyze"):
        assert compose_app(app, ["backbone=qwen2_5_vl_7b"]).pixels.max_pixels is None


def test_diagnoses_of_a_real_backbone_are_those_asked_for(compose_app):
    """A default that cannot be overruled, in either direction."""
    asked = {"scenes": True, "claims": True, "questions": True, "none": False, "default": False}
    for option, enabled in asked.items():
        assert compose_app("train", [*REAL, f"diagnoses={option}"]).diagnoses.enabled is enabled
    assert set(asked) == {file.stem for file in (CONF / "diagnoses").glob("*.yaml")}


def test_what_is_chosen_is_said(compose_app):
    """A value that departs from the recipe, or follows it, without a word."""
    lines = list(chosen(compose_app("train", [*REAL, "optimizer.make.lr=1e-5", "diagnoses=scenes"])))
    assert len(lines) == len(RECIPE)
    assert "optimizer.make.lr=1e-05 (1e-06 in backbone.recipe)" in lines
    assert "rollout.sampling.max_new_tokens=2048 (as backbone.recipe)" in lines
    assert "diagnoses.enabled=true (false in backbone.recipe)" in lines
    assert "pixels.min_pixels=null (as backbone.recipe)" in list(chosen(compose_app("train")))


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("rollout.sampling.max_new_tokens=0", "rollout.sampling.max_new_tokens=0: give a whole number from 1 on"),
        ("rollout.validation.top_p=1.5", "rollout.validation.top_p=1.5: give a number above 0, up to 1"),
        ("rollout.validation.temperature=hot", "rollout.validation.temperature=hot: give a number from 0 on"),
        ("trainer.steps=true", "trainer.steps=True: give a whole number"),
        ("trainer.workers=-1", "trainer.workers=-1: give a whole number from 0 on"),
        ("trainer.logprobs=packd", "trainer.logprobs=packd: give one of packed, separate"),
        ("trainer.logprobs_chunk=0", "trainer.logprobs_chunk=0"),
        ("optimizer.warmup_ratio=2", "optimizer.warmup_ratio=2: give a number from 0 on, up to 1"),
        ("optimizer.clip_norm=0", "optimizer.clip_norm=0: give a number above 0"),
        ("optimizer.max_skipped=0", "optimizer.max_skipped=0"),
        ("algorithm.loss.kl_estimator=k4", "algorithm.loss.kl_estimator=k4: give one of k1, k2, k3"),
        ("seed=2000001", "seed=2000001: the scenes of seeds 1000000 to 3999999 are held out"),
        ("seed=-1", "seed=-1: give a whole number from 0 on"),
        ("algorithm.mini_batches=1.5", "algorithm.mini_batches=1.5: give a whole number from 1 on"),
        ("algorithm.group_size=2.5", "algorithm.group_size=2.5"),
        ("trainer.stop_at=soon", "trainer.stop_at=soon: give a number"),
    ],
)
def test_a_wrong_number_is_named_by_its_key(override, says, compose_app):
    """A message that leaves out the section, or is of the number's twin."""
    with pytest.raises(Exception) as caught:
        TrainSettings.of(compose_app("train", [override]))
    causes = [caught.value]
    while causes[-1].__cause__ is not None:
        causes.append(causes[-1].__cause__)
    assert next(str(cause) for cause in causes if isinstance(cause, LocusError)).startswith(says)


def test_wrong_numbers_of_an_evaluation(compose_app):
    """The same for what evaluate and analyze take; the second has no items to limit by itself."""
    for override in ("sampling.top_p=0", "token_budget=0", "limit=0", "resamples=0"):
        with pytest.raises(LocusError, match=rf"^{override}: give a"):
            DecodingSettings.of(compose_app("evaluate", [override]))
    assert DecodingSettings.of(compose_app("analyze")).limit is None


def test_supervised_fine_tuning_is_an_algorithm(compose_app):
    """Settings of GRPO that a supervised run has and nothing reads."""
    cfg = compose_app("train", ["algorithm=sft"])
    assert TrainSettings.of(cfg).algorithm == SFT() and set(cfg.algorithm) == {"_target_"}
