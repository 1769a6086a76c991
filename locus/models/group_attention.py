"""Attention of the group forward, given to transformers through its attention interface: nothing is patched.

A plan says how keys are laid out and travels to every attention layer as the keyword ``group``. Without one the call
is plain SDPA. Two plans:

- `PackedRow` scores completions: a row is [prompt | c1 | … | cG]. The prompt attends to itself once; a completion
  attends to the prompt and to itself.
- `Decoding` writes completions: the prompt's keys are kept once per prompt, never once per rollout.

Shapes: B prompts, G rollouts per prompt, P prompt tokens (right-padded), T completion tokens, H heads, K key-value
heads, D head width.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

NAME = "locus_group"


class AttentionPlan(Protocol):
    """What a layer needs to attend: one call a layer, in layer order."""

    def attend(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float
    ) -> torch.Tensor:
        """query [B, H, S, D], key and value [B, K, S, D] of the new tokens -> [B, H, S, D]."""


@dataclass(frozen=True, eq=False)
class PackedRow:
    """[prompt | c1 | … | cG] in one row; completions padded to one length, prompts padded on the right."""

    prompt_mask: torch.Tensor
    """[B, P] bool, False at padding."""
    group: int
    length: int
    """Completion tokens fed forward, per rollout."""

    def attend(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float
    ) -> torch.Tensor:
        size, width = self.prompt_mask.shape[0], self.prompt_mask.shape[1]
        gqa = query.shape[1] != key.shape[1]
        prompt = F.scaled_dot_product_attention(
            query[:, :, :width], key[:, :, :width], value[:, :, :width], is_causal=True, scale=scale, enable_gqa=gqa
        )
        if self.length == 0:
            return prompt

        def own(states: torch.Tensor) -> torch.Tensor:
            return rearrange(states[:, :, width:], "b h (g t) d -> (b g) h t d", g=self.group)

        def with_prompt(states: torch.Tensor) -> torch.Tensor:
            shared = repeat(states[:, :, :width], "b h p d -> (b g) h p d", g=self.group)
            return torch.cat([shared, own(states)], dim=2)  # [B·G, K, P + T, D]

        causal = torch.ones(self.length, self.length, dtype=torch.bool, device=query.device).tril()
        mask = torch.cat(
            [
                repeat(self.prompt_mask, "b p -> (b g) 1 t p", g=self.group, t=self.length),
                causal.expand(size * self.group, 1, -1, -1),
            ],
            dim=-1,
        )
        completion = F.scaled_dot_product_attention(
            own(query), with_prompt(key), with_prompt(value), attn_mask=mask, scale=scale, enable_gqa=gqa
        )
        return torch.cat([prompt, rearrange(completion, "(b g) h t d -> b h (g t) d", g=self.group)], dim=2)


@dataclass(eq=False)
class Prefill:
    """Prompts attend causally; every layer's keys and values are kept for `Decoding`."""

    prompt_mask: torch.Tensor
    """[B, P] bool."""
    keys: list[torch.Tensor] = field(default_factory=list)
    """One [B, K, P, D] a layer."""
    values: list[torch.Tensor] = field(default_factory=list)

    def attend(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float
    ) -> torch.Tensor:
        self.keys.append(key)
        self.values.append(value)
        gqa = query.shape[1] != key.shape[1]
        return F.scaled_dot_product_attention(query, key, value, is_causal=True, scale=scale, enable_gqa=gqa)

    def select(self, prompts: torch.Tensor) -> Prefill:
        """Only these prompts, by index [B']."""
        return Prefill(
            self.prompt_mask[prompts], [key[prompts] for key in self.keys], [value[prompts] for value in self.values]
        )


@dataclass(eq=False)
class Decoding:
    """One new token for each of A active rows of each prompt; the rows' own keys are written in place.

    The prompt's keys [B, K, P, D] serve all rows at once, so memory grows with P + A·T, not A·(P + T), and no key is
    copied while decoding.
    """

    prefill: Prefill
    own_keys: torch.Tensor
    """[L, B, K, A, T, D], filled up to ``step``."""
    own_values: torch.Tensor
    step: int = 0

    @classmethod
    def start(cls, prefill: Prefill, rows: int, length: int) -> Decoding:
        """Empty buffers for ``length`` tokens of ``rows`` rows a prompt."""
        size, heads, _, width = prefill.keys[0].shape
        own = prefill.keys[0].new_empty(len(prefill.keys), size, heads, rows, length, width)
        return cls(prefill, own, torch.empty_like(own))

    def attend(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float
    ) -> torch.Tensor:
        rows, kv_heads = query.shape[2], key.shape[1]
        self.own_keys[layer, :, :, :, self.step] = key
        self.own_values[layer, :, :, :, self.step] = value
        keys = self.own_keys[layer, :, :, :, : self.step + 1]  # [B, K, A, t, D]
        values = self.own_values[layer, :, :, :, : self.step + 1]
        query = rearrange(query, "b (k r) a d -> b k a r d", k=kv_heads)
        repeats = query.shape[3]

        shared = query.flatten(2, 3) @ self.prefill.keys[layer].transpose(-1, -2)  # [B, K, A·r, P]
        shared = shared.unflatten(2, (rows, repeats)).float() * scale
        shared = shared.masked_fill(~self.prefill.prompt_mask[:, None, None, None], float("-inf"))
        own = (query @ keys.transpose(-1, -2)).float() * scale  # [B, K, A, r, t]
        weights = torch.cat([shared, own], dim=-1).softmax(dim=-1).to(query.dtype)
        from_prompt, from_own = weights.split([shared.shape[-1], own.shape[-1]], dim=-1)
        output = (from_prompt.flatten(2, 3) @ self.prefill.values[layer]).unflatten(2, (rows, repeats))
        output = output + from_own @ values
        return rearrange(output, "b k a r d -> b (k r) a d")

    def select(self, prompts: torch.Tensor, rows: torch.Tensor) -> Decoding:
        """Keeps these prompts [B'] and of each these rows [B', A']; the others are retired."""
        index = rows[None, :, None, :, None, None]

        def keep(states: torch.Tensor) -> torch.Tensor:
            states = states[:, prompts]
            return states.gather(3, index.expand(*states.shape[:3], -1, *states.shape[4:]))

        return Decoding(self.prefill.select(prompts), keep(self.own_keys), keep(self.own_values), self.step)


def group_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    group: AttentionPlan | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """The attention function as transformers calls it; with no plan, its own SDPA."""
    if group is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)
    output = group.attend(module.layer_idx, query, key, value, scaling)
    return output.transpose(1, 2).contiguous(), None


AttentionInterface.register(NAME, group_attention)
AttentionMaskInterface.register(NAME, sdpa_mask)  # so that a call without a plan is masked as SDPA's
