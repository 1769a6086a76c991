"""Shares of a batch, their union in order, and summed gradients, on processes that talk through gloo."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed

from locus import ranks
from tests.support.ranks import on_ranks

COUNTS = (0, 1, 2, 3, 4, 7, 8, 16)


def shares() -> list[Any]:
    """For batches of several sizes: this rank's share, the batch as gathered, and its share of each half."""
    results = []
    for count in COUNTS:
        own = ranks.dealt(range(count))
        results.append((own, ranks.gathered(ranks.laid_out([str(item) for item in own]))))
    return results


def summed(rank_has: list[list[list[float] | None]], finite: list[bool]) -> tuple[bool, list[torch.Tensor | None]]:
    """This rank's gradients, summed over the ranks."""
    rank, _ = ranks.position()
    parameters = [
        torch.nn.Parameter(torch.zeros(2, dtype=kind)) for kind in (torch.float32, torch.float64, torch.float32)
    ]
    for parameter, gradient in zip(parameters, rank_has[rank], strict=True):
        parameter.grad = None if gradient is None else torch.tensor(gradient, dtype=parameter.dtype)

    def reduce(own: torch.Tensor) -> torch.Tensor:
        distributed.all_reduce(own)
        return own

    return ranks.sum_gradients(parameters, finite[rank], reduce), [parameter.grad for parameter in parameters]


def work(*arguments: Any) -> Any:
    """All cases in one start of the processes, which takes seconds."""
    rank, _ = ranks.position()
    return shares(), [summed(*case) for case in arguments], ranks.exchanged(10 * rank), ranks.agreed(f"of {rank}")


HAS = [[[1.0, 2.0], None, None], [[10.0, 20.0], [0.5, 0.25], None]]


def test_one_rank_keeps_what_it_is_given():
    """Any change of order or copy would change a run of one process."""
    entry = object()
    assert ranks.dealt([entry, 2]) == [entry, 2] and ranks.laid_out([entry]) == [entry] == ranks.gathered([entry])
    assert ranks.position() == (0, 1) and ranks.exchanged(entry) == [entry] and ranks.agreed(entry) is entry


@pytest.mark.parametrize("count", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_shares_and_gradients(tmp_path: Path, count: int):
    """Each item is one rank's, in equal parts, and comes back at its place; gradients are sums, or none at all."""
    has = [*HAS, *[[None] * 3] * (count - 2)]
    everyone = on_ranks(count, work, tmp_path, (has, [True] * count), (has, [True, False, True, True][:count]))
    for index, size in enumerate(COUNTS):
        own = [result[0][index][0] for result in everyone]
        assert sorted(item for part in own for item in part) == list(range(size))
        assert max(map(len, own)) - min(map(len, own)) <= 1
        assert all(result[0][index][1] == [str(item) for item in range(size)] for result in everyone)
        for start in range(0, size - count + 1, count):  # no mini-batch, and no pattern, falls to one rank
            assert all(sum(start <= item < start + count for item in part) == 1 for part in own)
    for _, ((good, gradients), (spoiled, left)), numbers, word in everyone:
        assert good and not spoiled
        assert gradients[0].tolist() == [11.0, 22.0] and gradients[1].tolist() == [0.5, 0.25] and gradients[2] is None
        assert left[2] is None
        assert numbers == [10 * rank for rank in range(count)] and word == "of 0"
