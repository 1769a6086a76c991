"""How locus grows: start-up against the size of the corpus, a step against G and against the image.

    python -m perf.scaling                      all three
    python -m perf.scaling --only start_up      one of them: start_up, group, image

**start_up**: from the end of the imports to the first batch of step 1, as ``locus.train`` does it on a prepared corpus
of photographs, and on one of generated scenes that it draws itself; by stage. **group** and **image**: a step of
`perf.step_time`'s workload, locus alone, for each G at the middle image, and for each image at one G. Sizes are
measured by turns, each time in a process of its own, so that a machine's drift meets all; look at the ratios, times are
the machine's.

Prints one JSON object. Times are medians over the rounds.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from PIL import Image

from locus.tasks.cue_search.crops import CropStrategy
from locus.tasks.cue_search.drawing import build_corpus
from locus.types import ImageTable
from perf.step_time import run_half, summary
from perf.step_workload import Workload, write_inputs

SIZE = 640, 480
PER_IMAGE = 8
"""Boxes per photograph, as in COCO."""
Report = dict[str, Any]


# --- Start-up ---------------------------------------------------------------------------------------------------
def write_corpus(folder: Path, examples: int, seed: int = 0) -> list[str]:
    """A prepared corpus of boxes on as many photographs as COCO has for them; the overrides that use it.

    All photographs are one file: opening is not what grows with a corpus.
    """
    rng, images = np.random.default_rng(seed), max(2, 2 * examples // PER_IMAGE)
    corner, side = rng.uniform(0, 400, (images * PER_IMAGE, 2)), rng.uniform(20, 80, (images * PER_IMAGE, 2))
    table = ImageTable(
        tuple(f"coco-{index}" for index in range(images)),
        ("image.jpg",) * images,
        *(np.full(images, side, dtype=np.int64) for side in SIZE),
        np.repeat(np.arange(images), PER_IMAGE),
        np.concatenate([corner, corner + side], axis=1),
        ("cup",) * (images * PER_IMAGE),
    )
    every_box = CropStrategy({"any": (0, 1)}, {"any": 1}, min_side=1, padding={}, scale={})
    build_corpus(table, every_box, examples - examples // 20, examples // 20, seed).save(folder)
    Image.fromarray(rng.integers(0, 256, (*SIZE[::-1], 3), dtype=np.uint8)).save(folder / "image.jpg")
    return ["data=coco", f"corpus={folder}", f"data.images={folder}", "data.annotations=none.json"]


def drawn_corpus(folder: Path, examples: int) -> list[str]:
    """Overrides for a corpus that the run itself draws of its default scenes, one scene for two examples."""
    sizes = f"data.train_examples={examples - examples // 20}", f"data.validation_examples={examples // 20}"
    return [f"data.source.count={max(40, examples // 2)}", *sizes]


KINDS: Mapping[str, Callable[[Path, int], list[str]]] = {"prepared": write_corpus, "drawn": drawn_corpus}
STAGES = """
import json, sys, time
began = time.perf_counter()
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from locus.run.building import build_data, build_module, check_task
from locus.run.help import CONF
from locus.run.settings import TrainSettings
from locus.train import facts_of
stages, last, cpu = {"imports": time.perf_counter() - began}, time.perf_counter(), time.process_time()
def ended(stage):
    global last
    stages[stage], last = time.perf_counter() - last, time.perf_counter()
with initialize_config_dir(str(CONF), version_base="1.3"):
    cfg = compose("train", overrides=["diagnoses=none", *sys.argv[1:]])
settings = TrainSettings.of(cfg)
ended("configuration")
backbone = instantiate(cfg.backbone)
data = build_data(cfg, backbone, 0)
ended("data")
check_task(cfg, settings, backbone, data)
ended("preflight")
module = build_module(cfg, settings, backbone, data)
ended("model")
facts_of(cfg, module, data, {})
ended("facts")
next(iter(data.train_dataloader()))
ended("first batch")
cpu = time.process_time() - cpu
data.draw(0, 0, 4, {"none"})
ended("refill")
print(json.dumps({"cpu": cpu, "stages": stages}))
"""
"""What `locus.train.train` does until its first step, and what a refill adds."""
BESIDE = ("imports", "refill")
"""Stages that are no part of the start-up."""


def start_up(overrides: Sequence[str]) -> Report:
    """Seconds of each stage, and processor time beyond the imports, in a process of its own.

    Raises SystemExit with its stderr if it fails.
    """
    done = subprocess.run([sys.executable, "-c", STAGES, *overrides], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"start-up failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def measure_start_up(sizes: Sequence[int], rounds: int) -> Report:
    """Kind -> size -> seconds beyond the imports, by stage; ``ratio`` is of processor time, to the smallest size."""
    report: Report = {}
    with tempfile.TemporaryDirectory() as folder:
        for kind, write in KINDS.items():
            places = {size: Path(folder) / f"{kind}-{size}" for size in sizes}
            overrides = {size: write(place, size) for size, place in places.items()}
            runs: dict[int, list[Report]] = {size: [] for size in sizes}
            for _ in range(rounds):
                for size in sizes:
                    runs[size].append(start_up(overrides[size]))
            report[kind] = {str(size): _stages(runs[size]) for size in sizes}
            _against_first(report[kind], "cpu_seconds")
    return report


def _stages(runs: Sequence[Report]) -> Report:
    stages = {stage: round(median(run["stages"][stage] for run in runs), 3) for stage in runs[0]["stages"]}
    beyond = [sum(seconds for stage, seconds in run["stages"].items() if stage not in BESIDE) for run in runs]
    cpu = round(median(run["cpu"] for run in runs), 2)
    return {"seconds": round(median(beyond), 2), "cpu_seconds": cpu, "stages": stages}


def _against_first(rows: dict[str, Report], name: str, ratio: str = "ratio") -> None:
    """Adds the ratio to the first row's."""
    first = next(iter(rows.values()))[name]
    for row in rows.values():
        row[ratio] = round(row[name] / first, 2)


# --- A step -----------------------------------------------------------------------------------------------------
def measure_steps(works: Mapping[str, Workload], rounds: int) -> dict[str, Report]:
    """Workloads by turns: seconds, phases and memory of a step, and the ratios to the first one's times."""
    reports: dict[str, list[Report]] = {name: [] for name in works}
    with tempfile.TemporaryDirectory() as folder:
        for name, work in works.items():
            (Path(folder) / name).mkdir()
            write_inputs(Path(folder) / name, work)
        for number in range(rounds):
            for name, work in works.items():
                reports[name].append(run_half("locus", Path(folder) / name, number, work))
    rows = {name: summary(steps) for name, steps in reports.items()}
    kept = ("seconds_per_step", "cpu_seconds_per_step", "phases", "peak_mb", "prompt_tokens")
    rows = {name: {key: row[key] for key in kept} for name, row in rows.items()}
    _against_first(rows, "seconds_per_step")
    _against_first(rows, "cpu_seconds_per_step", "cpu_ratio")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=("start_up", "group", "image"))
    parser.add_argument("--rounds", type=int, default=3, help="processes per size, by turns")
    parser.add_argument("--examples", type=int, nargs="+", default=(1_000, 10_000, 100_000))
    parser.add_argument("--groups", type=int, nargs="+", default=(4, 8, 16, 32))
    parser.add_argument("--widths", type=int, nargs="+", default=(308, 616, 1232), help="of 4:3 images, in pixels")
    parser.add_argument("--new-tokens", type=int, default=Workload.new_tokens, help="T of the steps")
    parser.add_argument("--steps", type=int, default=2, help="measured steps per process")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    # Multiples of 28, which the processor leaves alone.
    sides = [(28 * round(width / 28), 28 * round(0.75 * width / 28)) for width in options.widths]
    width, height = sides[(len(sides) - 1) // 2]
    work = Workload(
        new_tokens=options.new_tokens, width=width, height=height, steps=options.steps, threads=options.threads
    )
    groups = {f"G={group}": replace(work, group=group) for group in options.groups}
    images = {f"{width}x{height}": replace(work, width=width, height=height) for width, height in sides}
    parts = {
        "start_up": lambda: measure_start_up(options.examples, options.rounds),
        "group": lambda: measure_steps(groups, options.rounds),
        "image": lambda: measure_steps(images, options.rounds),
    }
    report: Report = {"load_average": os.getloadavg(), "rounds": options.rounds}
    report |= {name: part() for name, part in parts.items() if options.only in (None, name)}
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
