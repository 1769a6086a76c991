"""How many threads a run computes with on a CPU: as many as find a core that no other process keeps busy.

Threads of one process divide each product and wait for the last of them, thousands of times per step: one that
shares its core with another process holds up all others (docs/performance.md#threads).
"""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Collection
from pathlib import Path

import psutil
import torch

log = logging.getLogger("locus")
VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
"""Of the environment; torch takes its threads from them where they are set, as in the jobs of a launcher."""
IDLE = torch.get_num_threads()
"""Threads on an idle machine, torch's own choice: one per physical core that this process may use."""
SECONDS = 0.25
"""How long other processes are watched; /proc/stat counts hundredths of a second."""
CPU_MAX = Path("/sys/fs/cgroup/cpu.max")


def choose_threads(device: str, record: Path | None = None, processes: int = 1) -> None:
    """Sets torch's threads unless the environment does, or another device than the CPU computes; logs one line.

    Args:
        device: as an accelerator or a device is named; ``auto`` is the CPU where there is no CUDA device.
        record: of a run. One that is resumed goes on with the threads it had: with others, sums differ in the last bit.
        processes: of the run on this machine, which share the cores and do not count as others.
    """
    on_cpu = device == "cpu" or (device == "auto" and not torch.cuda.is_available())
    if not on_cpu or any(name in os.environ for name in VARIABLES):
        return
    cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    earlier = recorded_threads(record) if record else None
    if processes > 1:
        threads, reason = int(max(1, min(IDLE, cpu_quota()) // processes)), f"shared by {processes} ranks"
    elif earlier is not None and earlier <= len(cores):
        threads, reason = earlier, "as before"
    elif IDLE == 1:
        threads, reason = 1, "one core"
    else:
        busy, quota = busy_cores(cores), cpu_quota()
        threads = free_threads(IDLE, len(cores), busy, quota)
        reason = f"other processes keep {busy:.1f} of {len(cores)} cores busy"
        reason += f", a quota allows {quota:g}" if quota < len(cores) else ""
    if threads != torch.get_num_threads():
        torch.set_num_threads(threads)
    log.info("threads: %d (%s; OMP_NUM_THREADS decides otherwise)", threads, reason)


def free_threads(idle: int, cores: int, busy: float, quota: float = math.inf) -> int:
    """Threads that each find a core of their own; at least one.

    Args:
        idle: threads on an idle machine.
        cores: that this process may run on, each hyperthread counted.
        busy: cores' worth of time that other processes use; from half a core on, it counts as a whole one.
        quota: cores' worth of time that this process may use.
    """
    return int(max(1, min(idle, cores - math.floor(busy + 0.5), quota)))


def busy_cores(cores: Collection[int], seconds: float = SECONDS) -> float:
    """Cores' worth of time that these cores spend on other processes while this one waits; 0 where nothing tells."""
    try:
        percent = psutil.cpu_percent(seconds, percpu=True)
    except OSError:  # a container without /proc/stat
        return 0.0
    return sum(percent[core] for core in cores if core < len(percent)) / 100


def cpu_quota(path: Path = CPU_MAX) -> float:
    """Cores' worth of time that a container may use (cgroup v2: ``limit period``, in µs); infinite without a limit."""
    try:
        limit, period = path.read_text().split()
        return int(limit) / int(period)
    except (OSError, ValueError):  # no such file, or "max"
        return math.inf


def recorded_threads(record: Path) -> int | None:
    """Threads by a run's ``run.json``, or by the ``manifest.json`` of predictions; None before there is one."""
    try:
        return int(json.loads(record.read_text(encoding="utf-8"))["hardware"]["threads"])
    except (OSError, ValueError, KeyError):
        return None
