"""The work that both trainers get in `perf.step_time`: weights, pictures, prompts, reward, and how it is counted.

Shapes: B prompts a step, G rollouts per prompt, T completion tokens.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import torch
from torch import nn

from locus.policy.backbone import Backbone
from locus.policy.tiny import TinyQwen2_5VL
from locus.policy.vlm import VLM
from locus.scenes.source import SceneSource
from locus.tasks.cue_search.corpus import Corpus
from locus.tasks.cue_search.crops import CropStrategy
from locus.tasks.cue_search.cues import render_cue
from locus.tasks.cue_search.drawing import build_corpus
from locus.tasks.cue_search.reward import BoxReward
from locus.training.advantages import has_spread
from locus.types import Box, Frame, Response, View

PICTURES = {550: (616, 448), 1000: (1008, 728), 2100: (1568, 952), 8000: (3136, 1960)}
"""About so many prompt tokens -> width and height of the image that gives them, beside cue and text."""
FRAME = Frame.PROCESSED


@dataclass(frozen=True)
class Workload:
    """Sizes of one optimisation step and of its measurement."""

    prompts: int = 2
    """B."""
    group: int = 8
    """G."""
    new_tokens: int = 64
    """T: every completion is this long, for the end token is never sampled."""
    width: int = 616
    """Of the image, in pixels; a multiple of 28, so that the processor leaves the size alone."""
    height: int = 448
    cue: int = 112
    """Side of the cue, in pixels."""
    text_layers: int = 6
    train_vision: int = 1
    """0: the vision tower is frozen."""
    token_budget: int = 32768
    """Tokens that locus encodes, or scores, at a time; the other trainer has none."""
    warmup: int = 1
    """Steps of each process before the measured ones."""
    steps: int = 4
    """Measured steps of each process."""
    threads: int = 2

    @property
    def all_steps(self) -> int:
        return self.warmup + self.steps

    @property
    def architecture(self) -> TinyQwen2_5VL:
        """About 6 M parameters at six layers; grouped key-value heads, as the released models have."""
        return TinyQwen2_5VL(self.text_layers, text_width=256, text_heads=8, text_kv_heads=4, text_mlp=704)


def write_inputs(folder: Path, work: Workload) -> None:
    """Everything the two trainers read: ``model/`` and `write_data`."""
    backbone = Backbone(FRAME, architecture=work.architecture)
    backbone.load().model.save_pretrained(folder / "model")
    backbone.processor().save_pretrained(folder / "model")
    write_data(folder, work)


def write_data(folder: Path, work: Workload) -> None:
    """``pictures/``, ``cues/``, ``corpus/`` and ``workload.json``."""
    count = work.prompts * work.all_steps
    source = SceneSource(count, work.width, work.height, objects=(1, 1), object_side=(work.cue, work.cue))
    table = source.table()
    for name in ("pictures", "cues"):
        (folder / name).mkdir()
    files = tuple(f"{index}.png" for index in range(count))
    for path, file in zip(table.path, files, strict=True):
        source.open(path).save(folder / "pictures" / file)
    every_box = CropStrategy({"any": (0, 1)}, {"any": 1}, min_side=1, padding={}, scale={})
    corpus = build_corpus(replace(table, path=files), every_box, count, 0, seed=0)
    corpus.save(folder / "corpus")
    for example in corpus.train:
        image = source.open(table.path[files.index(example.image_path)])
        render_cue(image, example.box).save(folder / "cues" / f"{example.example_id}.png")
    (folder / "workload.json").write_text(json.dumps(asdict(work)))


def read_inputs(folder: Path) -> tuple[Workload, Corpus]:
    """The sizes, and the corpus whose image paths are files in ``pictures/``."""
    return Workload(**json.loads((folder / "workload.json").read_text())), Corpus.load(folder / "corpus")


def answered(text: str, token_ids: Sequence[int], work: Workload) -> str:
    """The completion as the reward reads it: with an answer whose box follows from its tokens.

    A random model never writes a box; without this all rewards were 0, and so all advantages.
    """
    half, seed = (work.width // 2, work.height // 2), sum(token_ids)
    x, y = seed % (half[0] + 1), 7 * seed % (half[1] + 1)
    return f"<think>{text}</think><answer>[{x}, {y}, {x + half[0]}, {y + half[1]}]</answer>"


def reward_of(text: str, target: Sequence[float], work: Workload) -> float:
    """`CueSearch.grade` from text and target box (file frame) alone, for a trainer that has no samples."""
    size = work.width, work.height  # the processed image is the file's, see `Workload.width`
    return BoxReward().grade(Response(text, finished=False), View(FRAME, size), Box(*target, Frame.FILE, *size)).total


def forbid_end_token(policy: VLM) -> None:
    """Makes a policy write every completion to full length."""
    policy.forbidden = torch.cat([policy.forbidden, policy.forbidden.new_tensor(policy.end_token_ids)])


# --- Counting ---------------------------------------------------------------------------------------------------
class Meter:
    """What one process measures: seconds per phase of each step, images through vision towers, lengths, rewards."""

    def __init__(self) -> None:
        self.phases: list[dict[str, float]] = []
        """One dict a finished step; beside the phases, ``step`` is the whole and ``cpu`` its processor time."""
        self.images: list[int] = []
        """Images through any vision tower, per finished step."""
        self.lengths: list[int] = []
        self.rewards: list[float] = []
        self.prompt_tokens = 0
        self._now: dict[str, float] = defaultdict(float)
        self._images = 0
        self._start, self._cpu = perf_counter(), process_time()

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        start = perf_counter()
        yield
        self.add(phase, perf_counter() - start)

    def add(self, phase: str, seconds: float) -> None:
        """Adds to a phase of the running step."""
        self._now[phase] += seconds

    def between(self, phase: str) -> None:
        """Gives all since the end of the step before to a phase."""
        self.add(phase, perf_counter() - self._start)

    def step_ended(self) -> None:
        """Closes the running step: a step lasts from the end of the one before to its own."""
        end = perf_counter()
        seconds = end - self._start
        cpu, self._cpu = process_time() - self._cpu, process_time()
        self.phases.append({**self._now, "rest": seconds - sum(self._now.values()), "step": seconds, "cpu": cpu})
        self.images.append(self._images)
        self._now, self._images, self._start = defaultdict(float), 0, end

    def watch_vision(self, model: nn.Module) -> None:
        """Counts the images that go through the vision tower of a transformers model."""

        def count(module: nn.Module, args: tuple, kwargs: dict) -> None:
            grids = kwargs["grid_thw"] if "grid_thw" in kwargs else args[1]
            self._images += len(grids)

        model.model.visual.register_forward_pre_hook(count, with_kwargs=True)

    def result(self, work: Workload, parameters: int, before: int) -> dict[str, Any]:
        """What the process reports; the warm-up steps are left out of times and counts.

        before: `resident_bytes` after the imports, before the model was built.
        """
        rewards = torch.tensor(self.rewards).view(-1, work.group)  # a group's rewards came one after the other
        return {
            "steps": self.phases[work.warmup :],
            "vision_forwards_per_image": sum(self.images[work.warmup :]) / (2 * work.prompts * work.steps),
            "completion_length": sum(self.lengths) / len(self.lengths),
            "groups_with_spread": has_spread(rewards).double().mean().item(),
            "prompt_tokens": self.prompt_tokens,
            "parameters": parameters,
            "peak_mb": round((resident_bytes("VmHWM") - before) / 1e6),
        }


def resident_bytes(field: str = "VmRSS") -> int:
    """Resident memory of this process, or with ``VmHWM`` its peak (Linux).

    Not `resource.getrusage`: its peak includes what the parent held when it started this process.
    """
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field + ":"))
