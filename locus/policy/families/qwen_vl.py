"""Qwen2.5-VL and Qwen3-VL: M-RoPE, merged patches, DeepStack, and attention in every layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

from locus.errors import LocusError
from locus.policy import group_attention, vision_attention
from locus.policy.family import VisionFeatures
from locus.policy.group_attention import AttentionPlan, Carried
from locus.types import Prompt


@dataclass(frozen=True)
class QwenVL:
    """See `Family`."""

    unlisted_tokens: tuple[str, ...] = ("<|vision_pad|>",)

    def prepare(self, model: Any) -> None:
        """All layers attend, the vision tower's in segments."""
        if not all(
            hasattr(getattr(model, "model", None), part) for part in ("visual", "language_model", "get_rope_index")
        ):
            raise LocusError(
                f"{type(model).__name__} is not supported: backbone.path must be of a Qwen2.5-VL, Qwen3-VL "
                "or Qwen3.5 class; another one takes a backbone.family of its own"
            )
        text = model.config.get_text_config()
        if getattr(text, "use_sliding_window", False):
            raise LocusError(
                "sliding-window attention is not supported: set use_sliding_window to false in config.json"
            )
        self.check_layers(model)
        model.set_attn_implementation({"text_config": group_attention.NAME, "vision_config": vision_attention.NAME})

    def check_layers(self, model: Any) -> None:
        """Raises LocusError unless each layer of the language model attends to all tokens before."""
        kinds = set(getattr(model.config.get_text_config(), "layer_types", None) or ()) - {"full_attention"}
        if kinds:
            raise LocusError(
                f"{type(model).__name__} has layers of {', '.join(sorted(kinds))}: set backbone.family to the family "
                "of its class, as conf/backbone/qwen3_5_4b.yaml does"
            )

    def vision_tower(self, model: Any) -> nn.Module:
        return model.model.visual

    def vision_token_ids(self, config: Any) -> list[int]:
        return [
            config.image_token_id,
            config.video_token_id,
            config.vision_start_token_id,
            config.vision_end_token_id,
        ]

    def image_features(self, model: Any, pixels: torch.Tensor, grids: torch.Tensor) -> list[VisionFeatures]:
        output = model.model.get_image_features(pixels, grids, return_dict=True)
        layers = getattr(output, "deepstack_features", None) or []
        return [
            VisionFeatures(embeddings, tuple(layer[image] for layer in layers))
            for image, embeddings in enumerate(output.pooler_output)
        ]

    def positions(self, model: Any, prompt: Prompt) -> torch.Tensor:
        """M-RoPE's three axes, by the model's own rule."""
        if prompt.image_grid_thw.shape[0] == 0:
            return torch.arange(prompt.length).expand(3, -1)
        positions, _ = model.model.get_rope_index(
            prompt.input_ids[None],
            mm_token_type_ids=prompt.mm_token_type_ids[None],
            image_grid_thw=prompt.image_grid_thw,
        )
        return positions[:, 0]

    def hidden(
        self,
        model: Any,
        embeddings: torch.Tensor,
        positions: torch.Tensor,
        plan: AttentionPlan,
        image_mask: torch.Tensor | None,
        deepstack: list[torch.Tensor] | None,
    ) -> torch.Tensor:
        visual = {} if deepstack is None else {"visual_pos_masks": image_mask, "deepstack_visual_embeds": deepstack}
        return model.model.language_model(
            inputs_embeds=embeddings,
            position_ids=positions.expand(3, *positions.shape[-2:]),
            use_cache=False,
            group=Carried(plan),
            **visual,
        ).last_hidden_state

    def grid(self, image_processor: Any, width: int, height: int) -> tuple[int, int, int]:
        limits = image_processor.size["shortest_edge"], image_processor.size["longest_edge"]
        patch = image_processor.patch_size
        rows, columns = smart_resize(height, width, patch * image_processor.merge_size, *limits)
        return 1, rows // patch, columns // patch

    def image_tokens(self, image_processor: Any, grid: torch.Tensor) -> int:
        return int(grid.prod()) // image_processor.merge_size**2
