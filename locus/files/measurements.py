"""Wall time of a step's phases, and the peak of memory."""

from __future__ import annotations

import resource
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def peak_memory_gb() -> float:
    """Peak of the GPU's allocator where there is one, else of the process's resident memory, in GB."""
    if torch.cuda.is_available():
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
            "memory/peak_gb": peak_memory_gb()
        }
