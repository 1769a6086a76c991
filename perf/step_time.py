"""Time and memory of one optimisation step (rollout, reference, update) of locus and of TRL's GRPOTrainer.

    python -m perf.step_time             # locus alone
    pip install trl==1.16.0              # not among the requirements
    python -m perf.step_time             # both, and their ratio
    python -m perf.step_time --prompt-tokens 550 2100 --group 4 8 16 32 --train-vision 1 0 --against trl separate

Same weights (a random Qwen2.5-VL of 6 M parameters, float32, CPU), processor, pictures (616x448 image, 112x112 cue)
and prompts; G = 8, every completion 64 tokens long, 2 prompts a step, KL to a reference, AdamW, gradient clipping. The
two are measured by turns, each time in a process of its own, so that a machine's drift meets both; the figure to look
at is the ratio, absolute times are the machine's. A step lasts from the end of the one before to its own end, so data
loading and whatever the trainer does between is in it. Peak memory is that of the process beyond its imports. On a
machine with other work, ``--threads 1`` and ``cpu_ratio`` (processor time, blind to waiting) are the steadier figures.

Prints one JSON object with a point per combination of sizes. Times are medians over the measured steps of all rounds.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib import metadata, util
from pathlib import Path
from statistics import median
from typing import Any

from perf.grid import add_grid, points
from perf.step_workload import Workload, write_inputs

HALVES = {"locus": ("locus_step",), "separate": ("locus_step", "separate"), "trl": ("trl_step",)}
"""What is timed -> the module that times it, and its last argument."""


def run_half(name: str, folder: Path, number: int, work: Workload) -> dict[str, Any]:
    """One process of one of `HALVES`; its report. Raises SystemExit with its stderr if it fails."""
    module, *arguments = HALVES[name]
    result = folder / f"{name}-{number}.json"
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(work.threads))
    offline = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, "-m", f"perf.{module}", str(folder), str(result), *arguments],
        env=os.environ | threads | offline, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(f"perf.{module} failed:\n{done.stderr}")
    return json.loads(result.read_text())


def summary(rounds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Medians of one trainer's steps over all its processes, and its counts."""
    steps = [step for report in rounds for step in report["steps"]]
    medians = {name: round(median(step[name] for step in steps), 3) for name in steps[0]}
    counts = {name: rounds[0][name] for name in rounds[0] if name not in ("steps", "peak_mb")}
    return {
        "seconds_per_step": medians.pop("step"),
        "cpu_seconds_per_step": medians.pop("cpu"),
        "phases": medians,
        "peak_mb": max(report["peak_mb"] for report in rounds),
        **counts,
    }


def ratios(locus: Sequence[dict[str, Any]], other: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """How many times faster and smaller locus is; ``ratio_by_round`` shows the spread."""
    seconds = [[median(step["step"] for step in report["steps"]) for report in rounds] for rounds in (locus, other)]
    mine, theirs = summary(locus), summary(other)
    return {
        "ratio": round(theirs["seconds_per_step"] / mine["seconds_per_step"], 2),
        "cpu_ratio": round(theirs["cpu_seconds_per_step"] / mine["cpu_seconds_per_step"], 2),
        "ratio_by_round": [round(b / a, 2) for a, b in zip(*seconds, strict=True)],
        "peak_ratio": round(theirs["peak_mb"] / mine["peak_mb"], 2),
    }


def rounds_of(work: Workload, rounds: int, names: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
    """Runs `HALVES` by turns, ``rounds`` processes each; their reports."""
    halves: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory() as folder:
        write_inputs(Path(folder), work)
        for number in range(rounds):
            for name, reports in halves.items():
                reports.append(run_half(name, Path(folder), number, work))
    return halves


def measure(work: Workload, rounds: int, against: Sequence[str]) -> dict[str, Any]:
    """One point: sizes, a summary of each half, and ``against`` with the ratios to each of the others."""
    halves = rounds_of(work, rounds, ["locus", *against])
    compared = {name: ratios(halves["locus"], halves[name]) for name in against}
    return {
        "workload": asdict(work),
        **{name: summary(reports) for name, reports in halves.items()},
        "against": compared,
    }


def machine(libraries: Sequence[str]) -> dict[str, Any]:
    """What the figures depend on beside the sizes."""
    versions = {"python": sys.version.split()[0], **{name: metadata.version(name) for name in libraries}}
    return {"versions": versions, "cores": os.cpu_count(), "load_average": os.getloadavg()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    installed = ["trl"] if util.find_spec("trl") else []
    parser.add_argument("--rounds", type=int, default=3, help="processes per trainer, by turns")
    parser.add_argument(
        "--against", nargs="*", choices=("trl", "separate"), default=installed, help="default: trl, if installed"
    )
    add_grid(parser)
    options: Mapping[str, Any] = vars(parser.parse_args())
    work, against = points(dict(options)), options["against"]
    if "trl" in against and not installed:
        raise SystemExit("--against trl: pip install trl==1.16.0 first")
    libraries = ("torch", "transformers", "lightning", *(name for name in against if name in installed))
    report = {**machine(libraries), "rounds": options["rounds"]}
    report["points"] = [measure(point, options["rounds"], against) for point in work]
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
