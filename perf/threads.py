"""The default run's step, alone and beside a busy process: ``python -m perf.threads``; with overrides, another run's.

Threads of one process wait for each other by spinning; beside another process that costs more than they give. So a run
chooses its threads at its start, unless it is told (``default``). Each setting is a run of its own, by turns. Prints
one JSON object: the median step of each setting, the threads that its runs had, ``beside_busy``, its ratio to the same
setting alone, and ``over_two_alone``, its ratio to two threads alone, where those are measured.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

import pandas as pd

from locus.run.threads import VARIABLES, recorded_threads
from perf.step_time import machine

DEFAULT = "default"
THREADS, BUSY = (DEFAULT, "1", "2"), (0, 1)
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


def step_seconds(threads: str, busy: int, steps: int, overrides: Sequence[str]) -> tuple[list[float], int | None]:
    """Seconds of each counted step of a run (python -m locus.train with overrides), and the threads it had."""
    environment = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    environment |= {"CUDA_VISIBLE_DEVICES": ""} | ({} if threads == DEFAULT else {"OMP_NUM_THREADS": threads})
    with tempfile.TemporaryDirectory() as folder, busy_processes(busy):
        command = [sys.executable, "-m", "locus.train", *SMALL, *overrides, f"trainer.steps={WARMUP + steps}"]
        command += [f"trainer.validate_every={WARMUP + steps}", f"hydra.run.dir={folder}"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"locus.train failed:\n{done.stderr}")
        metrics, had = pd.read_csv(Path(folder) / "metrics.csv"), recorded_threads(Path(folder) / "run.json")
    phases = [name for name in metrics.columns if name.startswith("time/") and name.endswith("_s")]
    return metrics.dropna(subset=phases)[phases].sum(axis=1).tolist()[WARMUP:], had


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", nargs="+", choices=THREADS, default=THREADS, help="of the runs")
    parser.add_argument("--steps", type=int, default=8, help="counted, of each run")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each setting, by turns")
    parser.add_argument("overrides", nargs="*", help="of the runs: KEY=VALUE")
    options = parser.parse_args()
    settings = list(product(options.threads, BUSY))
    seconds: dict[tuple[str, int], list[float]] = {setting: [] for setting in settings}
    had: dict[tuple[str, int], list[int | None]] = {setting: [] for setting in settings}
    for _ in range(options.rounds):
        for setting in settings:
            steps, threads = step_seconds(*setting, options.steps, options.overrides)
            seconds[setting] += steps
            had[setting].append(threads)
    medians = {setting: median(seconds[setting]) for setting in settings}
    rows: list[dict[str, Any]] = []
    for threads, busy in settings:
        taken = medians[threads, busy]
        row = {"threads": threads, "busy": busy, "threads_of_runs": had[threads, busy]}
        row |= {"seconds_per_step": round(taken, 3), "beside_busy": round(taken / medians[threads, 0], 2)}
        if "2" in options.threads:
            row["over_two_alone"] = round(taken / medians["2", 0], 2)
        rows.append(row)
    print(json.dumps({**machine(("torch", "transformers", "lightning")), "settings": rows}, indent=2))


if __name__ == "__main__":
    main()
