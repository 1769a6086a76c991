"""The default run's step with one thread and with two, alone and beside a busy process: ``python -m perf.threads``.

Threads of one process wait for each other by spinning; beside another process that costs more than they give. Each
setting is a run of its own, by turns. Prints one JSON object: the median step of each setting, and ``beside_busy``, its
ratio to the same threads alone.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

import pandas as pd

from perf.step_time import machine

THREADS, BUSY = (1, 2), (0, 1)
WARMUP = 1
"""Steps of each run that are not counted."""
SMALL = (
    "diagnoses=none",
    "logger=csv",
    "data.source.count=256",
    "data.train_examples=128",
    "data.validation_examples=2",
)


@contextmanager
def busy_processes(count: int) -> Iterator[None]:
    """So many processes that compute in one thread each, until the end."""
    spin = [sys.executable, "-c", "while True: pass"]
    started = [subprocess.Popen(spin) for _ in range(count)]
    try:
        yield
    finally:
        for process in started:
            process.kill()
            process.wait()


def step_seconds(threads: int, busy: int, steps: int) -> list[float]:
    """Seconds of each counted step of a default run (python -m locus.train)."""
    with tempfile.TemporaryDirectory() as folder, busy_processes(busy):
        command = [sys.executable, "-m", "locus.train", *SMALL, f"trainer.steps={WARMUP + steps}"]
        command += [f"trainer.validate_every={WARMUP + steps}", f"hydra.run.dir={folder}"]
        environment = os.environ | {"OMP_NUM_THREADS": str(threads), "CUDA_VISIBLE_DEVICES": ""}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"locus.train failed:\n{done.stderr}")
        metrics = pd.read_csv(Path(folder) / "metrics.csv")
    phases = [name for name in metrics.columns if name.startswith("time/") and name.endswith("_s")]
    return metrics.dropna(subset=phases)[phases].sum(axis=1).tolist()[WARMUP:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=8, help="counted, of each run")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each setting, by turns")
    options = parser.parse_args()
    settings: dict[tuple[int, int], list[float]] = {setting: [] for setting in product(THREADS, BUSY)}
    for _ in range(options.rounds):
        for (threads, busy), seconds in settings.items():
            seconds += step_seconds(threads, busy, options.steps)
    medians = {setting: median(seconds) for setting, seconds in settings.items()}
    rows: list[dict[str, Any]] = [
        {
            "threads": threads,
            "busy": busy,
            "seconds_per_step": round(seconds, 3),
            "beside_busy": round(seconds / medians[threads, 0], 2),
        }
        for (threads, busy), seconds in medians.items()
    ]
    print(json.dumps({**machine(("torch", "transformers", "lightning")), "settings": rows}, indent=2))


if __name__ == "__main__":
    main()
