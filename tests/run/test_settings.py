"""The numbers of a configuration: they follow the backbone's size, what is chosen is said, and a wrong one is named."""

from __future__ import annotations

import pytest

from locus.errors import LocusError
from locus.run.decoding_settings import DecodingSettings
from locus.run.recipe import RECIPE, chosen
from locus.run.settings import TrainSettings
from locus.training.algorithm import SFT
from tests.support.paths import CONF, REPO

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
    asked = {"scenes": True, "claims": True, "questions": True, "tasks": True, "none": False, "default": False}
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


def test_a_presets_updates_are_said_to_be_other_than_its_sources(compose_app):
    """easyr1 with the paper's 128 prompts: updates of 32, where EasyR1 has 128, and nobody is told."""
    sizes = {
        "algorithm=easyr1": "128 prompts x 8 rollouts, 4 x 32 prompts per update; the preset's source has 4 x 128: "
        "trainer.prompts_per_step=512",
        "trainer.prompts_per_step=512": "512 prompts x 8 rollouts, 4 x 128 prompts per update",
        "algorithm=grpo": "128 prompts x 8 rollouts, 1 x 128 prompts per update",
        "algorithm=sft": "128 prompts",
    }
    for override, said in sizes.items():
        easyr1 = ["algorithm=easyr1"] if "prompts" in override else []
        settings = TrainSettings.of(compose_app("train", [*REAL, "experiment=table8", *easyr1, override]))
        assert settings.step_sizes == said


@pytest.mark.parametrize(("preset", "column"), [("paper_128", 1), ("easyr1_512", 2)])
def test_both_readings_of_table_8_are_what_the_page_says(preset, column, compose_app):
    """A ledger that no longer is the configuration's, or a preset that makes EasyR1's four updates of 32 prompts."""
    rows = [line.strip("| ").split(" | ") for line in (REPO / "docs" / "paper.md").read_text().splitlines()]
    said = {row[0]: row[column].replace(",", "") for row in rows if len(row) == 3}
    cfg = compose_app("train", [*REAL, f"experiment=table8/{preset}"])
    settings = TrainSettings.of(cfg)
    steps, prompts, algorithm = settings.trainer.steps, settings.trainer.prompts_per_step, settings.algorithm
    ledger = {
        "prompts per step": prompts,
        "rollouts per prompt": algorithm.group_size,
        "completions per step": prompts * algorithm.group_size,
        "updates per step": algorithm.updates_per_rollout,
        "prompts per update": prompts // algorithm.mini_batches,
        "steps": steps,
        "updates": steps * algorithm.updates_per_rollout,
        "updates of warm-up": round(settings.optimizer.warmup_ratio * steps * algorithm.updates_per_rollout),
        "prompts in all": steps * prompts,
        "passes over 99500 examples": f"{steps * prompts / cfg.data.train_examples:.2f}",
        "completions in all": steps * prompts * algorithm.group_size,
    }
    said["passes over 99500 examples"] = said.pop("passes over 99,500 examples")
    assert {name: said[name] for name in ledger} == {name: str(value) for name, value in ledger.items()}
    assert cfg.data.train_examples == 99_500


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("rollout.sampling.max_new_tokens=0", "rollout.sampling.max_new_tokens=0: give a whole number from 1 on"),
        ("rollout.validation.top_p=1.5", "rollout.validation.top_p=1.5: give a number above 0, up to 1"),
        ("rollout.sampling.temperature=0", "rollout.sampling.temperature=0: a group's rollouts would all be the same"),
        ("rollout.validation.temperature=hot", "rollout.validation.temperature=hot: give a number from 0 on"),
        ("trainer.steps=true", "trainer.steps=True: give a whole number"),
        ("trainer.workers=-1", "trainer.workers=-1: give a whole number from 0 on"),
        ("trainer.logprobs=packd", "trainer.logprobs=packd: give one of packed, separate"),
        ("trainer.logprobs_chunk=0", "trainer.logprobs_chunk=0"),
        ("optimizer.warmup_ratio=2", "optimizer.warmup_ratio=2: give a number from 0 on, up to 1"),
        ("optimizer.clip_norm=0", "optimizer.clip_norm=0: give a number above 0"),
        ("optimizer.max_skipped=0", "optimizer.max_skipped=0"),
        ("algorithm.loss.kl_estimator=k4", "algorithm.loss.kl_estimator=k4: give one of k1, k2, k3"),
        ("algorithm.loss.dual_clip=0.5", "algorithm.loss.dual_clip=0.5: give a number above 1"),
        ("algorithm.loss.clip_low=-0.2", "algorithm.loss.clip_low=-0.2: give a number from 0 on, up to 1"),
        ("seed=2000001", "seed=2000001: the scenes of seeds 1000000 to 3999999 are held out"),
        ("seed=-1", "seed=-1: give a whole number from 0 on"),
        ("algorithm.mini_batches=1.5", "algorithm.mini_batches=1.5: give a whole number from 1 on"),
        ("algorithm.group_size=2.5", "algorithm.group_size=2.5"),
        ("trainer.stop_at=soon", "trainer.stop_at=soon: give a number"),
        ("trainer.max_seconds=0", "trainer.max_seconds=0: give a number above 0"),
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


@pytest.mark.parametrize(
    ("accelerator", "cuda", "expected"),
    [("cpu", True, False), ("gpu", False, True), ("cuda", False, True), ("auto", False, False), ("auto", True, True)],
)
def test_which_device_is_meant(accelerator, cuda, expected, compose_app, monkeypatch):
    """``cuda`` planned without the optimiser's copies, or ``auto`` as a GPU that is not there."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: cuda)
    cfg = compose_app("train", [f"trainer.accelerator={accelerator}"])
    assert TrainSettings.of(cfg).trainer.on_gpu is expected


def test_released_backbones_have_the_same_keys(compose_app):
    """``backbone.reference_dtype=bfloat16`` refused as unknown by one of them."""
    names = [file.stem for file in (CONF / "backbone").glob("*.yaml") if not file.stem.startswith("tiny")]
    keys = {name: {*compose_app("train", [f"backbone={name}"]).backbone} - {"family"} for name in names}
    assert all(found == keys["qwen2_5_vl_7b"] for found in keys.values()), keys


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["weights=lora", "weights.quantization=nf4"], "weights.quantization=nf4"),
        (["optimizer.make._target_=locus.training.optimizers.adamw_8bit"], "optimizer.make._target_"),
    ],
)
@pytest.mark.parametrize("trainer", ["fsdp2", "deepspeed"])
def test_what_needs_whole_weights_is_refused_where_they_are_shared(trainer, overrides, says, compose_app, monkeypatch):
    """A traceback after the weights are loaded and the first rollout is written."""
    monkeypatch.setattr("locus.run.settings.check_deepspeed", lambda trainer: None)
    shared = [f"trainer={trainer}", "trainer.accelerator=cpu", "trainer.devices=1", "trainer.precision=32-true"]
    with pytest.raises(LocusError, match=f"trainer={trainer}.*{says}"):
        TrainSettings.of(compose_app("train", [*shared, *overrides]))


def test_an_engine_has_the_budgets_of_all_that_counts_tokens(compose_app):
    """A decoder that holds more than the plan, the announcement and the update know of."""
    with pytest.raises(LocusError, match=r"rollout\.engine: .* set rollout\.token_budget"):
        TrainSettings.of(compose_app("train", ["rollout.engine.decode_budget=1000"]))
