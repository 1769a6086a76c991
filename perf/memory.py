"""Peak memory of a step: ``python -m perf.memory``, with the sizes of `perf.step_time`.

Each is a process of its own that does one step; its peak of resident memory beyond its imports, the median of the
rounds. With several groups, ``growth`` is each one's peak over that of the smallest: sharing the prompt, it should
hardly grow. ``--token-budget 3000`` encodes one prompt of 2,100 tokens at a time, and shares none with its rollout.

Prints one JSON object with a point per combination of sizes.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, replace
from importlib import util
from statistics import median
from typing import Any

from perf.grid import add_grid, points
from perf.step_time import machine, rounds_of
from perf.step_workload import Workload


def peaks(work: Workload, names: list[str], rounds: int) -> dict[str, float]:
    """Half -> its peak in MB, over one step."""
    halves = rounds_of(replace(work, warmup=0, steps=1), rounds, names)
    return {name: median(report["peak_mb"] for report in reports) for name, reports in halves.items()}


def measure(work: Workload, against: list[str], rounds: int, smallest: float | None) -> dict[str, Any]:
    """One point; smallest: the peak of locus with the smallest group, if that is another point."""
    found = peaks(work, ["locus", *against], rounds)
    over = {name: round(found[name] / found["locus"], 2) for name in against}
    growth = {} if smallest is None else {"growth": round(found["locus"] / smallest, 2)}
    return {"workload": asdict(work), "peak_mb": found, "times_locus": over, **growth}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    installed = ["trl"] if util.find_spec("trl") else []
    parser.add_argument("--against", nargs="*", choices=("trl", "separate"), default=[*installed, "separate"])
    parser.add_argument("--rounds", type=int, default=3, help="processes of each")
    add_grid(parser)
    options = vars(parser.parse_args())
    report, smallest = machine(("torch", "transformers", "lightning")), {}
    report["points"] = []
    for point in sorted(points(dict(options)), key=lambda work: work.group):
        others = replace(point, group=0)
        report["points"].append(measure(point, options["against"], options["rounds"], smallest.get(others)))
        smallest.setdefault(others, report["points"][-1]["peak_mb"]["locus"])
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
