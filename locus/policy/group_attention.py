"""Attention of the group forward, given to transformers through its attention interface: nothing is patched.

A plan says how keys are laid out and travels to every layer as the keyword ``group``, `Carried`. Without one the call
is plain SDPA. A row is [prompt | c1 | … | cG]; one plan computes its prompt, once, another its completions:

- `Prefill`: the prompt attends to itself; every layer's keys and values are kept, once per prompt.
- `Continuation` scores written completions: each attends to the prompt and to itself (`joined_attention`).
- `locus.policy.decoding` writes completions, token by token.

Shapes: B prompts, G rollouts per prompt, P prompt tokens (right-padded), T completion tokens, H heads, K key-value
heads, D head width.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from einops import rearrange
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from locus.policy.joined_attention import Layout, joined_attention
from locus.policy.linear_attention import LayerState, LinearLayer, after_padding

NAME = "locus_group"


class AttentionPlan(Protocol):
    """What a layer needs to attend: one call a layer, in the order of layers of its kind."""

    def attend(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float
    ) -> torch.Tensor:
        """query [B, H, S, D], key and value [B, K, S, D] of the new tokens -> [B, H, S, D]."""

    def recur(self, layer: int, run: LinearLayer, hidden: torch.Tensor) -> torch.Tensor:
        """The same of a layer of linear attention, which is ``run``: new tokens [B, S, D] -> [B, S, D]."""


class Carried:
    """A plan on its way through transformers to the layers.

    No dataclass: FSDP copies those that it finds on the way, and a plan's copy would keep the prompt's keys to itself.
    """

    def __init__(self, plan: AttentionPlan):
        self.plan = plan


@dataclass(eq=False)
class Prefill:
    """Prompts attend causally; every layer's keys and values are kept, with their graph if there is one."""

    prompt_mask: torch.Tensor
    """[B, P] bool, False at padding."""
    keys: list[torch.Tensor] = field(default_factory=list)
    """One [B, K, P, D] a layer."""
    values: list[torch.Tensor] = field(default_factory=list)
    states: list[LayerState] = field(default_factory=list)
    """One of B rows a layer of linear attention."""

    @cached_property
    def bias(self) -> torch.Tensor | None:
        """[B, 1, 1, P] to add to attention scores: -inf at padding; None when no prompt is padded."""
        if bool(self.prompt_mask.all()):
            return None
        zeros = torch.zeros(self.prompt_mask.shape, device=self.prompt_mask.device)
        return zeros.masked_fill(~self.prompt_mask, float("-inf"))[:, None, None]

    def attend(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float
    ) -> torch.Tensor:
        # A product with a transposed view is slow on CPU, and every decoded token takes one.
        key, value = key.contiguous(), value.contiguous()
        if layer == len(self.keys):  # with gradient checkpointing a layer runs again in the backward pass
            self.keys.append(key)
            self.values.append(value)
        return _causal(query, key, value, scale)

    def recur(self, layer: int, run: LinearLayer, hidden: torch.Tensor) -> torch.Tensor:
        padded = self.bias is not None
        output, state = after_padding(hidden, self.prompt_mask, run) if padded else run(hidden, None, None)
        if layer == len(self.states):
            self.states.append(state)
        return output


@dataclass(eq=False)
class Watched(Prefill):
    """A prefill that keeps where each prompt's last token looks, and no keys: one row of every layer's attention."""

    weights: list[torch.Tensor] = field(default_factory=list)
    """One [B, P] a layer: attention of the last token, mean over heads."""

    def attend(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float
    ) -> torch.Tensor:
        last = self.prompt_mask.sum(1) - 1
        asked = query[torch.arange(len(query), device=query.device), :, last] * scale  # [B, H, D]
        scores = rearrange(asked, "b (k r) d -> b k r d", k=key.shape[1]) @ key.transpose(-1, -2)  # [B, K, H/K, P]
        if self.bias is not None:
            scores = scores + self.bias
        self.weights.append(scores.softmax(-1, dtype=torch.float32).mean((1, 2)))
        return _causal(query, key, value, scale)


@dataclass(frozen=True, eq=False)
class Continuation:
    """Completions as a pack without padding, [1, H, N, D]: row after row, a prompt's rows side by side."""

    prefill: Prefill
    fed: torch.Tensor
    """[B, G, T] bool: the completion tokens that are in the pack, of each row the first ones."""

    @cached_property
    def layout(self) -> Layout:
        prompt_tokens = self.prefill.prompt_mask.sum(-1).tolist()
        return Layout.of(self.fed.sum(-1).tolist(), prompt_tokens, self.fed.device)

    def attend(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float
    ) -> torch.Tensor:
        pack = (query[0].transpose(0, 1), key[0].transpose(0, 1), value[0].transpose(0, 1))
        shared = (self.prefill.keys[layer], self.prefill.values[layer])
        return joined_attention(*pack, *shared, self.layout, scale).transpose(0, 1)[None]

    def recur(self, layer: int, run: LinearLayer, hidden: torch.Tensor) -> torch.Tensor:
        prompt = torch.arange(len(self.fed), device=hidden.device)[:, None, None].expand(self.fed.shape)[self.fed]
        outputs = []
        for bucket in self.layout.buckets:
            # One token alone would take the layer's path of decoding, whose fast kernel has no gradient.
            gather = bucket.gather if bucket.gather.shape[1] > 1 else bucket.gather.expand(-1, 2)
            rows = hidden[0].index_select(0, gather.flatten()).unflatten(0, gather.shape)
            output, _ = run(rows, self.prefill.states[layer].select(prompt[gather[:, 0]]), None)
            outputs.append(output[:, : bucket.gather.shape[1]].flatten(0, 1).index_select(0, bucket.real))
        place = torch.cat([bucket.place for bucket in self.layout.buckets])
        return torch.cat(outputs).index_select(0, place.argsort())[None]


@dataclass(frozen=True, eq=False)
class WatchedContinuation(Continuation):
    """A continuation that also keeps, with gradient, how strongly some heads look at each prompt token."""

    layers: tuple[int, ...] = ()
    heads: int = 1
    """The first of each watched layer."""
    scores: list[torch.Tensor] = field(default_factory=list)
    """One [B, G, heads, T, P] a watched layer, before the softmax; of tokens that are not in the pack, zero."""

    def attend(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float
    ) -> torch.Tensor:
        if layer in self.layers:
            asked = query.new_zeros(*self.fed.shape, self.heads, query.shape[-1])  # [B, G, T, heads, D]
            asked[self.fed] = query[0, : self.heads].transpose(0, 1) * scale
            shared = self.prefill.keys[layer].repeat_interleave(query.shape[1] // key.shape[1], dim=1)
            self.scores.append(torch.einsum("bgthd,bhpd->bghtp", asked, shared[:, : self.heads]))
        return super().attend(layer, query, key, value, scale)


def _causal(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float) -> torch.Tensor:
    """Prompts padded on the right attend to themselves: padding lies after all that looks."""
    shared = query.shape[1] // key.shape[1]
    if shared > 1 and query.is_cuda and query.dtype == torch.float32:
        # In float32 no fused kernel knows grouped heads; the one that is left holds all scores, [B, H, P, P].
        key, value = key.repeat_interleave(shared, dim=1), value.repeat_interleave(shared, dim=1)
    gqa = query.shape[1] != key.shape[1]
    return F.scaled_dot_product_attention(query, key, value, is_causal=True, scale=scale, enable_gqa=gqa)


def group_attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    group: Carried | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """The attention function as transformers calls it; with no plan, its own SDPA."""
    if group is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)
    # Where not all layers attend, the family has numbered those that do.
    layer = getattr(module, "place", module.layer_idx)
    output = group.plan.attend(layer, query, key, value, scaling)
    return output.transpose(1, 2).contiguous(), None


AttentionInterface.register(NAME, group_attention)
AttentionMaskInterface.register(NAME, sdpa_mask)  # so that a call without a plan is masked as SDPA's
