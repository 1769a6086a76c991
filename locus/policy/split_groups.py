"""Which completions are scored at a time: memory bounds a micro-batch, not a group.

A prompt is encoded once; where its completions do not fit beside it, they follow in parts, each with a graph of its
own, and the gradient that the parts leave on the prompt's keys and values runs through the prompt once, at the end.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import zip_longest

import torch

from locus import ranks
from locus.errors import LocusError
from locus.policy.group_attention import Prefill
from locus.policy.linear_attention import LayerState
from locus.policy.vlm import EncodedPrompts
from locus.types import Prompt


@dataclass(frozen=True, eq=False)
class PromptBatch:
    """Groups whose prompts are encoded together, and which of their rows are scored at a time."""

    groups: list[int]
    """[B'] indices."""
    parts: list[torch.Tensor]
    """One [B', G] bool a micro-batch; each row is in one of them."""

    @classmethod
    def whole(cls, groups: Sequence[int], group: int) -> PromptBatch:
        """All rows at once."""
        return cls(list(groups), [torch.ones(len(groups), group, dtype=torch.bool)])


def prompt_batches(prompts: Sequence[Prompt], lengths: Sequence[Sequence[int]], budget: int) -> list[PromptBatch]:
    """Groups that are scored together, such that a micro-batch holds at most ``budget`` tokens.

    Prompts are ordered by length, then id: little padding, and the same batches whatever the order they came in.

    Args:
        prompts: B prompts.
        lengths: of their completions, [B][G].
        budget: of the prompts, padded to the longest, and the completions that are scored with them, not padded. A
            group above it is split.

    Raises:
        LocusError: a prompt with one completion exceeds the budget.
    """
    order = sorted(range(len(prompts)), key=lambda i: (prompts[i].length, prompts[i].prompt_id))
    batches: list[PromptBatch] = []
    together: list[int] = []  # that fit without a split
    completion_tokens = 0
    for index in order:
        tokens, group = prompts[index].length, lengths[index]
        if tokens + sum(group) > budget:
            batches.append(PromptBatch([index], [part[None] for part in _parts(prompts[index], group, budget)]))
            continue
        if together and (len(together) + 1) * tokens + completion_tokens + sum(group) > budget:
            batches.append(PromptBatch.whole(together, len(group)))
            together, completion_tokens = [], 0
        together.append(index)
        completion_tokens += sum(group)
    return [*batches, PromptBatch.whole(together, len(lengths[together[0]]))] if together else batches


def in_step(batches: Sequence[PromptBatch], group: int, idle: int) -> list[PromptBatch]:
    """The batches with passes of no completion added, so that every rank has as many: see `sharding.shard`.

    Args:
        batches: of this rank, maybe none.
        group: G.
        idle: index of a prompt to encode where this rank has no batch left.
    """
    own = sorted(batches, key=lambda batch: -len(batch.parts))  # ranks then differ least, place by place
    wanted = [max(counts) for counts in zip_longest(*ranks.exchanged([len(one.parts) for one in own]), fillvalue=0)]
    own += [PromptBatch([idle], [])] * (len(wanted) - len(own))
    empty = [torch.zeros(len(one.groups), group, dtype=torch.bool) for one in own]
    return [
        PromptBatch(one.groups, one.parts + [none] * (count - len(one.parts)))
        for one, none, count in zip(own, empty, wanted, strict=True)
    ]


def _parts(prompt: Prompt, lengths: Sequence[int], budget: int) -> list[torch.Tensor]:
    """Rows of one group as [G] bool masks, longest first: rows of like length are attended together."""
    check_room([prompt], max(lengths), budget)
    parts: list[torch.Tensor] = []
    room = 0
    for row in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
        if lengths[row] > room:
            parts.append(torch.zeros(len(lengths), dtype=torch.bool))
            room = budget - prompt.length
        parts[-1][row] = True
        room -= lengths[row]
    return parts


def check_room(prompts: Iterable[Prompt], completion_tokens: int, budget: int) -> None:
    """Raises LocusError unless each prompt fits the budget together with one completion of so many tokens."""
    for prompt in prompts:
        if (tokens := prompt.length + completion_tokens) > budget:
            raise LocusError(
                f"prompt {prompt.prompt_id} and one completion of {completion_tokens} have {tokens} tokens, the budget "
                f"is {budget}: raise rollout.token_budget, or lower pixels.max_pixels or "
                "rollout.sampling.max_new_tokens"
            )


@contextmanager
def cut_from_graph(encoded: EncodedPrompts) -> Iterator[EncodedPrompts]:
    """The prompts as leaves, so that what continues them has a graph of its own.

    Gradient gathers on the leaves; where the block ends without an error, it runs through the prompts' graph.
    """
    prefill = encoded.prefill
    linear = [part for state in prefill.states for part in (state.convolution, state.recurrent)]
    roots = [encoded.hidden, *prefill.keys, *prefill.values, *linear]
    leaves = [root.detach().requires_grad_(root.requires_grad) for root in roots]
    rest = iter(leaves)
    hidden = next(rest)
    keys, values = ([next(rest) for _ in part] for part in (prefill.keys, prefill.values))
    states = [LayerState(next(rest), next(rest)) for _ in prefill.states]
    yield replace(encoded, hidden=hidden, prefill=Prefill(prefill.prompt_mask, keys, values, states))
    gathered = [root for root, leaf in zip(roots, leaves, strict=True) if leaf.grad is not None]
    if gathered:
        torch.autograd.backward(gathered, [leaf.grad for leaf in leaves if leaf.grad is not None])
