"""The seconds that a run's training steps take, and the limit at which it ends."""

from __future__ import annotations

import time
from collections.abc import Callable

from locus import ranks


class StepClock:
    """Counts a step from where it may begin: the wait for its prompts and all its phases, nothing between two steps.

    Args:
        limit: seconds of steps, after which no further one begins; None for any number.
        now: returns seconds.
    """

    def __init__(self, limit: float | None = None, now: Callable[[], float] = time.perf_counter) -> None:
        self.limit, self.now = limit, now
        self.seconds = 0.0
        """Of all finished steps, those before a resume among them; on several ranks each step's are the slowest's."""
        self._began = now()

    @property
    def is_over(self) -> bool:
        """Whether the limit is reached; the same on every rank."""
        return self.limit is not None and self.seconds >= self.limit

    def begin(self) -> None:
        """A step may begin."""
        self._began = self.now()

    def end(self) -> None:
        """The step is done. All ranks must say so together."""
        self.seconds += max(ranks.exchanged(self.now() - self._began))
