"""A step of a released model's size on a GPU, with the group forward and with plain rows: ``python -m perf.gpu``.

    python -m perf.gpu --shape 3b --layers 12 --weights full --token-budget 2048 --against separate
    python -m perf.gpu --shape 7b --weights lora --prompts 8 --new-tokens 256 --decode-step compiled

Qwen2.5-VL with random weights, bfloat16 arithmetic, KL to a reference, AdamW, G = 8. Each half is a process of its own.
Prints one JSON object with a point per combination of sizes: seconds and peak memory per phase, the update's share of
the card's rate on one large bfloat16 product, a decoded token against one reading of the weights, and, against plain
rows, the ratios.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from locus.policy.rollouts import DecodeStep
from perf.gpu_step import SHAPES, Settings
from perf.grid import add_grid, points
from perf.step_time import machine


def run(settings: Settings) -> dict[str, Any]:
    """One process's report; raises SystemExit with its stderr if it fails."""
    with tempfile.TemporaryDirectory() as name:
        given, result = Path(name, "settings.json"), Path(name, "result.json")
        given.write_text(json.dumps(asdict(settings)))
        command = [sys.executable, "-m", "perf.gpu_step", str(given), str(result)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"perf.gpu_step failed:\n{done.stderr}")
        return json.loads(result.read_text())


def ratios(mine: dict[str, Any], other: dict[str, Any]) -> dict[str, float]:
    """Of plain rows to the group forward: seconds of each phase; of memory, also beyond what is always held."""
    if "out_of_memory" in mine or "out_of_memory" in other:
        return {}
    found = {f"{phase}_seconds": other["seconds"][phase] / seconds for phase, seconds in mine["seconds"].items()}
    found["update_peak"] = other["peak_gb"]["update"] / mine["peak_gb"]["update"]
    beyond = [report["peak_gb"]["update"] - report["held_gb"] for report in (other, mine)]
    found["update_peak_beyond_held"] = beyond[0] / beyond[1]
    return {name: round(value, 2) for name, value in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=tuple(SHAPES), default="3b")
    parser.add_argument("--layers", type=int, help="of the language model; default: all")
    parser.add_argument("--weights", choices=("full", "lora"), default="full")
    parser.add_argument("--decode-step", choices=[step.value for step in DecodeStep], default="dynamic")
    parser.add_argument("--against", choices=("separate",), help="also with plain rows")
    add_grid(parser)
    parser.set_defaults(token_budget=8192)
    options = vars(parser.parse_args())
    work, against = points(options), options.pop("against")
    if not torch.cuda.is_available():
        raise SystemExit("perf.gpu needs a GPU; on a CPU use perf.step_time")
    report: dict[str, Any] = {**machine(("torch", "transformers", "lightning")), "gpu": torch.cuda.get_device_name()}
    report["points"] = []
    for point in work:
        settings = Settings(scorer="packed", work=point, **options)
        found = {"settings": asdict(settings), "locus": run(settings)}
        if against:
            found[against] = run(replace(settings, scorer=against))
            found["times_locus"] = ratios(found["locus"], found[against])
        report["points"].append(found)
        print(json.dumps(found["settings"] | found), file=sys.stderr)
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
