"""The clock of training steps: what it counts, and that ranks agree on it."""

from __future__ import annotations

from pathlib import Path

import pytest

from locus import ranks
from locus.training.clock import StepClock
from tests.support.ranks import on_ranks


def seconds_on_ranks() -> list[tuple[float, bool]]:
    """Seconds, and whether they are over, after each of two steps of 1 and 3 s on rank 0, 2 and 2 s on rank 1."""
    times = iter([[0.0, 10, 11, 20, 23], [0.0, 10, 12, 20, 22]][ranks.position()[0]])
    clock, states = StepClock(limit=5.0, now=lambda: next(times)), []
    for _ in range(2):
        clock.begin()
        clock.end()
        states.append((clock.seconds, clock.is_over))
    return states


def test_what_lies_between_two_steps_does_not_count():
    """A validation or a checkpoint that counts as training; a limit that is passed and not noticed."""
    assert seconds_on_ranks() == [(1.0, False), (4.0, False)]  # by hand, of one rank
    times = iter([0.0, 1.0, 3.5, 100.0, 102.5])
    clock = StepClock(limit=5.0, now=lambda: next(times))
    clock.begin(), clock.end()
    assert (clock.seconds, clock.is_over) == (2.5, False)
    clock.begin(), clock.end()
    assert (clock.seconds, clock.is_over) == (5.0, True)
    assert not StepClock().is_over


@pytest.mark.slow
def test_ranks_end_together(tmp_path: Path):
    """A rank that ends a step earlier than another, which then waits for ever: the slowest counts, for all."""
    assert on_ranks(2, seconds_on_ranks, tmp_path) == [[(2.0, False), (5.0, True)]] * 2
