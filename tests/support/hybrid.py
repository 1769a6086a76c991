"""A tiny Qwen3.5, whose layers attend or carry a state, with prompts that its state has to remember."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from transformers import ProcessorMixin, Qwen3_5Config

from locus.policy.backbone import Backbone
from locus.policy.families.qwen3_5 import Qwen3_5
from locus.policy.tiny import TinyQwen3VL
from locus.policy.vlm import VLM
from locus.types import Frame
from tests.support.models import SCALE, SMALLEST

KINDS = ["linear_attention", "full_attention", "linear_attention"]


@dataclass(frozen=True)
class TinyQwen3_5(TinyQwen3VL):
    """The processor of the tiny Qwen3-VL, layers of `KINDS`, and a gate that does not forget within a prompt."""

    def config(self, processor: ProcessorMixin) -> Qwen3_5Config:
        """Qwen3_5Config for the processor's vocabulary."""
        other = super().config(processor)
        linear = {"linear_key_head_dim": 16, "linear_value_head_dim": 16, "linear_num_key_heads": 1}
        rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1], "mrope_interleaved": True}
        text = self._text(len(processor.tokenizer), processor) | linear
        text |= {
            **{"head_dim": 32, "layer_types": KINDS, "num_hidden_layers": len(KINDS)},
            **{"linear_num_value_heads": 2, "rope_parameters": rope | {"partial_rotary_factor": 0.25}},
        }
        vision = self._vision() | {"num_position_embeddings": self.position_grid**2}
        tokens = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")
        ids = {name: getattr(other, name) for name in tokens}
        return Qwen3_5Config(text_config=text, vision_config=vision, tie_word_embeddings=True, **ids)


def hybrid_backbone(**settings: object) -> Backbone:
    """A backbone of the smallest sizes."""
    return Backbone(
        **{"frame": Frame.UNIT1000, "architecture": TinyQwen3_5(**SMALLEST), "family": Qwen3_5()} | settings
    )


def hybrid_vlm(**settings: object) -> VLM:
    """A policy in evaluation mode with large random weights; the same ones at every call."""
    vlm = hybrid_backbone(**settings).load().eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in vlm.named_parameters():
            if parameter.ndim > 1:
                parameter.mul_(SCALE)
            elif name.endswith(("A_log", "dt_bias")):  # as initialised, a state fades within a token or two
                parameter.uniform_(-3, -1, generator=generator)
    return vlm
