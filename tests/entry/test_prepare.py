"""``python -m locus.prepare``: the run folder and the sweep."""

from __future__ import annotations

import json

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import OmegaConf
from PIL import Image

from locus.errors import LocusError
from locus.prepare import describe, prepare
from locus.run.runtime import missing_keys
from locus.tasks.cue_search.corpus import Corpus
from tests.support.paths import REPO
from tests.support.runs import command, succeeded

SMALL = ["data.source.count=60", "data.train_examples=100", "data.validation_examples=10", "audit.ambiguity_sample=5"]


def composed(*overrides: str):
    with initialize_config_dir(str(REPO / "conf"), version_base="1.3"):
        return compose("prepare", list(overrides))


@pytest.mark.parametrize("name", sorted(path.stem for path in (REPO / "conf" / "crop").glob("*.yaml")))
def test_every_shipped_crop_strategy_is_built(name):
    """A config that names what is not there: each must be made of its keys alone."""
    strategy = instantiate(composed(f"crop={name}").crop, _convert_="all")
    assert set(strategy.bin_names) <= set(strategy.bins) and strategy.ratios.sum() == pytest.approx(1)


@pytest.mark.parametrize("name", sorted(path.stem for path in (REPO / "conf" / "data").glob("*.yaml")))
def test_every_shipped_source_is_built(name):
    """A shipped source with a misspelt argument, or with no examples asked of it."""
    cfg = composed(f"data={name}")
    for key in missing_keys(OmegaConf.to_container(cfg)):
        OmegaConf.update(cfg, key, "somewhere")
    assert instantiate(cfg.data.source, _convert_="all").table
    assert cfg.data.train_examples > 0 and cfg.data.validation_examples > 0


def test_default_prepare_leaves_a_corpus_and_the_same_one_again(tmp_path):
    """The run folder that the training reads; a second run that differs."""
    corpus = prepare(composed(*SMALL), tmp_path / "a")
    again = prepare(composed(*SMALL), tmp_path / "b")
    record = json.loads((tmp_path / "a" / "corpus.json").read_text())
    assert Corpus.load(tmp_path / "a").content_hash == corpus.content_hash == again.content_hash == record["hash"]
    assert record["examples"] == {"train": 100, "validation": 10} and record["audits"]["ambiguity"]["sampled"] == 5
    assert "broken_images" not in record["audits"]  # generated pictures are not checked
    table = describe(corpus)
    assert corpus.content_hash in table and "ambiguity: sampled 5" in table
    assert table.splitlines()[1].split() == ["train", "30", "70", "100", str(record["images"]["train"]), "100"]


def test_the_corpus_does_not_depend_on_the_audits_that_only_report(tmp_path):
    """Another training set because more examples were looked at."""
    hashes = {prepare(composed(*SMALL, f"audit.ambiguity_sample={n}"), tmp_path).content_hash for n in (0, 3)}
    assert len(hashes) == 1


def test_a_run_trains_on_what_was_prepared(tmp_path):
    """Two defaults: scenes that a run does not know, refused before its first step."""
    succeeded(command("prepare", *SMALL, f"hydra.run.dir={tmp_path / 'corpus'}"))
    sizes = "logger=csv", "diagnoses=none", "trainer.steps=1", "trainer.prompts_per_step=2", "algorithm.group_size=2"
    run = "backbone=tiny_random", "rollout.sampling.max_new_tokens=4", f"hydra.run.dir={tmp_path / 'run'}"
    succeeded(command("train", f"corpus={tmp_path / 'corpus'}", *sizes, *run))


def test_keys_without_a_value_are_named():
    """omegaconf's own list fails on an interpolation to a missing value."""
    assert missing_keys(OmegaConf.to_container(composed("data=coco"))) == ["data.annotations", "data.images"]


def test_folder_needs_random_crops(tmp_path):
    """Images without objects under the default strategy: the remedy is named."""
    for name in "abcd":
        Image.effect_noise((320, 240), 80).save(tmp_path / f"{name}.png")
    folder = ["data=folder", f"data.path={tmp_path}", "data.train_examples=20", "data.validation_examples=5"]
    with pytest.raises(LocusError, match="use crop=random"):
        prepare(composed(*folder), tmp_path / "out")
    assert len(prepare(composed(*folder, "crop=random"), tmp_path / "out").train) == 20


@pytest.mark.slow
def test_multirun_makes_one_folder_a_run(tmp_path):
    """Runs of a sweep that overwrite each other."""
    succeeded(command("prepare", "-m", "seed=1,2", *SMALL, f"hydra.sweep.dir={tmp_path}"))
    hashes = {json.loads((tmp_path / run / "corpus.json").read_text())["hash"] for run in ("0", "1")}
    assert len(hashes) == 2 and (tmp_path / "0" / ".hydra" / "config.yaml").exists()
