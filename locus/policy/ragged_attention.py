"""Attention plans of continuous batching: rows at steps of their own, which share heads of their prompts.

A row attends to its head and to its tail, and the two outputs are joined by their log-sum-exps, as in
`joined_attention`.

Shapes: R rows, N tokens of a pack, B heads of a table, A rows of the one that has most, H attention heads, K key-value
heads, r = H / K, D head width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch

from locus.policy.group_attention import Continuation
from locus.policy.linear_attention import LayerState, LinearLayer
from locus.policy.segments import Table, attend


@dataclass(frozen=True, eq=False)
class KeptContinuation(Continuation):
    """A continuation that keeps its own keys and values, too, or the states behind its rows."""

    keys: list[torch.Tensor] = field(default_factory=list)
    """One [N, K, D] a layer, of the pack."""
    values: list[torch.Tensor] = field(default_factory=list)
    states: list[LayerState] = field(default_factory=list)
    """Of the rows, one a layer of linear attention."""

    def attend(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float
    ) -> torch.Tensor:
        self.keys.append(key[0].transpose(0, 1))
        self.values.append(value[0].transpose(0, 1))
        return super().attend(layer, query, key, value, scale)

    def recur(self, layer: int, run: LinearLayer, hidden: torch.Tensor) -> torch.Tensor:
        """Rows of one length together, as padding behind a row would change its state."""
        lengths = self.fed.sum(-1)
        prompts, _ = lengths.nonzero(as_tuple=True)
        sizes = lengths[lengths > 0]
        rows = hidden[0].split(sizes.tolist())
        outputs: dict[int, torch.Tensor] = {}
        order, states = [], []
        for size in sizes.unique():
            here = (sizes == size).nonzero()[:, 0]
            output, state = run(
                torch.stack([rows[i] for i in here.tolist()]), self.prefill.states[layer].select(prompts[here]), None
            )
            outputs |= dict(zip(here.tolist(), output, strict=True))
            order.append(here)
            states.append(state)
        self.states.append(LayerState.joined(states).select(torch.cat(order).argsort()))
        return torch.cat([outputs[i] for i in range(len(rows))])[None]


@dataclass(frozen=True, eq=False)
class RaggedStep:
    """An attention plan: one new token for each row, [1, H, R, D], rows in the order of their tails."""

    heads: Sequence[Table]
    tails: Sequence[Table]
    """With the new token counted, whose keys and values are written now."""
    slots: Sequence[torch.Tensor]
    """Of each table of heads: [B, A] its rows; padding is row 0."""
    order: torch.Tensor
    """[R] where each row is in all slots, one after another."""

    @cached_property
    def last(self) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Of each table of tails: row and place of the new tokens."""
        device = self.order.device
        places = (torch.tensor(table.lengths, device=device) - 1 for table in self.tails)
        return [(torch.arange(len(place), device=device), place) for place in places]

    def attend(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float
    ) -> torch.Tensor:
        dtype = self.heads[0].keys[layer].dtype
        query, key, value = (
            (states[0].transpose(0, 1)).to(dtype) for states in (query * scale, key, value)
        )  # [R, ., D]
        query = query.unflatten(1, (key.shape[1], -1))  # [R, K, r, D]
        own, start = [], 0
        for table, (row, place) in zip(self.tails, self.last, strict=True):
            here = slice(start, start := start + len(row))
            keys, values = table.keys[layer], table.values[layer]
            keys[row, :, place], values[row, :, place] = key[here], value[here]
            own.append(attend(query[here], keys, values, table.bias))
        shared = []
        for table, slots in zip(self.heads, self.slots, strict=True):
            asked = query[slots].transpose(1, 2)  # [B, K, A, r, D]
            parts = attend(asked.flatten(2, 3), table.keys[layer], table.values[layer], table.bias)
            shared.append([part.unflatten(2, asked.shape[2:4]).transpose(1, 2).flatten(0, 1) for part in parts])
        output, weight = (torch.cat(parts) for parts in zip(*own, strict=True))
        other, shared_weight = (torch.cat(parts)[self.order] for parts in zip(*shared, strict=True))
        whole = torch.logaddexp(weight, shared_weight)
        output = output * (weight - whole).exp_()[..., None]
        output = output.addcmul(other, (shared_weight - whole).exp_()[..., None]).to(dtype)
        return output.flatten(1, 2).transpose(0, 1)[None]

    def recur(self, layer: int, run: LinearLayer, hidden: torch.Tensor) -> torch.Tensor:
        outputs = []
        parts = hidden[0].split([len(table.names) for table in self.tails])
        for table, rows in zip(self.tails, parts, strict=True):
            output, table.states[layer] = run(rows[:, None], table.states[layer], None)
            outputs.append(output[:, 0])
        return torch.cat(outputs)[None]
