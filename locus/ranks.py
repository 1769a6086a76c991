"""The ranks of a run: processes that train one policy together, each on its share of every batch.

A batch is dealt like cards: place by place, each row beginning one rank further, so that neither a mini-batch nor a
mixture's pattern falls to one rank. What comes back is put at its place again: tables and means are those of one
process. Without a process group there is one rank, and everything here returns what it was given.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import distributed

T = TypeVar("T")
BUCKET = 2**25
"""Numbers that are summed over the ranks at a time."""


def position() -> tuple[int, int]:
    """This process's rank, and how many there are: (0, 1) outside of a process group."""
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1


def is_lost(error: BaseException) -> bool:
    """The connection to another rank is gone."""
    signs = ("closed by peer", "Connection reset", "Broken pipe", "gloo/transport")
    return isinstance(error, distributed.DistError) or any(sign in str(error) for sign in signs)


# --- Shares of a batch ----------------------------------------------------------------------------------------
def dealt(items: Sequence[T]) -> list[T]:
    """This rank's share of a batch that every rank knows."""
    rank, ranks = position()
    return [items[place] for place in _places(len(items), rank, ranks)]


def laid_out(own: Sequence[T]) -> list[T | None]:
    """What this rank made of its share, each at its place in the whole batch; None at the places of other ranks."""
    rank, ranks = position()
    if ranks == 1:
        return list(own)
    batch: list[T | None] = [None] * sum(exchanged(len(own)))
    for place, item in zip(_places(len(batch), rank, ranks), own, strict=True):
        batch[place] = item
    return batch


def gathered(batch: Sequence[T | None]) -> list[T]:
    """The whole batch, of which each place is None on all ranks but one."""
    own = {place: item for place, item in enumerate(batch) if item is not None}
    merged = {place: item for part in exchanged(own) for place, item in part.items()}
    return [merged[place] for place in range(len(batch))]


def _places(count: int, rank: int, ranks: int) -> list[int]:
    return [place for place in range(count) if (place + place // ranks) % ranks == rank]


# --- Between ranks --------------------------------------------------------------------------------------------
def exchanged(own: T) -> list[T]:
    """What every rank has, in their order; small things only."""
    _, ranks = position()
    if ranks == 1:
        return [own]
    everyone: list[T | None] = [None] * ranks
    distributed.all_gather_object(everyone, own)
    return everyone  # type: ignore[return-value]  # filled by now


def agreed(own: T) -> T:
    """What rank zero has."""
    if position()[1] == 1:
        return own
    box = [own]
    distributed.broadcast_object_list(box, src=0)
    return box[0]


def sum_gradients(
    parameters: Sequence[torch.nn.Parameter], finite: bool, reduce: Callable[[torch.Tensor], torch.Tensor]
) -> bool:
    """Adds up the gradients of all ranks, in place; returns whether they were finite on all, and else leaves them.

    A parameter that has a gradient on no rank keeps none, as in one process: an optimiser leaves it alone.

    Args:
        parameters: the same on every rank, on one device.
        finite: this rank's losses were.
        reduce: a tensor -> its sum over the ranks.
    """
    state = [not finite, *(parameter.grad is not None for parameter in parameters)]
    spoiled, *known = reduce(torch.tensor(state, dtype=torch.int32, device=parameters[0].device)).tolist()
    if spoiled:
        return False
    gradients = []
    for parameter, count in zip(parameters, known, strict=True):
        if count and parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        if parameter.grad is not None:
            gradients.append(parameter.grad)
    for bucket in _buckets(gradients):
        flat = [gradient.flatten() for gradient in bucket]
        summed = reduce(torch.cat(flat) if len(flat) > 1 else flat[0])  # an embedding alone is not copied
        for gradient, part in zip(bucket, summed.split([one.numel() for one in bucket]), strict=True):
            gradient.copy_(part.view_as(gradient))
    return True


def _buckets(gradients: Sequence[torch.Tensor]) -> list[list[torch.Tensor]]:
    """Of one type each: hundreds of small tensors would cost hundreds of messages."""
    buckets: list[list[torch.Tensor]] = []
    size = 0
    for gradient in gradients:
        if not buckets or buckets[-1][0].dtype != gradient.dtype or size + gradient.numel() > BUCKET:
            buckets.append([])
            size = 0
        buckets[-1].append(gradient)
        size += gradient.numel()
    return buckets
