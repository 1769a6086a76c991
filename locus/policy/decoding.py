"""Attention plans of rollouts: one new token for each row that is still being written.

The prompt's keys and values serve all rows of its group at once, so memory grows with P + A·T, not A·(P + T), and
nothing is copied while decoding but what a row adds, and its buffer when that grows.

- `Decoding`: prompts that began together. Rows and prompts leave, its buffers grow with what is written.
- `Cohorts`: several of them in one pass through the model.

Shapes: B prompts, A active rows per prompt, P prompt tokens (right-padded), C tokens that a row's buffer holds,
H heads, K key-value heads, r = H / K, D head width, L layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from locus.policy.group_attention import Prefill
from locus.policy.linear_attention import LayerState, LinearLayer

GROWTH = 256
"""Tokens by which the rows' buffers grow: each time copies them, and what is not written yet is held for nothing."""


def attend_to_both(
    query: torch.Tensor,
    prompt: tuple[torch.Tensor, torch.Tensor],
    prompt_bias: torch.Tensor | None,
    own: tuple[torch.Tensor, torch.Tensor],
    own_bias: torch.Tensor | None = None,
) -> torch.Tensor:
    """Rows attend to their prompt and to what they have written.

    Args:
        query: [B, H, A, D], scaled.
        prompt: keys and values [B, K, P, D].
        prompt_bias: [B, 1, 1, P] to add to scores.
        own: keys and values [B, K, A, t, D].
        own_bias: [B, 1, 1, 1, t] to add to scores.

    Returns:
        [B, H, A, D].
    """
    query = query.to(prompt[0].dtype).unflatten(1, (prompt[0].shape[1], -1)).transpose(2, 3)  # [B, K, A, r, D]
    shared = query.flatten(2, 3) @ prompt[0].transpose(-1, -2)  # [B, K, A·r, P]
    if prompt_bias is not None:
        shared = shared + prompt_bias
    written = query @ own[0].transpose(-1, -2)  # [B, K, A, r, t]
    if own_bias is not None:
        written = written + own_bias
    scores = torch.cat([shared.unflatten(2, written.shape[2:4]), written], dim=-1)
    weights = scores.softmax(dim=-1, dtype=torch.float32).to(own[1].dtype)
    from_prompt, from_own = weights.split([shared.shape[-1], written.shape[-1]], dim=-1)
    output = (from_prompt.flatten(2, 3) @ prompt[1]).view_as(query) + from_own @ own[1]
    return output.transpose(1, 2).flatten(2, 3).transpose(1, 2)  # copied once, as the layer's output wants it


def cast(prefill: Prefill, dtype: torch.dtype) -> Prefill:
    """The same, its keys and values in ``dtype``; layer by layer, each old one is freed.

    States of linear attention stay as they are: each token adds to them, and in bfloat16 small sums are lost.
    """
    for states in (prefill.keys, prefill.values):
        for layer, old in enumerate(states):
            states[layer] = old.to(dtype)
    return prefill


def joined(prefills: Sequence[Prefill]) -> Prefill:
    """Prompts of several passes in one batch, padded to the longest.

    Layer by layer, keys and values are taken out of ``prefills``, so that they are not held twice.
    """
    if len(prefills) == 1:
        return prefills[0]
    longest = max(prefill.prompt_mask.shape[1] for prefill in prefills)

    def padded(states: torch.Tensor) -> torch.Tensor:
        return F.pad(states, (0, 0, 0, longest - states.shape[2]))

    masks = [F.pad(prefill.prompt_mask, (0, longest - prefill.prompt_mask.shape[1])) for prefill in prefills]

    def taken(parts: Sequence[list[torch.Tensor]]) -> list[torch.Tensor]:
        return [torch.cat([padded(part.pop(0)) for part in parts]) for _ in range(len(parts[0]))]

    keys, values = (taken([getattr(prefill, name) for prefill in prefills]) for name in ("keys", "values"))
    states = [LayerState.joined(parts) for parts in zip(*(prefill.states for prefill in prefills), strict=True)]
    return Prefill(torch.cat(masks), keys, values, states)


@dataclass(eq=False)
class Decoding:
    """One new token for each of A active rows of each prompt; the rows' own keys are written in place."""

    prefill: Prefill
    """Without graph, in the type that is computed in."""
    keys: list[torch.Tensor]
    """Of the rows themselves: one [B, K, A, C, D] a layer, filled up to ``step``."""
    values: list[torch.Tensor]
    length: int
    """Tokens that a row may have at most."""
    states: list[LayerState]
    """Of the rows, B·A, one a layer of linear attention."""
    step: int = 0

    @classmethod
    def start(cls, prefill: Prefill, rows: int, length: int, dtype: torch.dtype) -> Decoding:
        """Empty buffers for ``rows`` rows a prompt, which may grow to ``length`` tokens; ``dtype`` is the cache's."""
        keys, values = ([states.to(dtype) for states in part] for part in (prefill.keys, prefill.values))
        size, heads, _, width = keys[0].shape
        shape = size, heads, rows, min(length, GROWTH), width
        own_keys, own_values = ([states.new_empty(shape) for states in part] for part in (keys, values))
        prompts = torch.arange(size, device=prefill.prompt_mask.device).repeat_interleave(rows)
        states = [state.select(prompts) for state in prefill.states]
        return cls(Prefill(prefill.prompt_mask, keys, values), own_keys, own_values, length, states)

    @property
    def shape(self) -> tuple[int, int]:
        """(B, A)."""
        return self.keys[0].shape[0], self.keys[0].shape[2]

    @property
    def next_capacity(self) -> int:
        """C once the next token is written."""
        capacity = self.keys[0].shape[3]
        return min(self.length, capacity + GROWTH) if self.step == capacity else capacity

    @property
    def tokens_per_prompt(self) -> int:
        """Cached tokens that a prompt takes once the next token is written, P + A·C."""
        return self.prefill.prompt_mask.shape[1] + self.shape[1] * self.next_capacity

    def grow(self) -> None:
        """Makes room for the next token, layer by layer."""
        missing = self.next_capacity - self.keys[0].shape[3]
        for states in (self.keys, self.values) if missing else ():
            for layer, old in enumerate(states):
                states[layer] = torch.cat([old, old.new_empty(*old.shape[:3], missing, old.shape[4])], dim=3)

    def attend(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float
    ) -> torch.Tensor:
        keys, values = self.keys[layer], self.values[layer]
        keys[:, :, :, self.step], values[:, :, :, self.step] = key, value
        own = keys[:, :, :, : self.step + 1], values[:, :, :, : self.step + 1]  # [B, K, A, t, D]
        prompt = self.prefill.keys[layer], self.prefill.values[layer]
        return attend_to_both(query * scale, prompt, self.prefill.bias, own)

    def recur(self, layer: int, run: LinearLayer, hidden: torch.Tensor) -> torch.Tensor:
        output, self.states[layer] = run(hidden.flatten(0, 1)[:, None], self.states[layer], None)
        return output[:, 0].unflatten(0, self.shape)

    def keep(self, prompts: torch.Tensor, rows: torch.Tensor) -> None:
        """Keeps these prompts [B'] and of each these rows [B', A']; the others are retired, layer by layer."""
        index = rows[:, None, :, None, None]
        flat = (prompts[:, None] * self.shape[1] + rows).flatten()
        self.states = [state.select(flat) for state in self.states]
        for shared in (self.prefill.keys, self.prefill.values):
            for layer, old in enumerate(shared):
                shared[layer] = old[prompts]
        for own in (self.keys, self.values):
            for layer, old in enumerate(own):
                kept = old[prompts]
                own[layer] = kept.gather(2, index.expand(-1, kept.shape[1], -1, *kept.shape[3:]))
        self.prefill = Prefill(self.prefill.prompt_mask[prompts], self.prefill.keys, self.prefill.values)


@dataclass(frozen=True, eq=False)
class Cohorts:
    """Prompts that began at different times: all their rows [1, ΣB·A] in one pass, attention cohort by cohort."""

    parts: Sequence[Decoding]

    def attend(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float
    ) -> torch.Tensor:
        sizes = [part.shape[0] * part.shape[1] for part in self.parts]
        outputs = []
        for part, *states in zip(self.parts, *(s[0].split(sizes, dim=1) for s in (query, key, value)), strict=True):
            of_prompts = (state.unflatten(1, part.shape).transpose(0, 1) for state in states)  # [B, H, A, D]
            outputs.append(part.attend(layer, *of_prompts, scale).transpose(0, 1).flatten(1, 2))
        return torch.cat(outputs, dim=1)[None]

    def recur(self, layer: int, run: LinearLayer, hidden: torch.Tensor) -> torch.Tensor:
        sizes = [part.shape[0] * part.shape[1] for part in self.parts]
        of_parts = zip(self.parts, hidden[0].split(sizes), strict=True)
        outputs = [part.recur(layer, run, rows.unflatten(0, part.shape)).flatten(0, 1) for part, rows in of_parts]
        return torch.cat(outputs)[None]
