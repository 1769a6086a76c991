"""One process of `perf.gpu`: ``python -m perf.gpu_step SETTINGS.json RESULT.json``.

A run's own step (Lightning, data module, `GRPOModule`) of a released model's shape with random weights on a GPU:
seconds and peak memory per phase, the share of the card's matrix rate, and a decoded token against one reading of the
weights.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from transformers import ProcessorMixin, Qwen2_5_VLConfig

from locus.files.progress import Phases
from locus.policy.backbone import Backbone
from locus.policy.inference import inference_policy
from locus.policy.logprobs import PackedScorer, SeparateScorer
from locus.policy.lora import LoRA
from locus.policy.operations import completion_flops, image_flops, prompt_flops
from locus.policy.rollouts import RolloutDecoding, encode_in_parts, sample_in_turn
from locus.policy.tiny import TinyQwen2_5VL
from locus.policy.vlm import VLM
from locus.run.runtime import quiet_lightning
from locus.tasks.cue_search.corpus import Corpus
from locus.training import grpo
from locus.types import Prompt, Sampling
from perf.locus_step import PHASES, build
from perf.step_workload import FRAME, Meter, Workload, write_data

SIDE = 8192
"""Of the matrices whose product gives the rate."""
COPIED = 2**32
"""Bytes that are copied to measure how fast memory is read and written."""
DECODED = (32, 96)
"""Tokens per completion in two rollouts, whose difference is what a token takes."""


@dataclass(frozen=True)
class ReleasedShape(TinyQwen2_5VL):
    """Widths, heads and vocabulary of a released Qwen2.5-VL, around the tiny tokenizer."""

    vision_layers: int = 32
    vision_width: int = 1280
    vision_heads: int = 16
    vision_mlp: int = 3420
    vocabulary: int = 151936
    tied: bool = True

    def config(self, processor: ProcessorMixin) -> Qwen2_5_VLConfig:
        """As released: heads of 128 dimensions, four vision layers that see the whole image."""
        config = super().config(processor)
        config.text_config.vocab_size = self.vocabulary
        config.text_config.rope_parameters["mrope_section"] = [16, 24, 24]
        config.vision_config.fullatt_block_indexes = [7, 15, 23, 31]
        config.tie_word_embeddings = config.text_config.tie_word_embeddings = self.tied
        return config


SHAPES = {
    "3b": ReleasedShape(36, 2048, 16, 2, 11008),
    "7b": ReleasedShape(28, 3584, 28, 4, 18944, vocabulary=152064, tied=False),
    "smallest": ReleasedShape(2, 256, 2, 1, 512, vision_width=64, vision_heads=2, vision_mlp=96, vocabulary=4096),
}


@dataclass(frozen=True)
class Settings:
    """Of one process."""

    shape: str
    layers: int | None
    """Of the language model; None: all."""
    weights: str
    """full (float32) or lora (of a bfloat16 backbone)."""
    scorer: str
    """packed or separate."""
    decode_step: str
    work: Workload

    @classmethod
    def read(cls, path: Path) -> Settings:
        settings = json.loads(path.read_text())
        return cls(**settings | {"work": Workload(**settings["work"])})

    def backbone(self) -> Backbone:
        """With random weights, on the GPU."""
        shape = SHAPES[self.shape]
        if self.layers is not None:
            shape = type(shape)(**asdict(shape) | {"text_layers": self.layers})
        dtype = "bfloat16" if self.weights == "lora" else "float32"
        return OnGPU(FRAME, architecture=shape, dtype=dtype, train_vision=bool(self.work.train_vision))


class OnGPU(Backbone):
    """Initialised where it is used: on a CPU that takes minutes."""

    def load(self) -> VLM:
        with torch.device("cuda"):
            return super().load()


class PhasePeaks(Phases):
    """Phases that also keep the peak of allocated memory in each, in `peaks`."""

    peaks: dict[str, int] = defaultdict(int)

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        torch.cuda.reset_peak_memory_stats()
        with super().__call__(name):
            yield
        self.peaks[name] = max(self.peaks[name], torch.cuda.max_memory_allocated())


class StepTimes(Callback):
    """Seconds of each phase, step by step, and what is held between two steps."""

    def __init__(self) -> None:
        self.steps: list[dict[str, float]] = []
        self.held = 0
        self.prompts: list[Prompt] = []

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.steps.append({name: float(trainer.callback_metrics[f"time/{name}_s"]) for name in PHASES})
        self.held = torch.cuda.memory_allocated()
        self.prompts = [sample.prompt for sample in batch]


def matrix_rate() -> float:
    """Operations per second of a bfloat16 product of random matrices, the mean of ten."""
    one, other = torch.randn(2, SIDE, SIDE, device="cuda", dtype=torch.bfloat16)
    return 10 * 2 * SIDE**3 / _seconds(lambda: [one @ other for _ in range(10)])


def memory_rate() -> float:
    """Bytes per second that a copy on the device reads and writes."""
    source = torch.empty(COPIED, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    return 10 * 2 * COPIED / _seconds(lambda: [target.copy_(source) for _ in range(10)])


def _seconds(run: Any) -> float:
    run()  # warm-up
    torch.cuda.synchronize()
    start = perf_counter()
    run()
    torch.cuda.synchronize()
    return perf_counter() - start


def update_flops(model: torch.nn.Module, settings: Settings, prompt_tokens: int) -> float:
    """Of one step's update: forward, the gradient of what each layer is given, and, of full weights, theirs."""
    work, passes = settings.work, 3 if settings.weights == "full" else 2
    forward = prompt_flops(model, [prompt_tokens]) + work.group * completion_flops(
        model, [prompt_tokens], work.new_tokens
    )
    if work.train_vision:
        side = model.config.vision_config.patch_size
        sizes = (work.width * work.height, work.cue**2)
        forward += image_flops(model.model.visual, [size // side**2 for size in sizes])
    return passes * forward * work.prompts


@torch.no_grad()
def token_seconds(policy: VLM, prompts: list[Prompt], settings: Settings) -> float:
    """Of one more token for all rows of a step."""
    decoding = RolloutDecoding(2**20, settings.decode_step)

    def seconds(tokens: int) -> float:
        sampling = Sampling(max_new_tokens=tokens)

        def run() -> None:
            def encode(indices: Any) -> Any:
                return encode_in_parts(policy, [prompts[i] for i in indices], settings.work.token_budget)

            sample_in_turn(policy, prompts, encode, settings.work.group, sampling, 0, 0, decoding)

        return _seconds(run)

    few, many = DECODED
    return (seconds(many) - seconds(few)) / (many - few)


def measure(settings: Settings) -> dict[str, Any]:
    """Steps, then the rates of the card on the same machine."""
    work, times = settings.work, StepTimes()
    grpo.Phases = PhasePeaks  # type: ignore[misc]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_data(folder, work)
        scorer = PackedScorer() if settings.scorer == "packed" else SeparateScorer()
        weights = LoRA() if settings.weights == "lora" else None
        decoding = RolloutDecoding(2**20, settings.decode_step)
        module, data = build(
            folder, work, Corpus.load(folder / "corpus"), Meter(), scorer, settings.backbone(), weights, decoding
        )
        trainer = Trainer(
            accelerator="gpu", devices=1, precision="bf16-mixed", max_epochs=1, limit_val_batches=0, logger=False,
            callbacks=[times], enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False,
        )  # fmt: skip
        trainer.fit(module, data)
    rate, memory = matrix_rate(), memory_rate()
    policy, prompts = module.policy.cuda().eval(), times.prompts
    steps = times.steps[work.warmup :]
    seconds = {phase: median(step[phase] for step in steps) for phase in PHASES}
    prompt_tokens = prompts[0].length
    flops = update_flops(policy.model, settings, prompt_tokens)
    report = {
        "prompt_tokens": prompt_tokens,
        "parameters": sum(parameter.numel() for parameter in policy.parameters()),
        "seconds": {phase: round(value, 4) for phase, value in seconds.items()},
        "held_gb": round(times.held / 1e9, 2),
        "peak_gb": {phase: round(PhasePeaks.peaks[phase] / 1e9, 2) for phase in PHASES},
        "matrix_tflops": round(rate / 1e12),
        "memory_tb_per_s": round(memory / 1e12, 2),
        "update_share_of_matrix_rate": round(flops / seconds["update"] / rate, 3),
    }
    with torch.autocast("cuda", torch.bfloat16):
        running = inference_policy(policy)
        token = token_seconds(running, prompts, settings)
    model = running.model
    weights_read = 2 * sum(p.numel() for p in model.model.language_model.layers.parameters())
    weights_read += 2 * model.lm_head.weight.numel()
    return report | {
        "token_ms": round(1000 * token, 3),
        "weights_read_ms": round(1000 * weights_read / memory, 3),
        "token_over_reading": round(token * memory / weights_read, 2),
        "tokens_per_second": round(work.prompts * work.group / token),
    }


def main() -> None:
    quiet_lightning()
    settings = Settings.read(Path(sys.argv[1]))
    try:
        report = measure(settings)
    except torch.OutOfMemoryError as error:
        report = {"out_of_memory": str(error).splitlines()[0]}
    Path(sys.argv[2]).write_text(json.dumps(report))


if __name__ == "__main__":
    main()
