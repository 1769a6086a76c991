"""How far a step is from the least work that it must do: ``python -m perf.limit``, with the sizes of `perf.step_time`.

The least work of a phase passes each image and each prompt token once through the layers, and each completion token
once; the head where a completion token is predicted. In GRPO on its own rollouts:

- rollout: images, prompt and completions forward, without gradient;
- reference: the prompt and the completions forward; the images, too, where the vision tower trains;
- update: completions forward and back (three times the forward's work, Kaplan et al. 2020, arXiv 2001.08361), the
  prompt and trained images back only (twice): the rollout's forward pass of them, under the same weights, serves it.

Divided by the machine's rate on one large float32 matrix product, that is the least time. Small matrices reach a
fraction of the rate, and decoding reads every weight for a few rows: nobody reaches a factor of 1; it compares phases.

Prints one JSON object with a point per combination of sizes.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from typing import Any

from torch import nn

from locus.policy.backbone import Backbone
from locus.policy.operations import completion_flops, image_flops, matrix_rate, prompt_flops
from perf.grid import add_grid, points
from perf.step_time import machine, rounds_of, summary
from perf.step_workload import FRAME, Workload

PHASES = ("rollout", "reference", "update")


def least_flops(model: nn.Module, work: Workload, prompt_tokens: int) -> dict[str, float]:
    """Phase -> floating-point operations of a whole step."""
    side = model.config.vision_config.patch_size
    images = image_flops(model.model.visual, [size // side**2 for size in (work.width * work.height, work.cue**2)])
    prompt = prompt_flops(model, [prompt_tokens])
    written = work.group * completion_flops(model, [prompt_tokens], work.new_tokens)
    trained = bool(work.train_vision)
    least = {
        "rollout": images + prompt + written,
        "reference": trained * images + prompt + written,
        "update": 3 * written + 2 * prompt + 2 * trained * images,
    }
    return {phase: work.prompts * flops for phase, flops in least.items()}


def measure(work: Workload, rounds: int) -> dict[str, Any]:
    """One point: the rate before and after, and of each phase the least and the measured seconds, and their ratio."""
    model = Backbone(FRAME, architecture=work.architecture).load().model
    before = matrix_rate(work.threads)
    found = summary(rounds_of(work, rounds, ["locus"])["locus"])
    rate = (before + matrix_rate(work.threads)) / 2
    least = {name: flops / rate for name, flops in least_flops(model, work, found["prompt_tokens"]).items()}
    phases = {
        name: {
            "least_s": round(least[name], 4),
            "measured_s": found["phases"][name],
            "over_limit": round(found["phases"][name] / least[name], 2),
        }
        for name in PHASES
    }
    return {"workload": asdict(work), "prompt_tokens": found["prompt_tokens"], "gflops": round(rate / 1e9), **phases}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="processes per point")
    add_grid(parser)
    options = vars(parser.parse_args())
    report = machine(("torch", "transformers", "lightning"))
    report["points"] = [measure(point, options["rounds"]) for point in points(dict(options))]
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
