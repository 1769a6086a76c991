"""Qwen3.5: as Qwen3-VL without DeepStack, but three of four layers are Gated DeltaNets, linear attention."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from transformers.models.qwen3_5.modeling_qwen3_5 import Qwen3_5GatedDeltaNet

from locus.errors import LocusError
from locus.policy.families.qwen_vl import QwenVL
from locus.policy.group_attention import Carried
from locus.policy.linear_attention import LayerState, StateCache


class GroupDeltaNet(Qwen3_5GatedDeltaNet):
    """The stock layer where no plan is given; under a plan it runs on the rows and states that the plan chooses."""

    place: int
    """Among the layers of linear attention."""

    def forward(
        self,
        hidden_states: torch.Tensor,
        cache_params: Any = None,
        attention_mask: torch.Tensor | None = None,
        group: Carried | None = None,
        **kwargs: Any,
    ) -> torch.Tensor:
        if group is None:
            return super().forward(hidden_states, cache_params, attention_mask, **kwargs)
        return group.plan.recur(self.place, self._run, hidden_states)

    def _run(
        self, hidden: torch.Tensor, state: LayerState | None, mask: torch.Tensor | None
    ) -> tuple[torch.Tensor, LayerState]:
        cache = StateCache(state)
        return super().forward(hidden, cache, mask), cache.state


@dataclass(frozen=True)
class Qwen3_5(QwenVL):
    """See `Family`."""

    def check_layers(self, model: Any) -> None:
        """Numbers the layers of each kind, and gives those of linear attention their part in a plan."""
        places = {"full_attention": 0, "linear_attention": 0}
        kinds = getattr(model.config.get_text_config(), "layer_types", None) or ["full_attention"]
        if set(kinds) != set(places):
            raise LocusError(
                f"{type(model).__name__} has layers of {', '.join(sorted(set(kinds)))} alone: backbone.family=Qwen3_5 "
                "takes models of full and linear attention; leave it out for Qwen2.5-VL and Qwen3-VL"
            )
        for layer, kind in zip(model.model.language_model.layers, kinds, strict=True):
            mixer = layer.self_attn if kind == "full_attention" else layer.linear_attn
            if kind == "linear_attention":
                mixer.__class__ = GroupDeltaNet  # its weights, names and stock call stay
            mixer.place = places[kind]
            places[kind] += 1
