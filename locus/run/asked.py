"""Which policy a benchmark is put to, in this process or behind a server, and with which instruction."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from locus.boxes import parse_frame
from locus.errors import LocusError, by_name
from locus.evaluation.benchmark import Item
from locus.evaluation.endpoint import ENDPOINT, EndpointPolicy
from locus.evaluation.evaluator import Asker
from locus.files.chat_endpoint import ChatServer
from locus.policy.prompts import PromptBuilder
from locus.run.decoding_settings import DecodingSettings
from locus.run.policies import build_evaluator, is_run, named_backbone, with_policy
from locus.tasks.answers import THINK_ANSWER
from locus.types import Frame

INSTRUCTIONS = {"think": THINK_ANSWER, "none": ""}
"""What scores call it -> what stands behind each prompt."""


@dataclass(frozen=True)
class AskedPolicy:
    """A policy that is about to be asked."""

    cfg: DictConfig
    """The configuration with the policy's own backbone, and in ``think`` whether this one is asked to think."""
    name: str
    """As scores call it."""
    origin: str | None
    """The path or hub id it was trained from."""
    server: ChatServer | None = None
    """That serves it; None for one in this process."""
    known: bool = True
    """Its backbone's processor is known."""

    @property
    def instruction(self) -> str:
        """A key of `INSTRUCTIONS`."""
        return "think" if self.cfg.think else "none"

    def for_items(self, items: Iterable[Item]) -> AskedPolicy:
        """The same, not asked to think where that changes no prompt: it is then asked like one that is not."""
        cfg = self.cfg.copy()
        cfg.think = bool(cfg.think) and any(item.asked(THINK_ANSWER) != item.prompt for item in items)
        return replace(self, cfg=cfg)

    @property
    def extra(self) -> dict[str, Any]:
        """Further fields of every request to a server, as JSON has them."""
        given = self.cfg.endpoint.extra
        fields: Any = {} if given is None else OmegaConf.to_container(given, resolve=True)
        return fields

    def asker(self) -> tuple[Asker, dict[str, Any]]:
        """What puts the items to it, and facts about that for the manifest; loads the policy where it is not served.

        Raises LocusError where no server answers, or it serves another model.
        """
        if self.server is None:
            evaluator, pixels = build_evaluator(self.cfg)
            return evaluator, {"processor_pixels": pixels}
        decoding, endpoint = DecodingSettings.of(self.cfg), self.cfg.endpoint
        facts: dict[str, Any] = {"policy": ENDPOINT}
        served = _card(self.server)
        frame, pixels, builder = self.cfg.backbone.frame, instantiate(self.cfg.pixels), None
        if self.known:
            backbone = instantiate(self.cfg.backbone)
            builder = PromptBuilder(backbone.processor(), pixels, backbone.family)
            facts["processor_pixels"] = dict(builder.processor.image_processor.size)
        policy = EndpointPolicy(
            self.server,
            decoding.sampling,
            None if frame is None else parse_frame(frame),
            builder,
            INSTRUCTIONS[self.instruction],
            decoding.seed,
            endpoint.requests,
            self.extra,
            endpoint.check,
            pixels,
        )
        return policy, facts | {"endpoint": {"url": self.server.url, "model": self.server.model, "served": served}}


def asked_policy(cfg: DictConfig) -> AskedPolicy:
    """The policy that ``policy=`` names.

    A server is asked only for the name of its model, where none is given. Raises LocusError where nothing says in which
    frame it writes boxes, or ``think`` is none of true, false and trained.
    """
    if cfg.policy == ENDPOINT:
        return _served(cfg)
    chosen, origin = with_policy(cfg, str(cfg.policy))
    return AskedPolicy(_instructed(chosen, is_run(str(cfg.policy))), str(cfg.policy), origin)


def _instructed(cfg: DictConfig, trained: bool | None) -> DictConfig:
    """The configuration with true or false for ``think``, as it holds for a policy that a run has trained or not."""
    chosen = by_name("think", str(cfg.think).lower(), {"true": True, "false": False, "trained": trained})
    if chosen is None:
        raise LocusError(
            f"think={cfg.think}: nothing says whether the served policy was trained: pass think=true or think=false, "
            "or backbone.path=<the policy/ folder of its run>"
        )
    cfg.think = chosen
    return cfg


def _served(cfg: DictConfig) -> AskedPolicy:
    """The model that a server serves: processor and frame are those of its name, of ``backbone=`` or of the run whose
    folder ``backbone.path=`` is."""
    settings = cfg.endpoint
    names = "url", "model", "key_variable", "tries", "timeout", "wait"
    server = ChatServer(ENDPOINT, **{name: settings[name] for name in names})
    if not server.model:
        _card(server)
    model, chosen = server.model, cfg.copy()
    given = {text.split("=")[0] for text in HydraConfig.get().overrides.task}
    known, trained = True, None
    says = "pass backbone=<the option of conf/backbone that is served>"
    path = str(cfg.backbone.path) if "backbone.path" in given else ""
    if is_run(model) or named_backbone(model):
        chosen, origin = with_policy(cfg, model)
        trained = is_run(model)
    elif "backbone" in given:
        origin = cfg.backbone.path
        trained = is_run(str(origin)) or None
    elif is_run(path) or named_backbone(path):
        chosen, origin = with_policy(cfg, path)
        trained = is_run(path) or None
    elif path:
        raise LocusError(f"backbone.path={path}: not the policy/ folder of a run: {says} as well")
    else:
        frame = cfg.backbone.frame if "backbone.frame" in given else None
        chosen.backbone, origin, known = {"frame": frame}, model, False
        if "frame" in cfg.benchmark and frame is None:
            raise LocusError(f"{ENDPOINT}.model={model}: nothing says in which frame it writes boxes: {says}")
        if "frame" in cfg.benchmark and parse_frame(frame) is Frame.PROCESSED:
            raise LocusError(
                f"{ENDPOINT}.model={model}: writes boxes in pixels of the picture as its processor resizes it, and "
                f"nothing says which processor: {says}"
            )
    return AskedPolicy(_instructed(chosen, trained), f"{ENDPOINT}:{model}", origin, server, known)


def _card(server: ChatServer) -> dict[str, Any]:
    """What the server says of the model; where none is named, that is the only one that it serves."""
    cards = {str(card.get("id")): card for card in server.models()}
    server.model = server.model or (next(iter(cards)) if len(cards) == 1 else "")
    if server.model not in cards:
        raise LocusError(f"{ENDPOINT}.model={server.model}: {server.url} serves {', '.join(cards) or 'none'}: give one")
    known = "root", "owned_by", "max_model_len"
    return {name: cards[server.model][name] for name in known if name in cards[server.model]}
