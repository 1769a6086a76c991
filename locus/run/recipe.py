"""What a backbone's recipe advises, and what a run takes of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from omegaconf import DictConfig, OmegaConf

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


def _written(value: Any) -> str:
    """As in a configuration file."""
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)
