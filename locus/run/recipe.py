"""What a run takes of its backbone's recipe, and where it departs from a preset."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

import hydra
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf

from locus.run.help import CONF

RECIPE = {
    "optimizer.make.lr": "lr",
    "rollout.sampling.max_new_tokens": "max_new_tokens",
    "rollout.token_budget": "token_budget",
    "rollout.decode_budget": "decode_budget",
    "pixels.min_pixels": "min_pixels",
    "pixels.max_pixels": "max_pixels",
    "diagnoses.enabled": "diagnose",
}
"""Keys of conf/train.yaml that follow ``backbone.recipe`` unless they are given."""


def chosen(cfg: DictConfig) -> Iterator[str]:
    """A line for each setting that follows the backbone's recipe: its value, and the recipe's where it departs."""
    for key, name in RECIPE.items():
        value, advised = (_written(OmegaConf.select(cfg, one)) for one in (key, f"backbone.recipe.{name}"))
        yield f"{key}={value} ({'as' if value == advised else advised + ' in'} backbone.recipe)"


def differences(ours: DictConfig, group: str, preset: str) -> list[str]:
    """``key: ours (preset: theirs)`` for each setting in which a config group departs from one of its presets."""
    known = GlobalHydra.instance().is_initialized()
    with contextlib.nullcontext() if known else hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        searched = GlobalHydra.instance().config_loader().get_search_path()
        theirs = _preset(group, preset, str(searched))
    mine: Any = OmegaConf.to_container(ours)
    return _differences(mine, theirs, "")


@functools.cache
def _preset(group: str, preset: str, searched: str) -> dict[str, Any]:
    """What a config group is with this option; composed once for all runs of a process that search the same folders."""
    settings: Any = OmegaConf.to_container(hydra.compose("train", [f"{group}={preset}"])[group])
    return settings


def _differences(ours: dict[str, Any], theirs: dict[str, Any], prefix: str) -> list[str]:
    lines = []
    for key, value in ours.items():
        other = theirs.get(key)
        if isinstance(value, dict) and isinstance(other, dict):
            lines += _differences(value, other, f"{prefix}{key}.")
        elif value != other:
            lines.append(f"{prefix}{key}: {value} (paper: {other})")
    return lines


def _written(value: Any) -> str:
    """As in a configuration file."""
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)
