"""Hydra's composition without two things that it does again and again, which are two fifths of its time."""

from __future__ import annotations

import copy
import os
from typing import Any

from hydra._internal import defaults_list
from hydra._internal.config_repository import ConfigRepository
from hydra.core.object_type import ObjectType
from hydra.plugins.config_source import ConfigResult
from omegaconf import DictConfig, OmegaConf

hydras_load_config = ConfigRepository.load_config
hydras_interpolation_map = defaults_list._create_interpolation_map
_KEPT: dict[tuple[Any, ...], ConfigResult | None] = {}


def load_config(repository: ConfigRepository, config_path: str) -> ConfigResult | None:
    """A file is parsed once for as long as nobody writes to it; each time a copy, for compositions change it."""
    source = repository._find_object_source(config_path, ObjectType.CONFIG)
    if source is None or source.scheme() != "file":
        return hydras_load_config(repository, config_path)
    file = os.stat(os.path.join(source.path, source._normalize_file_name(config_path)))
    known = source.provider, source.path, config_path, file.st_ino, file.st_mtime_ns, file.st_size
    if known not in _KEPT:
        _KEPT[known] = hydras_load_config(repository, config_path)
    return copy.deepcopy(_KEPT[known])


def interpolation_map(overrides: Any, defaults: list[Any], self_added: bool) -> DictConfig:
    """All choices so far, where a default is an interpolation; Hydra gathers them for each file that it reads."""
    if any(one.is_interpolation() for one in defaults):
        return hydras_interpolation_map(overrides, defaults, self_added)
    return OmegaConf.create()


def compose_quickly() -> None:
    """In this process, from now on."""
    ConfigRepository.load_config = load_config
    defaults_list._create_interpolation_map = interpolation_map
