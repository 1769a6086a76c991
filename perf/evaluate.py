"""Items per second of an evaluation: as locus asks them, one by one, and by plain batched generate of transformers.

    python -m perf.evaluate
    python -m perf.evaluate --pictures 48 --budget 16384

A random Qwen2.5-VL of 6 M parameters (float32, CPU) answers one to six questions about each picture. Some tokens end an
answer, so many that lengths are geometric, cut at the limit; sampled at temperature 1, each item by its own random
numbers. ``generate`` is made to write as many tokens for each item as locus did, in batches of as many items as the
budget of cached tokens holds when each has the longest prompt and the most tokens; one by one, an item's pictures are
processed and encoded for it alone. Decoding and processing pictures are in all times. The three are measured by turns
after a short warm-up; the figure to look at is the ratio, absolute times are the machine's. On one with other work,
``cpu_ratio`` (processor time, blind to waiting) is the steadier figure.

Prints one JSON object; figures are medians over the rounds.
"""

from __future__ import annotations

import argparse
import io
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import StoppingCriteria, StoppingCriteriaList

from locus.evaluation.benchmark import Item, Picture
from locus.evaluation.evaluator import Evaluator
from locus.evaluation.shown import keys_of
from locus.policy.backbone import Backbone
from locus.policy.prompts import PixelLimits, PromptBuilder
from locus.policy.vlm import VLM
from locus.types import Sampling
from perf.step_time import machine
from perf.step_workload import FRAME, Workload

QUESTIONS = 6
"""About one picture at most."""
SEED = 0
Way = Callable[[Sequence[Item], Sequence[int]], list[int]]


@dataclass(frozen=True)
class Sizes:
    """What is asked, and how much is held meanwhile."""

    pictures: int = 16
    width: int = 448
    height: int = 336
    mean: int = 80
    """Tokens of an answer, before it is cut at ``most``."""
    most: int = 400
    budget: int = 8192
    """Cached tokens."""
    threads: int = 1


def items_of(sizes: Sizes) -> list[Item]:
    """One to six questions about each picture of noise, side by side."""
    rng = np.random.default_rng(SEED)
    items = []
    for number in range(sizes.pictures):
        pixels = rng.integers(0, 256, (sizes.height, sizes.width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(file := io.BytesIO(), "PNG")
        picture = Picture(f"{number}.png", file.getvalue())
        for _ in range(rng.integers(1, QUESTIONS + 1)):
            text = "Where is the red star? " * int(rng.integers(1, 5))
            items.append(Item(str(len(items)), text, "", (picture,)))
    return items


class Lengths(StoppingCriteria):
    """Ends each row of a batch after its own number of tokens."""

    def __init__(self, prompt: int, lengths: Sequence[int]) -> None:
        self.prompt, self.lengths = prompt, torch.tensor(lengths)

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        return input_ids.shape[1] - self.prompt >= self.lengths


class Ways:
    """The three ways to answer the items; each returns how many tokens it wrote for each."""

    def __init__(self, sizes: Sizes) -> None:
        self.sizes, backbone = sizes, Backbone(FRAME, architecture=Workload().architecture)
        self.policy: VLM = backbone.load().eval()
        vocabulary = self.policy.lm_head.out_features
        ends = torch.randperm(vocabulary, generator=torch.Generator().manual_seed(SEED))[: vocabulary // sizes.mean]
        self.policy.end_token_ids = tuple(ends.tolist())
        self.processor: Any = backbone.processor()
        sampling = Sampling(1.0, 1.0, sizes.most)
        self.evaluator = Evaluator(
            self.policy, PromptBuilder(self.processor, PixelLimits()), sampling, sizes.budget, seed=SEED
        )
        self.plain: Any = backbone.load().model.eval()
        self.plain.set_attn_implementation("sdpa")
        self.processor.tokenizer.padding_side = "left"

    def locus(self, items: Sequence[Item], lengths: Sequence[int]) -> list[int]:
        """`Evaluator.predict` of all."""
        made = self.evaluator.predict(items, [keys_of(item) for item in items])
        return [one.tokens or 0 for one in sorted(made, key=lambda one: one.batch or 0)]

    def alone(self, items: Sequence[Item], lengths: Sequence[int]) -> list[int]:
        """`Evaluator.predict` of each."""
        return [one.tokens or 0 for item in items for one in self.evaluator.predict([item])]

    @torch.no_grad()
    def generate(self, items: Sequence[Item], lengths: Sequence[int]) -> list[int]:
        """Batches of `generate`, for the given lengths."""
        longest = max(self.evaluator.ask(item).prompt.length for item in (items[0], max(items, key=_text)))
        size, written = max(1, self.sizes.budget // (longest + self.sizes.most)), []
        for start in range(0, len(items), size):
            batch, wanted = items[start : start + size], lengths[start : start + size]
            texts = [self._template(item.prompt) for item in batch]
            pictures = [[picture.open() for picture in item.pictures] for item in batch]
            inputs = self.processor(text=texts, images=pictures, padding=True, return_tensors="pt")
            prompt = inputs["input_ids"].shape[1]
            stop = StoppingCriteriaList([Lengths(prompt, wanted)])
            output = self.plain.generate(
                **inputs, do_sample=False, max_new_tokens=max(wanted), eos_token_id=None, stopping_criteria=stop
            )
            assert output.shape[1] == prompt + max(wanted)
            written += wanted
        return written

    def _template(self, text: str) -> str:
        content = [{"type": "image"}, {"type": "text", "text": text}]
        return self.processor.apply_chat_template(
            [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
        )


def _text(item: Item) -> int:
    return len(item.prompt)


def seconds(name: str, way: Way, items: Sequence[Item], lengths: Sequence[int]) -> tuple[float, float]:
    """Of one call: on the clock, and of processor time; raises AssertionError where it did other work than asked."""
    start, cpu = time.perf_counter(), time.process_time()
    written = way(items, lengths)
    took = time.perf_counter() - start, time.process_time() - cpu
    assert written == lengths, f"{name} wrote {written} tokens, not {lengths}"
    return took


def measure(sizes: Sizes, rounds: int) -> dict[str, Any]:
    """Items per second of each way, and how many times locus's rate is the others'."""
    torch.set_num_threads(sizes.threads)
    ways, items = Ways(sizes), items_of(sizes)
    lengths = ways.locus(items, ())
    named = {"locus": ways.locus, "one_by_one": ways.alone, "generate": ways.generate}
    for way in named.values():
        way(items[:2], [4, 4])
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in named}
    for _ in range(rounds):
        for name, way in named.items():
            times[name].append(seconds(name, way, items, lengths))
    medians = {name: [median(part) for part in zip(*found, strict=True)] for name, found in times.items()}
    others = [name for name in named if name != "locus"]
    return {
        "sizes": asdict(sizes),
        "items": len(items),
        "tokens": {"mean": round(sum(lengths) / len(items), 1), "least": min(lengths), "most": max(lengths)},
        "items_per_second": {name: round(len(items) / wall, 3) for name, (wall, _) in medians.items()},
        "against": {
            name: {
                "ratio": round(medians[name][0] / medians["locus"][0], 2),
                "cpu_ratio": round(medians[name][1] / medians["locus"][1], 2),
                "ratio_by_round": [
                    round(one[0] / mine[0], 2) for one, mine in zip(times[name], times["locus"], strict=True)
                ],
            }
            for name in others
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    for name, default in asdict(Sizes()).items():
        parser.add_argument(f"--{name}", type=int, default=default)
    options = vars(parser.parse_args())
    rounds = options.pop("rounds")
    print(
        json.dumps(
            {**machine(("torch", "transformers")), "rounds": rounds, **measure(Sizes(**options), rounds)}, indent=2
        )
    )


if __name__ == "__main__":
    main()
