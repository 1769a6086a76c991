"""Progress of long work, as lines in the log: how much is done, how fast it goes, how much longer it will take.

Example: ``training: 30/300 steps, 31.2 steps/min, ETA 0:08:39, train/reward 0.412``. A line comes every ten seconds
during the first five minutes, then every minute (`set_interval`). Work that takes less than ten seconds logs nothing.
"""

from __future__ import annotations

import logging
import resource
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

import torch

from locus.errors import LocusError

log = logging.getLogger("locus")
T = TypeVar("T")

INTERVAL = 60.0
"""Seconds between two lines, unless a command sets another."""
EARLY_INTERVAL = 10.0
"""The same at first, when somebody wants to see whether the work runs at all."""
EARLY = 300.0
"""Seconds for which that holds."""

_interval = INTERVAL
_outer: list[str] = []


def set_interval(seconds: float) -> None:
    """Sets the seconds between two lines of any work; 0 logs every step. Raises LocusError for anything else."""
    global _interval
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not seconds >= 0:
        raise LocusError(f"progress.every={seconds}: give a number of seconds, 0 for a line at every step")
    _interval = float(seconds)


@contextmanager
def within(name: str) -> Iterator[None]:
    """Everything counted inside this context has the name at the start of its lines."""
    _outer.append(name)
    try:
        yield
    finally:
        _outer.pop()


class Progress:
    """Counts one piece of work and logs a line whenever one is due.

    Args:
        what: begins each line.
        total: of the count.
        unit: what is counted, in the plural.
        done: the count at the start, from an earlier run; the rate leaves it out.
        bar: a progress bar shows the same, so on a terminal the lines go to the log file only.
        clock: returns seconds.
    """

    def __init__(
        self,
        what: str,
        total: int,
        unit: str = "items",
        done: int = 0,
        *,
        bar: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.what, self.total, self.unit, self.bar, self.clock = ": ".join([*_outer, what]), total, unit, bar, clock
        self.before, self.began = done, clock()
        self._last: float | None = None
        """When the last line was logged."""

    def reach(self, done: int, headline: Mapping[str, float] | None = None) -> None:
        """Sets the count, and logs a line if one is due; it ends with the numbers of the headline."""
        now = self.clock()
        early = now - self.began < EARLY
        waited = now - (self.began if self._last is None else self._last)
        due = waited >= (min(_interval, EARLY_INTERVAL) if early else _interval)
        if due or (done == self.total and self._last is not None):
            self._last = now
            self._log(self.line(done, now - self.began, headline or {}))

    def line(self, done: int, seconds: float, headline: Mapping[str, float]) -> str:
        """The line for a count that was reached after so many seconds."""
        rate = (done - self.before) / seconds if seconds > 0 else 0.0
        parts = [f"{self.what}: {done}/{self.total} {self.unit}", f"{_three_digits(60 * rate)} {self.unit}/min"]
        if done >= self.total:
            parts.append(f"took {_clock_time(seconds)}")
        elif rate > 0:
            parts.append(f"ETA {_clock_time((self.total - done) / rate)}")
        return ", ".join([*parts, *(f"{name} {value:.4g}" for name, value in headline.items())])

    def _log(self, line: str) -> None:
        if not self.bar or not sys.stdout.isatty():
            log.info(line)
            return
        record = log.makeRecord(log.name, logging.INFO, __file__, 0, line, (), None)
        for handler in logging.root.handlers:
            if isinstance(handler, logging.FileHandler):
                handler.handle(record)


def tracked(items: Iterable[T], what: str, total: int, unit: str = "items") -> Iterator[T]:
    """The items, each counted as done when the next one is asked for."""
    progress = Progress(what, total, unit)
    for done, item in enumerate(items, 1):
        yield item
        progress.reach(done)


def _three_digits(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:#.3g}".rstrip(".")


def _clock_time(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))


# --- Cost ----------------------------------------------------------------------------------------------------------
def peak_memory_gb(on_gpu: bool) -> float:
    """Peak of the GPU's allocator, or of the process's resident memory, in GB."""
    if on_gpu:
        return torch.cuda.max_memory_allocated() / 1e9
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


class Phases:
    """Wall time per phase of a step; on a GPU each phase ends with a synchronisation."""

    def __init__(self, device: torch.device):
        self.device = device
        self._seconds: dict[str, float] = defaultdict(float)

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self._seconds[name] += time.perf_counter() - start

    def costs(self) -> dict[str, float]:
        """``time/<phase>_s`` for each phase, and the peak memory so far."""
        return {f"time/{name}_s": seconds for name, seconds in self._seconds.items()} | {
            "memory/peak_gb": peak_memory_gb(self.device.type == "cuda")
        }
