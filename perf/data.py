"""Cost of preparing images, and how long a step waits for them.

    python -m perf.data                            photographs of COCO's size that it makes itself
    python -m perf.data --images train2017         those of a folder

**samples**: one core makes cue-search samples (decoding, cue, processor, tokens), with the processor's own pixels and
with EasyR1's limits: examples per second of processor time, by stage, and bytes per example, as they travel and as the
vision tower takes them. **handover**: what the trainer does for a batch from its workers: reading and unpacking.
**waiting**: training steps of `perf.step_time`'s model on these images with 0 and with ``--workers`` workers, by turns;
``share`` is the part of a step from the end of the one before to its batch, at which the trainer waits for data.

Prints one JSON object. Shares and processor times hold on a busy machine; other times are the machine's.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from time import process_time
from typing import Any

import numpy as np
import torch
from lightning import Trainer
from PIL import Image, ImageFilter

from locus.images.sources import FolderSource
from locus.policy.backbone import Backbone
from locus.policy.logprobs import PackedScorer
from locus.policy.prompts import PixelLimits, PromptBuilder
from locus.run.runtime import quiet_lightning
from locus.tasks.cue_search.corpus import Corpus
from locus.tasks.cue_search.crops import CropStrategy
from locus.tasks.cue_search.drawing import build_corpus
from locus.tasks.cue_search.task import CueSearch
from locus.tasks.datamodule import SampleMaker, TaskDataModule
from locus.types import ImageTable
from perf.locus_step import StepMeter, build, saved_backbone
from perf.step_workload import FRAME, Meter, Workload

LIMITS = {"native": PixelLimits(), "easyr1": PixelLimits(262144, 4194304)}
SIZES = (640, 480), (640, 427), (480, 640), (500, 375)
HANDED_OVER = 4
"""Batches; with the first one workers are started."""
Report = dict[str, Any]


# --- Inputs -----------------------------------------------------------------------------------------------------
def write_photographs(folder: Path, count: int, seed: int = 0) -> None:
    """JPEG files of COCO's sizes and about its 160 kB: blurred noise on which coarser noise lies."""
    rng = np.random.default_rng(seed)
    for index in range(count):
        width, height = SIZES[index % len(SIZES)]
        coarse, fine = (
            Image.fromarray(rng.integers(0, 256, (height // step, width // step, 3), dtype=np.uint8))
            .resize((width, height), Image.Resampling.BICUBIC)
            .filter(ImageFilter.GaussianBlur(blur))
            for step, blur in ((32, 0), (1, 1))
        )
        Image.blend(coarse, fine, 0.5).save(folder / f"{index:06d}.jpg", quality=95)


def corpus_of(folder: Path, examples: int) -> Corpus:
    """One crop of 20 to 120 pixels per example, on the folder's images in turn."""
    table, rng = FolderSource(str(folder)).table(), np.random.default_rng(0)
    rows = np.arange(examples) % len(table.path)
    size = np.stack([table.width[rows], table.height[rows]], axis=1)
    side = np.minimum(rng.uniform(20, 120, (examples, 2)), size - 1)
    corner = rng.uniform(0, 1, (examples, 2)) * (size - side)
    ids = tuple(f"{path}#{index}" for index, path in enumerate(np.array(table.path)[rows]))
    columns = ids, tuple(table.path[row] for row in rows), size[:, 0], size[:, 1], np.arange(examples)
    boxes = ImageTable(*columns, np.concatenate([corner, corner + side], axis=1), ("object",) * examples)
    every_box = CropStrategy({"any": (0, 1)}, {"any": 1}, min_side=1, padding={}, scale={})
    return build_corpus(boxes, every_box, examples, 0, seed=0)


class Clock:
    """Processor time of this process by stage; the innermost stage gets it."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        start = process_time()
        yield
        self.seconds[stage] += process_time() - start

    def wrapped(self, stage: str, call: Any) -> Any:
        """The function, timed."""

        def timed(*args: Any, **kwargs: Any) -> Any:
            with self(stage):
                return call(*args, **kwargs)

        return timed


# --- Samples and their handover -----------------------------------------------------------------------------------
def maker(folder: Path, corpus: Corpus, work: Workload, limits: PixelLimits) -> SampleMaker:
    processor = Backbone(FRAME, architecture=work.architecture).processor()
    return SampleMaker(CueSearch(corpus, FolderSource(str(folder))), PromptBuilder(processor, limits), FRAME)


def measure_samples(make: SampleMaker) -> Report:
    """Every training example once, by one core."""
    examples, clock = make.task.examples("train"), Clock()
    make(examples[0])  # what is set up at the first call
    make.task.source.open = clock.wrapped("decoding", make.task.source.open)
    make.builder.picture_inputs = clock.wrapped("processor", make.builder.picture_inputs)
    start = process_time()
    prompts = [make(example).prompt for example in examples]
    whole, count = process_time() - start, len(examples)
    with clock("normalising"):  # the trainer's, when the vision tower takes them
        values = sum(prompt.pixel_values.nbytes for prompt in prompts)
    stages = {stage: round(1e3 * seconds / count, 2) for stage, seconds in clock.seconds.items()}
    rest = 1e3 * whole / count - stages["decoding"] - stages["processor"]
    return {
        "examples_per_second_and_core": round(count / whole, 1),
        "ms_per_example": {**stages, "cue and tokens": round(rest, 2)},
        "prompt_tokens": round(median(prompt.length for prompt in prompts)),
        "mb_per_example": round(sum(prompt.pixels.levels.nbytes for prompt in prompts) / count / 1e6, 3),
        "mb_per_example_normalised": round(values / count / 1e6, 3),
    }


def measure_handover(make: SampleMaker, prompts: int, workers: int) -> Report:
    """Processor time of the trainer for a batch, and what is held meanwhile."""
    free, start = shared_memory(), process_time()
    batches = iter(TaskDataModule(make, prompts, 1, HANDED_OVER, workers, 0).train_dataloader())
    seconds = []
    for batch in batches:  # to wait for it takes no processor time
        seconds.append(process_time() - start)
        size = sum(sample.prompt.pixels.levels.nbytes for sample in batch)
        held = len(os.listdir("/proc/self/fd")), free - shared_memory()
        start = process_time()
    return {
        "prompts": prompts,
        "workers": workers,
        "batch_mb": round(size / 1e6, 1),
        "cpu_seconds": round(median(seconds[1:]), 3),
        "file_descriptors": held[0],
        "shared_memory_mb": round(held[1] / 1e6, 3),
    }


def shared_memory() -> int:
    """Free bytes of /dev/shm."""
    facts = os.statvfs("/dev/shm")
    return facts.f_bfree * facts.f_frsize


# --- Waiting ----------------------------------------------------------------------------------------------------
def run_steps(folder: Path, work: Workload, corpus: Corpus, workers: int) -> list[dict[str, float]]:
    """Phases of each measured step of a training on these images."""
    meter = Meter()
    module, data = build(folder, work, corpus, meter, PackedScorer(), saved_backbone(folder, work))
    data.workers = workers
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=1,
        limit_val_batches=0,
        logger=False,
        callbacks=[StepMeter(meter)],
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
    )
    trainer.fit(module, data)
    return meter.phases[work.warmup :]


def measure_waiting(folder: Path, work: Workload, corpus: Corpus, workers: Sequence[int], rounds: int) -> Report:
    """Number of workers -> seconds of a step and share of it without data, by turns."""
    steps: dict[int, list[dict[str, float]]] = {count: [] for count in workers}
    for _ in range(rounds):
        for count in workers:
            steps[count] += run_steps(folder, work, corpus, count)
    return {
        f"workers={count}": {
            "seconds_per_step": round(median(step["step"] for step in of), 3),
            "seconds_waiting": round(median(step["data"] for step in of), 4),
            "share": round(median(step["data"] / step["step"] for step in of), 4),
        }
        for count, of in steps.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, help="folder of images; else they are made")
    parser.add_argument("--examples", type=int, default=128)
    parser.add_argument("--prompts", type=int, default=128, help="of the batch that is handed over")
    parser.add_argument("--step-prompts", type=int, default=2, help="of a training step")
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    quiet_lightning()
    torch.set_num_threads(1)
    work = Workload(prompts=options.step_prompts, new_tokens=options.new_tokens, steps=options.steps, threads=1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pictures = folder / "pictures"
        if options.images:
            pictures.symlink_to(options.images.resolve())
        else:
            pictures.mkdir()
            write_photographs(pictures, min(options.examples, 64))
        corpus = corpus_of(pictures, max(options.examples, options.prompts, work.prompts * work.all_steps))
        backbone = Backbone(FRAME, architecture=work.architecture)
        backbone.load().model.save_pretrained(folder / "model")
        backbone.processor().save_pretrained(folder / "model")
        makers = {limits: maker(pictures, corpus, work, pixels) for limits, pixels in LIMITS.items()}
        report: Report = {"load_average": os.getloadavg(), "examples": len(corpus.train)}
        report["handover"] = {
            limits: measure_handover(make, options.prompts, options.workers) for limits, make in makers.items()
        }
        report["samples"] = {limits: measure_samples(make) for limits, make in makers.items()}
        report["waiting"] = measure_waiting(folder, work, corpus, (0, options.workers), options.rounds)
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
