"""Prompts of a stream that are being answered (`continuous`): what each shares with others, and what it has written."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch

from locus.policy.segments import Table
from locus.types import Prompt


@dataclass(eq=False)
class Row:
    """A prompt that is being answered."""

    number: int
    """In the stream."""
    prompt: Prompt
    shared: Hashable
    """Equal for prompts with the same head."""
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    finished: bool = False

    @cached_property
    def head(self) -> int:
        """Tokens up to the last picture; without one the first, as a head cannot be empty."""
        pictured = self.prompt.mm_token_type_ids.nonzero()
        return int(pictured[-1]) + 1 if len(pictured) else 1

    @property
    def question(self) -> torch.Tensor:
        """Ids of what follows the head."""
        return self.prompt.input_ids[self.head :]

    @property
    def tail(self) -> int:
        """Tokens of the question and of what is written: what its tail holds once the last of them has been fed."""
        return self.prompt.length - self.head + len(self.token_ids)

    def head_prompt(self) -> Prompt:
        """The head as a prompt of its own, with the pictures."""
        ids, types = self.prompt.input_ids[: self.head], self.prompt.mm_token_type_ids[: self.head]
        return replace(self.prompt, input_ids=ids, mm_token_type_ids=types)


def lengths_of(rows: Iterable[Row]) -> tuple[dict[Hashable, int], dict[Hashable, int]]:
    """Of the heads and the tails of rows."""
    return {row.shared: row.head for row in rows}, {row.number: row.tail for row in rows}


def slots_of(rows: Sequence[Row], heads: Sequence[Table]) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Where each head's rows are among all, and each row's place among the heads' slots: as `RaggedStep` takes them."""
    of_head: dict[Hashable, list[int]] = {}
    for place, row in enumerate(rows):
        of_head.setdefault(row.shared, []).append(place)
    slots, order, start = [], torch.zeros(len(rows), dtype=torch.long), 0
    for table in heads:
        groups = [of_head.get(name, []) for name in table.names]
        most = max(1, *map(len, groups))
        slots.append(torch.tensor([group + [0] * (most - len(group)) for group in groups]))
        for number, group in enumerate(groups):
            order[group] = start + number * most + torch.arange(len(group))
        start += len(groups) * most
    return slots, order
