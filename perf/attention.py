"""Memory and time of Attention-in-Box's maps: one query row a layer against all of ``output_attentions=True``.

Each measurement is a process of its own: seconds, and peak resident memory above what the process held before the
forward pass. The eager pass is transformers' own on the same weights, eager in the language model only. Prints a table
and the largest difference of the maps. Run from the repository: ``python -m perf.attention``.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from locus.analysis.attention import attention_maps
from locus.policy.backbone import Backbone
from locus.policy.prompts import PixelLimits, PromptBuilder
from locus.policy.tiny import TinyQwen3VL
from locus.types import Frame, Prompt

TOKENS = (500, 2000, 4000)
WIDE = {"text_layers": 8, "text_width": 256, "text_heads": 8, "text_kv_heads": 2, "text_mlp": 512}
CELL = 16
"""Pixels of a merged token's side."""


def eager_maps(vlm: torch.nn.Module, prompt: Prompt) -> np.ndarray:
    """[L, rows, columns] from the whole attention of every layer."""
    vlm.model.set_attn_implementation({"text_config": "eager", "vision_config": "sdpa"})
    with torch.no_grad():
        output = vlm.model(
            input_ids=prompt.input_ids[None],
            mm_token_type_ids=prompt.mm_token_type_ids[None],
            pixel_values=prompt.pixel_values,
            image_grid_thw=prompt.image_grid_thw,
            output_attentions=True,
            logits_to_keep=1,
        )
    image = prompt.mm_token_type_ids.bool()
    rows = int(prompt.image_grid_thw[0, 1]) // 2
    return torch.stack([layer[0, :, -1, image].mean(0) for layer in output.attentions]).unflatten(1, (rows, -1)).numpy()


def memory(name: str) -> float:
    """``VmRSS`` (resident now) or ``VmHWM`` (highest since `forget_peak`) of this process, MB. Linux."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) / 1024


def forget_peak() -> None:
    """Sets the highest resident memory back to the present one."""
    Path("/proc/self/clear_refs").write_text("5")


def measure(way: str, tokens: int, file: Path) -> None:
    """Prints seconds and MB of one way; the maps go to the file."""
    side = CELL * round(tokens**0.5)
    backbone = Backbone(frame=Frame.PROCESSED, architecture=TinyQwen3VL(**WIDE, max_pixels=side * side))
    vlm, builder = backbone.load().eval(), PromptBuilder(backbone.processor(), PixelLimits())
    image = Image.effect_noise((side, side), 80).convert("RGB")
    small = image.resize((CELL * 4, CELL * 4))
    found = {"locus": lambda prompt: attention_maps(vlm, [prompt])[0], "eager": lambda prompt: eager_maps(vlm, prompt)}
    warm, prompt = (builder.build("0", "Where?", [shown]) for shown in (small, image))
    found[way](warm)
    forget_peak()
    before, start = memory("VmRSS"), time.perf_counter()
    maps = found[way](prompt)
    facts = {"seconds": time.perf_counter() - start, "mb": memory("VmHWM") - before, "tokens": prompt.length}
    print(json.dumps(facts))
    np.save(file, maps)


def main() -> None:
    """Measures both ways at every length."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--way", choices=("locus", "eager"))
    parser.add_argument("--tokens", type=int, nargs="*", default=TOKENS)
    parser.add_argument("--file", type=Path)
    given = parser.parse_args()
    if given.way:
        return measure(given.way, given.tokens[0], given.file)
    print("tokens  locus MB  eager MB  ratio  locus s  eager s difference")
    with tempfile.TemporaryDirectory() as folder:
        for tokens in given.tokens:
            facts, maps = {}, {}
            for way in ("locus", "eager"):
                file = Path(folder) / f"{way}.npy"
                command = [sys.executable, "-m", "perf.attention", "--way", way, "--tokens", str(tokens)]
                done = subprocess.run([*command, "--file", str(file)], check=True, capture_output=True, text=True)
                facts[way], maps[way] = json.loads(done.stdout.splitlines()[-1]), np.load(file)
            one, other = facts["locus"], facts["eager"]
            apart = float(np.abs(maps["locus"] - maps["eager"]).max())
            print(f"{one['tokens']:>6} {one['mb']:>9.0f} {other['mb']:>9.0f} {other['mb'] / max(one['mb'], 1):>6.1f} "
                  f"{one['seconds']:>8.2f} {other['seconds']:>8.2f} {apart:>10.1e}")  # fmt: skip


if __name__ == "__main__":
    main()
