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
from time import perf_counter
from typing import Any

import torch
from torch import nn

from locus.policy.backbone import Backbone
from perf.grid import add_grid, points
from perf.step_time import machine, rounds_of, summary
from perf.step_workload import FRAME, Workload

PHASES = ("rollout", "reference", "update")
SIDE = 2048
"""Of the matrices whose product gives the rate."""
PRODUCTS = 5


def linear_weights(part: nn.Module) -> int:
    """Weights that multiply every token that passes through ``part``."""
    return sum(layer.weight.numel() for layer in part.modules() if isinstance(layer, nn.Linear))


def image_flops(visual: nn.Module, patches: int) -> float:
    """The vision tower (Qwen2.5-VL) on one image of so many patches, before they are merged."""
    settings = visual.config
    merged = patches // settings.spatial_merge_size**2
    window = (settings.window_size // settings.patch_size) ** 2
    full = len(settings.fullatt_block_indexes)
    pairs = full * patches**2 + (settings.depth - full) * patches * min(window, patches)
    dense = patches * (linear_weights(visual.blocks) + visual.patch_embed.proj.weight.numel())
    return 2 * (dense + merged * linear_weights(visual.merger)) + 4 * settings.hidden_size * pairs


def text_flops(model: nn.Module, tokens: float, pairs: float) -> float:
    """The language model on so many tokens, of which ``pairs`` (query, key) attend."""
    text = model.config.get_text_config()
    width = text.num_attention_heads * (text.hidden_size // text.num_attention_heads)
    return 2 * tokens * linear_weights(model.model.language_model.layers) + 4 * width * text.num_hidden_layers * pairs


def least_flops(model: nn.Module, work: Workload, prompt_tokens: int) -> dict[str, float]:
    """Phase -> floating-point operations of a whole step."""
    side = model.config.vision_config.patch_size
    images = sum(image_flops(model.model.visual, size // side**2) for size in (work.width * work.height, work.cue**2))
    prompt = text_flops(model, prompt_tokens, prompt_tokens * (prompt_tokens + 1) / 2)
    fed, rows = work.new_tokens - 1, work.group  # the last token is predicted, not fed
    written = rows * text_flops(model, fed, fed * prompt_tokens + fed * (fed + 1) / 2)
    written += rows * work.new_tokens * 2 * model.lm_head.weight.numel()
    trained = bool(work.train_vision)
    least = {
        "rollout": images + prompt + written,
        "reference": trained * images + prompt + written,
        "update": 3 * written + 2 * prompt + 2 * trained * images,
    }
    return {phase: work.prompts * flops for phase, flops in least.items()}


def matrix_rate(threads: int) -> float:
    """Floating-point operations per second of the best of a few large float32 products."""
    torch.set_num_threads(threads)
    one, other = torch.randn(2, SIDE, SIDE)
    seconds = []
    for _ in range(PRODUCTS):
        start = perf_counter()
        one @ other
        seconds.append(perf_counter() - start)
    return 2 * SIDE**3 / min(seconds)


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
