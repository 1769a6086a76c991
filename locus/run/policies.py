"""Which weights are measured: a run's ``policy/`` folder, another folder, a hub id, or one of conf/backbone."""

from __future__ import annotations

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
from locus.run.runtime import CONF
from locus.tasks.answers import THINK_ANSWER


def choose_policy(cfg: DictConfig) -> str | None:
    """Puts ``policy`` in the place of the backbone; returns the path or hub id of what it was trained from.

    A run's ``policy/`` folder brings its run's settings along. Raises LocusError where nothing says in which frame the
    policy writes boxes.
    """
    policy, overrides = str(cfg.policy), HydraConfig.get().overrides.task
    if cfg.policy == HydraConfig.get().runtime.choices.backbone:
        return cfg.backbone.path
    run = Path(policy).resolve().parent / "config.yaml"
    groups = {file.stem: OmegaConf.load(file).get("path") for file in (CONF / "backbone").glob("*.yaml")}
    named = next((group for group, path in groups.items() if policy in (group, path)), None)
    if Path(policy).is_dir() and run.is_file() and "backbone" in (settings := OmegaConf.load(run)):
        origin, cfg.backbone = settings.backbone.path, settings.backbone
        OmegaConf.update(cfg, "backbone.path", policy)
        OmegaConf.update(cfg, "backbone.random_weights", False, force_add=True)
    elif named is not None and not Path(policy).is_dir():
        cfg.backbone = hydra.compose("evaluate", [f"backbone={named}"]).backbone
        origin = cfg.backbone.path
    elif any(text.split("=")[0] in ("backbone", "backbone.frame") for text in overrides):
        origin, cfg.backbone.path = cfg.backbone.path, policy
    else:
        known = ", ".join(sorted(groups))
        raise LocusError(
            f"policy={policy}: no policy/ folder of a run, and nothing says in which frame it writes boxes: pass "
            f"backbone=<one of {known}> as well, or check the path"
        )
    # Dotted overrides hold for the policy as well, as far as it has such settings.
    changes = [text for text in overrides if text.startswith("backbone.")]
    changes = [text for text in changes if OmegaConf.select(cfg, text.split("=")[0], default=text) != text]
    cfg.backbone = OmegaConf.merge(cfg.backbone, OmegaConf.from_dotlist(changes).get("backbone", {}))
    return origin


def check_lengths(cfg: DictConfig) -> None:
    """Raises LocusError for numbers of tokens that are none."""
    for key in ("token_budget", "sampling.max_new_tokens"):
        value = OmegaConf.select(cfg, key)
        if not isinstance(value, int) or value < 1:
            raise LocusError(f"{key}={value}: give a whole number from 1 on")


def build_evaluator(cfg: DictConfig) -> tuple[Evaluator, dict[str, Any]]:
    """The policy on its device, and the processor's own limits of pixels."""
    backbone = instantiate(cfg.backbone)
    name = ("cuda" if torch.cuda.is_available() else "cpu") if cfg.device == "auto" else cfg.device
    try:
        policy = backbone.load().to(torch.device(name))
    except (RuntimeError, AssertionError) as error:
        raise LocusError(f"device={cfg.device}: {error}") from error
    collator = PromptBuilder(backbone.processor(), instantiate(cfg.pixels))
    instruction = THINK_ANSWER if cfg.think else ""
    evaluator = Evaluator(policy, collator, instantiate(cfg.sampling), cfg.token_budget, instruction, cfg.seed)
    return evaluator, dict(collator.processor.image_processor.size)
