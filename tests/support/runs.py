"""Whole runs for tests: the command itself, in this process or in one of its own, and what it leaves in its folder."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import Any
from unittest import mock

import pandas as pd
import pyarrow.parquet as pq
import torch
from hydra._internal.hydra import Hydra
from hydra.core.hydra_config import HydraConfig
from safetensors.torch import load_file

from tests.support.paths import CONF, REPO

SMALLEST = (
    "logger=csv",
    "backbone=tiny_random",
    "diagnoses=none",
    "data=scenes",
    "data.source.count=40",
    "data.source.width=32",
    "data.source.height=32",
    "data.source.objects=[1,1]",
    "data.source.object_side=[12,20]",
    "data.source.stretch=1.0",
    "data.source.gap=0",
    "data.source.lookalikes=0.0",
    "data.source.clutter=0.0",
    "data.train_examples=24",
    "data.validation_examples=4",
    "crop=large",
    "crop.min_side=8",
    "pixels.min_pixels=2304",
    "pixels.max_pixels=2304",
    "backbone.frame=processed",
    "backbone.architecture.text_layers=2",
    "backbone.architecture.text_width=64",
    "backbone.architecture.text_heads=2",
    "backbone.architecture.text_kv_heads=2",
    "backbone.architecture.text_mlp=128",
    "backbone.architecture.vision_layers=2",
    "backbone.architecture.vision_width=32",
    "backbone.architecture.vision_heads=2",
    "backbone.architecture.vision_mlp=64",
    "backbone.architecture.patch_size=4",
    "backbone.architecture.min_pixels=256",
    "backbone.architecture.initializer_range=0.06",
    "rollout.sampling.max_new_tokens=20",
    "algorithm.group_size=4",
    "trainer.steps=3",
    "trainer.prompts_per_step=2",
    "trainer.validate_every=2",
    "trainer.checkpoint_every=1",
    "trainer.keep_checkpoints=100",
)
"""A run as small as it gets that is still a whole one: about two seconds. One object on 32x32 pixels, seen at 48x48:
the frame that the policy writes in is not the file's."""
_SMALL = (
    *("text_layers=2", "text_width=64", "text_heads=2", "text_kv_heads=2", "text_mlp=96"),
    *("vision_layers=2", "vision_width=32", "vision_heads=2", "vision_mlp=64", "initializer_range=0.2"),
)
TINY = (
    "backbone=tiny_random",
    *(f"backbone.architecture.{size}" for size in _SMALL),
    "sampling.max_new_tokens=6",
)
"""A random policy that ``locus.evaluate`` asks in a second."""


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    status: int | None
    stdout: str
    stderr: str


_get_mode = Hydra.get_mode
_MODES: dict[tuple[str, ...], Any] = {}


def _mode(hydra: Hydra, config_name: str, overrides: list[str]) -> Any:
    """``hydra.mode`` of a command, for which Hydra composes all of it, and then again to run it.

    Here, once for all commands that choose the same groups: no key of a run can set it.
    """

    def matters(override: str) -> bool:
        key = override.partition("=")[0].lstrip("+~")
        return (CONF / key.partition("@")[0]).is_dir() or (key.startswith("hydra") and not key.endswith(".dir"))

    choices = list(filter(matters, overrides))
    known = str(hydra.config_loader.get_search_path()), config_name, *choices
    if known not in _MODES:
        _MODES[known] = _get_mode(hydra, config_name, choices)
    return _MODES[known]


def command(app: str, *overrides: object) -> Ended:
    """``python -m locus.<app> <overrides>`` through its own entry point, in this process: no six seconds of imports."""
    if "algorithm=sft" in overrides:  # which has no groups
        overrides = tuple(one for one in overrides if one not in SMALLEST or "group_size" not in str(one))
    main = import_module(f"locus.{app}").main
    outer, handlers, level = HydraConfig.instance().cfg, logging.root.handlers[:], logging.root.level
    interrupt = signal.getsignal(signal.SIGINT)
    out, err, status = io.StringIO(), io.StringIO(), 0
    try:
        with (
            mock.patch.object(sys, "argv", [app, *map(str, overrides)]),
            mock.patch.object(Hydra, "get_mode", _mode),
            mock.patch.dict(os.environ, HYDRA_MAIN_MODULE="__main__"),  # conf/ is then found as for python -m
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
        ):
            main()
    except SystemExit as end:
        status = end.code
    finally:
        signal.signal(signal.SIGINT, interrupt)  # an interrupted trainer ignores it for good
        HydraConfig.instance().cfg = outer
        logging.root.handlers[:] = handlers
        logging.root.setLevel(level)
    return Ended(status, out.getvalue(), err.getvalue())


def train(folder: Path, *overrides: object) -> Ended:
    """A training run of the smallest sizes into ``folder``; fails unless it ends well."""
    return succeeded(command("train", *SMALLEST, f"hydra.run.dir={folder}", *overrides))


def resume(folder: Path, *overrides: object) -> Ended:
    """Goes on with a run; fails unless it ends well."""
    return succeeded(command("train", f"resume={folder}", *overrides))


def succeeded(ended: Ended) -> Ended:
    assert ended.status == 0, f"status {ended.status}\n{ended.stdout[-2000:]}\n{ended.stderr[-4000:]}"
    return ended


def refused(ended: Ended, *says: str) -> str:
    """Asserts what a user's error must be: status 2 and one line on stderr that says these words; returns it."""
    assert ended.status == 2, f"status {ended.status}\n{ended.stdout[-1000:]}\n{ended.stderr[-4000:]}"
    assert "Traceback" not in ended.stderr, ended.stderr[-4000:]
    # Progress bars of libraries end their lines with a carriage return or a bar's own marks.
    lines = [line for line in ended.stderr.splitlines() if line.strip() and "it/s]" not in line and "|" not in line]
    assert len(lines) == 1 and lines[0].startswith("locus: "), ended.stderr[-4000:]
    for words in says:
        assert words in lines[0], f"{words!r} is not in: {lines[0]}"
    return lines[0]


def spawn(*arguments: object, **options: object) -> subprocess.Popen[str]:
    """Python with these arguments in a process of its own, with this one's threads: the same sums to the last bit."""
    environment = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads()), "PYTHONUNBUFFERED": "1"}
    defaults = {
        "cwd": REPO, "env": environment, "stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE,
        "stderr": subprocess.PIPE, "text": True,
    }  # fmt: skip
    return subprocess.Popen([sys.executable, *map(str, arguments)], **(defaults | options))


def finish(process: subprocess.Popen[str], timeout: float = 600) -> Ended:
    """Waits for a spawned process."""
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    return Ended(process.returncode, out, err)


@lru_cache
def warm_policy() -> Path:
    """A policy that answers mostly in format and with boxes that differ, by a short SFT run: six seconds, once."""
    return warm_run() / "policy"


_KEPT: list[tempfile.TemporaryDirectory] = []


@lru_cache
def warm_run() -> Path:
    """The run folder of that SFT."""
    _KEPT.append(tempfile.TemporaryDirectory(prefix="locus-warm-"))
    folder = Path(_KEPT[-1].name) / "run"
    train(
        folder,
        "algorithm=sft",
        "optimizer.make.lr=1e-2",
        "trainer.steps=40",
        "trainer.prompts_per_step=8",
        "trainer.validate_every=20",
        "trainer.checkpoint_every=15",
        "trainer.keep_checkpoints=2",
    )
    return folder


# --- What a run leaves ----------------------------------------------------------------------------------------
def metrics(folder: Path) -> pd.DataFrame:
    """``metrics.csv`` without what differs from run to run: wall time and memory."""
    table = pd.read_csv(folder / "metrics.csv")
    return table[sorted(name for name in table if not name.startswith(("time/", "memory/")))]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """The exported policy."""
    return load_file(folder / "policy" / "model.safetensors")


def same_weights(a: Path, b: Path) -> bool:
    """Bit for bit."""
    ours, theirs = weights(a), weights(b)
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def differences(a: Path, b: Path) -> Iterator[str]:
    """What two run folders do not have in common, of all that must not depend on time."""
    for name in ("rollouts.parquet", "validation.parquet"):
        ours, theirs = pq.read_table(a / name), pq.read_table(b / name)
        if not ours.equals(theirs):
            yield f"{name}: {ours['step'].to_pylist()} and {theirs['step'].to_pylist()}"
    ours, theirs = metrics(a), metrics(b)
    if not ours.equals(theirs):
        yield f"metrics.csv: {ours.to_string()} and {theirs.to_string()}"
    if not same_weights(a, b):
        yield "policy/"
    ours, theirs = ({p.relative_to(f): p.read_bytes() for p in f.glob("validation/*/*.png")} for f in (a, b))
    if ours != theirs:
        yield f"pictures: {sorted(ours)} and {sorted(theirs)}"
