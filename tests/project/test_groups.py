"""The groups of the configuration: few, chosen by name, and a real backbone never gets a tiny run's numbers."""

from __future__ import annotations

import re

import pytest
import yaml
from hydra import compose, initialize_config_dir

from tests.support.paths import CONF

FILES = sorted(CONF.rglob("*.yaml"))


def choices(file) -> list[str]:
    """What a file's defaults list chooses, as ``group: option``."""
    listed = (yaml.safe_load(file.read_text()) or {}).get("defaults", [])
    return [f"{group}: {option}" for entry in listed if isinstance(entry, dict) for group, option in entry.items()]


def test_a_training_has_at_most_fifteen_groups():
    """Each group is a page to read before the first run; those of one kind belong together."""
    groups = {choice.split(":")[0].split("@")[0] for choice in choices(CONF / "train.yaml")}
    assert len(groups) <= 15, groups
    named = {
        "task",
        "backbone",
        "data",
        "crop",
        "cue",
        "reward",
        "algorithm",
        "trainer",
        "logger",
        "experiment",
        "sweep",
    }
    assert named <= groups


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.relative_to(CONF).as_posix())
def test_no_choice_is_interpolated_and_no_method_is_looked_up(file):
    """Which file is read must be seen from the files alone; parts are named, not fetched by ``get_method``."""
    assert not [choice for choice in choices(file) if "${" in choice]
    assert "get_method" not in file.read_text()


def test_a_real_backbone_gets_numbers_of_its_size():
    """At the tiny run's rate, tokens and pixels a 7 B run is wasted, and nothing says so."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        given = ["backbone=qwen2_5_vl_7b", "data=coco", "data.annotations=a.json", "data.images=b", "trainer=gpu"]
        real, tiny = compose("train", given), compose("train")
    assert (real.optimizer.make.lr, real.rollout.sampling.max_new_tokens, real.rollout.token_budget) == (
        1e-6,
        2048,
        65536,
    )
    assert (real.pixels.min_pixels, real.pixels.max_pixels, real.diagnoses.enabled) == (262144, 4194304, False)
    assert (tiny.optimizer.make.lr, tiny.rollout.sampling.max_new_tokens, tiny.diagnoses.enabled) == (2e-4, 48, True)


def test_kinds_of_questions_are_named():
    """``kinds: [colour, shape]``: a list that anyone can write on a command line."""
    kinds = [line for file in FILES for line in file.read_text().splitlines() if re.match(r"\s*kinds:", line)]
    assert kinds and all(re.fullmatch(r"\s*kinds: \[[a-z_, ]+\](\s+#.*)?", line) for line in kinds), kinds
