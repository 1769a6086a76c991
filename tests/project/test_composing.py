"""tests/support/composing.py: what the tests compose is what Hydra composes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra._internal import defaults_list
from hydra._internal.config_repository import ConfigRepository
from omegaconf import OmegaConf

from tests.support import composing
from tests.support.paths import CONF

COMMANDS = (
    ("train", "experiment=tasks", "scale=tiny"),
    ("train",),
    ("evaluate", "benchmark=pope"),
    ("train", "experiment=table8", "task=mixture", "task@task.parts.other=rotation", "seed=7"),
    ("train",),
)
"""Each after others that place the same files elsewhere, or override what they say."""


def composed(app: str, *overrides: str, conf: Path = CONF) -> str:
    with initialize_config_dir(str(conf), version_base="1.3"):
        return OmegaConf.to_yaml(compose(app, list(overrides), return_hydra_config=True))


def test_it_is_what_hydra_composes(monkeypatch: pytest.MonkeyPatch):
    """A file that was changed by an earlier composition, or choices that are forgotten: all tests would be of these."""
    assert ConfigRepository.load_config is composing.load_config
    quick = [composed(*command) for command in COMMANDS]
    monkeypatch.setattr(ConfigRepository, "load_config", composing.hydras_load_config)
    monkeypatch.setattr(defaults_list, "_create_interpolation_map", composing.hydras_interpolation_map)
    assert quick == [composed(*command) for command in COMMANDS]


def test_files_that_are_written_to_and_interpolated_choices(tmp_path: Path):
    """A test that writes a file of a configuration twice and gets the first one; a choice that follows another."""
    for name in ("size", "shape"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "small.yaml").write_text("of: small\n")
        (tmp_path / name / "large.yaml").write_text("of: large\n")
    (tmp_path / "train.yaml").write_text("defaults: [_self_, {size: small}, {shape: '${size}'}]\n")
    assert composed("train", conf=tmp_path).count("of: small") == 2
    assert composed("train", "size=large", conf=tmp_path).count("of: large") == 2
    (tmp_path / "size" / "small.yaml").write_text("of: other\n")
    os.utime(tmp_path / "size" / "small.yaml", ns=(0, 0))  # written within the clock's tick, it would be of one time
    assert composed("train", conf=tmp_path).count("of: other") == 1
