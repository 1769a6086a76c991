"""Where a policy comes from: a hub id, a local folder, or a configuration with random weights."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    AutoProcessor,
    PreTrainedConfig,
    PreTrainedModel,
    ProcessorMixin,
)

from locus.boxes import parse_frame
from locus.errors import LocusError
from locus.policy.families.qwen_vl import QwenVL
from locus.policy.family import Family
from locus.policy.tiny import TinyArchitecture
from locus.policy.vlm import VLM


@dataclass(frozen=True)
class Backbone:
    """How to build a policy and its processor; `load` may be called again for the reference, with the same weights.

    Either ``path`` (hub id or local folder) or ``architecture`` (a tiny one, random weights from ``seed``) is given;
    with both, the path wins: so a run may start from a trained tiny policy.
    """

    frame: str | None
    """The frame the model writes boxes in; it must be declared (peers' silent error)."""
    path: str | None = None
    architecture: TinyArchitecture | None = None
    random_weights: bool = False
    """With ``path``: take its configuration and processor only, and initialise at random from ``seed``."""
    seed: int = 0
    dtype: str = "float32"
    """Of the weights. float32 for training: at lr 1e-6 a bfloat16 AdamW loses most updates to rounding."""
    reference_dtype: str | None = None
    """Of the frozen reference's weights; None for ``dtype``. Nothing of it trains, so bfloat16 loses no update."""
    train_vision: bool = True
    gradient_checkpointing: bool = False
    family: Family = QwenVL()
    """What the model's class does in its own way."""
    recipe: Mapping[str, Any] | None = None
    """What training takes unless it is told otherwise; the configuration reads it, the model does not."""

    def __post_init__(self) -> None:
        if self.frame is None:
            raise LocusError("backbone.frame is not declared: say in which frame this model writes boxes")
        parse_frame(self.frame)
        if self.path is None and self.architecture is None:
            raise LocusError("backbone.path is not set: give a hub id, a local folder, or use backbone=tiny")
        if not hasattr(self.family, "prepare"):
            raise LocusError(
                f"backbone.family={self.family} is not a family: give its class as _target_, as "
                "conf/backbone/qwen3_5_4b.yaml does"
            )
        for key, name in (("dtype", self.dtype), ("reference_dtype", self.reference_dtype or self.dtype)):
            dtype = getattr(torch, name, None)
            if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
                raise LocusError(f"backbone.{key}={name} is not a floating-point type: use float32 or bfloat16")

    def processor(self) -> ProcessorMixin:
        """The model's own processor, with its own chat template."""
        if self.path is None and self.architecture is not None:
            return self.architecture.processor()
        return self._from(AutoProcessor)

    def load(self) -> VLM:
        """Builds the model; the same weights at every call."""
        processor = self.processor()
        return self._vlm(self._model(processor), processor)

    def outline(self, device: str = "meta", layers: int | None = None) -> VLM:
        """The architecture without its weights: on the meta device none at all, elsewhere random ones.

        layers: each tower's at most, of the language model whole periods of its kinds of layers; None for all.
        """
        processor = self.processor()
        config = self._config(processor)
        if layers is not None:
            config = shallow(config, layers)
        with torch.random.fork_rng(devices=[]), torch.device(device):
            torch.manual_seed(self.seed)
            model = AutoModelForImageTextToText.from_config(config, dtype=getattr(torch, self.dtype))
        return self._vlm(model, processor)

    def _vlm(self, model: PreTrainedModel, processor: ProcessorMixin) -> VLM:
        if self.gradient_checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        listed = model.generation_config.eos_token_id or []
        # The tokenizer's ends a turn, and comes first; without generation_config.json transformers may not list it.
        ends = [processor.tokenizer.eos_token_id, *([listed] if isinstance(listed, int) else listed)]
        end_ids = list(dict.fromkeys(end for end in ends if end is not None))
        vocabulary = processor.tokenizer.get_vocab()
        unlisted = [vocabulary[token] for token in self.family.unlisted_tokens if token in vocabulary]
        return VLM(model, parse_frame(self.frame), end_ids, self.train_vision, unlisted, self.family)

    def load_reference(self) -> VLM:
        """Builds the model to be frozen: the same weights in ``reference_dtype``."""
        return replace(self, dtype=self.reference_dtype or self.dtype).load()

    def _model(self, processor: ProcessorMixin) -> PreTrainedModel:
        dtype = getattr(torch, self.dtype)
        if self.path is not None and not self.random_weights:
            model, report = self._from(AutoModelForImageTextToText, dtype=dtype, output_loading_info=True)
            if report["missing_keys"]:  # transformers would fill them with random numbers
                raise LocusError(
                    f"backbone.path={self.path} lacks the weights of {', '.join(sorted(report['missing_keys'])[:3])}"
                    f" ({len(report['missing_keys'])} in all): save the whole model, or fetch its files again"
                )
            return model
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            return AutoModelForImageTextToText.from_config(self._config(processor), dtype=dtype)

    def _config(self, processor: ProcessorMixin) -> PreTrainedConfig:
        if self.path is None and self.architecture is not None:
            return self.architecture.config(processor)
        return self._from(AutoConfig)

    def _from(self, loader: Any, **kwargs: object) -> Any:
        try:
            return loader.from_pretrained(self.path, **kwargs)
        except Exception as error:  # transformers raises many kinds here; the cause is kept
            where = "folder" if Path(str(self.path)).exists() else "hub id or folder"
            raise LocusError(
                f"backbone.path={self.path}: {loader.__name__} cannot open this {where} ({type(error).__name__}: "
                f"{str(error).splitlines()[0] if str(error) else 'no message'}): check the path, or download it first"
            ) from error


def period(text: PreTrainedConfig) -> int:
    """Layers of a language model after which their kinds repeat; 1 where all are of one kind."""
    kinds = list(getattr(text, "layer_types", None) or [])
    repeats = (n for n in range(1, len(kinds)) if kinds == (kinds[:n] * len(kinds))[: len(kinds)])
    return next(repeats, max(len(kinds), 1))


def shallow(config: PreTrainedConfig, layers: int) -> PreTrainedConfig:
    """A copy with at most so many layers in each tower, of the language model so many periods.

    Of windowed vision layers the last stays a full one.
    """
    config = copy.deepcopy(config)
    text, vision = config.get_text_config(), config.vision_config
    text.num_hidden_layers = min(text.num_hidden_layers, layers * period(text))
    if getattr(text, "layer_types", None):
        text.layer_types = text.layer_types[: text.num_hidden_layers]
    if layers < vision.depth:
        vision.depth = layers
        if hasattr(vision, "fullatt_block_indexes"):
            vision.fullatt_block_indexes = [layers - 1]
        if hasattr(vision, "deepstack_visual_indexes"):
            vision.deepstack_visual_indexes = list(range(layers))[: len(vision.deepstack_visual_indexes)]
    return config
