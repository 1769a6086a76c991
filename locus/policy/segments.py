"""Keys and values of segments of unlike lengths, in tables of like ones, so that little is held for padding.

A segment is what several rows share of their prompts (a head: all up to the last picture), or what one row has for
itself (a tail: its question, and what it has written).
Shapes: B segments of a table, S tokens that each may have, n queries of a segment, K key-value heads, D head width.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
import torch.nn.functional as F

from locus.policy.linear_attention import LayerState

SMALLEST = 128
"""Segments up to this long lie in one table; above, the longest of a table is at most twice as long as the shortest."""
ROUND = 32
"""A table's width is a multiple of it, for what grows there: a wider table is a copy."""


def width_of(longest: int) -> int:
    """Tokens that each segment takes in a table whose longest has so many."""
    return -(-longest // ROUND) * ROUND


def alike(lengths: Mapping[Hashable, int]) -> list[list[Hashable]]:
    """The names of segments of these lengths, table by table."""
    tables: dict[int, list[Hashable]] = defaultdict(list)
    for name, length in lengths.items():
        tables[(max(length, SMALLEST) - 1).bit_length()].append(name)
    return [tables[size] for size in sorted(tables)]


def held(lengths: Mapping[Hashable, int]) -> int:
    """Cached tokens of tables with segments of these lengths, padding counted."""
    return sum(len(names) * width_of(max(lengths[name] for name in names)) for names in alike(lengths))


@dataclass(eq=False)
class Table:
    """Segments of like length, padded on the right with finite numbers."""

    names: list[Hashable]
    """[B]."""
    lengths: list[int]
    """[B], without padding."""
    keys: list[torch.Tensor]
    """One [B, K, S, D] a layer."""
    values: list[torch.Tensor]
    states: list[LayerState] = field(default_factory=list)
    """Behind the last token of each segment: B rows a layer of linear attention."""

    @property
    def width(self) -> int:
        """S."""
        return self.keys[0].shape[2]

    @property
    def tokens(self) -> int:
        """B·S."""
        return len(self.names) * self.width

    @cached_property
    def mask(self) -> torch.Tensor:
        """[B, S] bool, False at padding."""
        device = self.keys[0].device
        return torch.arange(self.width, device=device) < torch.tensor(self.lengths, device=device)[:, None]

    @cached_property
    def bias(self) -> torch.Tensor:
        """[B, 1, 1, S] to add to scores: -inf at padding."""
        bias = torch.zeros(self.mask.shape, device=self.mask.device).masked_fill(~self.mask, float("-inf"))
        return bias[:, None, None]

    def lengthened(self, lengths: Sequence[int]) -> Table:
        """The same with these lengths, wider where that is needed; what is new is to be written by who asks."""
        missing = width_of(max(lengths)) - self.width
        for states in (self.keys, self.values) if missing > 0 else ():
            for layer, old in enumerate(states):
                states[layer] = F.pad(old, (0, 0, 0, missing))
        return Table(self.names, list(lengths), self.keys, self.values, self.states)


def arranged(tables: Sequence[Table], lengths: Mapping[Hashable, int]) -> list[Table]:
    """Those segments of ``tables`` that ``lengths`` names, sorted anew into tables that hold so many tokens of each.

    Layer by layer, keys and values are taken out of ``tables``, so that they are not held twice; a table that stays as
    it is is not copied.
    """
    place = {name: (number, row) for number, table in enumerate(tables) for row, name in enumerate(table.names)}
    new: list[Table] = []
    taken = set()
    for names in alike(lengths):
        width = width_of(max(lengths[name] for name in names))
        same = next((i for i, one in enumerate(tables) if one.names == names and one.width == width), None)
        if same is not None:
            taken.add(same)
            new.append(tables[same])
            continue
        here = [place[name] for name in names]
        sources = [
            (table, to, [here[i][1] for i in to])
            for number, table in enumerate(tables)
            if (to := [i for i, (source, _) in enumerate(here) if source == number])
        ]
        own = [tables[number].lengths[row] for number, row in here]
        new.append(_Plan(names, own, [], [], _states(sources), width, sources))
    for layer in range(len(tables[0].keys) if tables else 0):
        for plan in (table for table in new if isinstance(table, _Plan)):
            plan.gather(layer)
        for table in (table for number, table in enumerate(tables) if number not in taken):
            for part in (table.keys, table.values):
                part[layer] = part[layer].new_empty((0, *part[layer].shape[1:]))  # a slice would keep the whole
    return [
        Table(one.names, one.lengths, one.keys, one.values, one.states) if isinstance(one, _Plan) else one
        for one in new
    ]


def _states(sources: Sequence[tuple[Table, list[int], list[int]]]) -> list[LayerState]:
    """Of the segments that come from these sources, layer by layer."""
    order = torch.tensor([row for _, to, _ in sources for row in to]).argsort()
    return [
        LayerState.joined(
            [table.states[layer].select(torch.tensor(rows, device=table.mask.device)) for table, _, rows in sources]
        ).select(order.to(sources[0][0].mask.device))
        for layer in range(len(sources[0][0].states))
    ]


@dataclass(eq=False)
class _Plan(Table):
    """A table that is being gathered: of each source, which rows of it go to which of ours."""

    wide: int = 0
    sources: list[tuple[Table, list[int], list[int]]] = field(default_factory=list)

    def gather(self, layer: int) -> None:
        for part in ("keys", "values"):
            like = getattr(self.sources[0][0], part)[layer]
            states = like.new_zeros(len(self.names), like.shape[1], self.wide, like.shape[3])
            for table, to, rows in self.sources:
                old, index = getattr(table, part)[layer], torch.tensor([to, rows], device=like.device)
                tokens = min(self.wide, old.shape[2])
                states[index[0], :, :tokens] = old[index[1], :, :tokens]
            getattr(self, part).append(states)


def attend(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, bias: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """[B, K, n, D] scaled queries, [B, K, S, D] keys -> [B, K, n, D], and [B, K, n] float32 log-sum-exps of scores."""
    scores = (query @ key.transpose(-1, -2) + bias).float()
    whole = scores.logsumexp(-1)
    return (scores - whole[..., None]).exp_().to(value.dtype) @ value, whole
