"""Which weights are measured: a run's ``policy/`` folder, another folder, a hub id, or one of conf/backbone."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import hydra
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from locus.errors import LocusError
from locus.evaluation.evaluator import Evaluator
from locus.policy.prompts import PromptBuilder
from locus.run.decoding_settings import DecodingSettings
from locus.run.help import CONF
from locus.run.runtime import overridden
from locus.tasks.answers import THINK_ANSWER

log = logging.getLogger("locus")


def with_policy(cfg: DictConfig, policy: str) -> tuple[DictConfig, str | None]:
    """The configuration with this policy in the place of its backbone, and the path or hub id it was trained from.

    A run's ``policy/`` folder brings its run's backbone along, not its ``pixels``; dotted overrides and ``dtype`` hold
    for any policy: ``auto`` is bfloat16 on a GPU; elsewhere, or with ``backbone.dtype=``, what the backbone has.

    Raises LocusError where nothing says in which frame the policy writes boxes.
    """
    chosen = cfg.copy()
    chosen.backbone, origin = _backbone_of(cfg, policy)
    dtype = cfg.dtype
    if dtype == "auto":
        given = any(text.startswith("backbone.dtype=") for text in HydraConfig.get().overrides.task)
        dtype = "bfloat16" if device_of(cfg).type == "cuda" and not given else None
    if dtype is not None:
        OmegaConf.update(chosen, "backbone.dtype", dtype, force_add=True)
    return chosen, origin


def device_of(cfg: DictConfig) -> torch.device:
    """The device that ``device`` names; raises LocusError for none."""
    try:
        return torch.device(("cuda" if torch.cuda.is_available() else "cpu") if cfg.device == "auto" else cfg.device)
    except RuntimeError as error:
        raise LocusError(f"device={cfg.device}: {error}") from error


def _backbone_of(cfg: DictConfig, policy: str) -> tuple[Any, str | None]:
    """The settings of a policy's backbone, and what it was trained from."""
    overrides = HydraConfig.get().overrides.task
    backbone: Any
    job: Any = HydraConfig.get()
    if policy == job.runtime.choices.backbone:
        return cfg.backbone, cfg.backbone.path
    settings: Any = OmegaConf.load(_run_config(policy)) if is_run(policy) else {}
    named = named_backbone(policy)
    if "backbone" in settings:
        origin = settings.backbone.path
        own = {"path": policy, "random_weights": False, "architecture": None}
        backbone = OmegaConf.merge(settings.backbone, own | {"_target_": cfg.backbone._target_})
    elif named is not None and not Path(policy).is_dir():
        backbone = hydra.compose("evaluate", [f"backbone={named}"]).backbone
        origin = backbone.path
    elif any(text.split("=")[0] in ("backbone", "backbone.frame") for text in overrides):
        origin, backbone = cfg.backbone.path, OmegaConf.merge(cfg.backbone, {"path": policy})
    else:
        known = ", ".join(sorted(_backbones()))
        raise LocusError(
            f"policy={policy}: not the policy/ folder of a run, and nothing says in which frame it writes boxes: pass "
            f"backbone=<one of {known}> as well, or check the path"
        )
    # Dotted overrides hold for the policy as well, as far as it has such settings.
    changes = [text.removeprefix("backbone.") for text in overrides if text.startswith("backbone.")]
    changes = [text for text in changes if OmegaConf.select(backbone, text.split("=")[0], default=text) != text]
    return overridden(backbone, changes), origin


def is_run(policy: str) -> bool:
    """Whether this is the ``policy/`` folder of a run: one that locus has trained."""
    return Path(policy).is_dir() and _run_config(policy).is_file()


def named_backbone(policy: str) -> str | None:
    """The option of conf/backbone with this name or path."""
    return next((group for group, own in _backbones().items() if policy in (group, own.get("path"))), None)


def _run_config(policy: str) -> Path:
    return Path(policy).resolve().parent / "config.yaml"


def _backbones() -> dict[str, Any]:
    return {file.stem: OmegaConf.load(file) for file in (CONF / "backbone").glob("*.yaml")}


def build_evaluator(cfg: DictConfig) -> tuple[Evaluator, dict[str, Any]]:
    """The policy on its device, and the processor's own limits of pixels."""
    backbone = instantiate(cfg.backbone)
    device = device_of(cfg)
    try:
        policy = backbone.load().to(device)
    except (RuntimeError, AssertionError) as error:
        raise LocusError(f"device={cfg.device}: {error}") from error
    log.info("%s: weights in %s on %s", backbone.path or "the policy", backbone.dtype, device)
    builder = PromptBuilder(backbone.processor(), instantiate(cfg.pixels), backbone.family)
    instruction, decoding = THINK_ANSWER if cfg.think else "", DecodingSettings.of(cfg)
    evaluator = Evaluator(policy, builder, decoding.sampling, decoding.token_budget, instruction, decoding.seed)
    return evaluator, dict(builder.processor.image_processor.size)
