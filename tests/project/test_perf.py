"""The measurements in perf/ run at their smallest; their figures are not judged here."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import util
from pathlib import Path
from typing import Any

import pytest

TINY = {
    **{"rounds": 1, "warmup": 0, "steps": 1, "threads": 1, "group": 2, "new-tokens": 3},
    **{"width": 112, "height": 84, "cue": 56, "text-layers": 1},
}
IMAGE_TOKENS = 4 * 3 + 2 * 2
"""Of a 112x84 image and a 56x56 cue: one token per 28x28 pixels."""


def step_time(repo: Path, *arguments: str) -> dict[str, Any]:
    sizes = [f"--{name}={value}" for name, value in TINY.items()]
    command = [sys.executable, "-m", "perf.step_time", *sizes, *arguments]
    done = subprocess.run(command, cwd=repo, capture_output=True, text=True, check=False)
    assert not done.returncode, done.stderr
    return json.loads(done.stdout)


def check_half(report: dict[str, Any], phases: set[str], vision_forwards: int) -> None:
    assert set(report["phases"]) == phases
    assert report["seconds_per_step"] > 0 and report["peak_mb"] > 0 and report["parameters"] > 0
    assert report["completion_length"] == TINY["new-tokens"]  # both wrote to the limit: the same work
    assert report["groups_with_spread"] == 1.0  # else the update had nothing to learn from
    assert report["prompt_tokens"] > IMAGE_TOKENS
    assert report["vision_forwards_per_image"] == vision_forwards


@pytest.mark.slow
def test_step_time(repo):
    """The measuring code breaks with the next change of a constructor, and nobody sees it for months."""
    report = step_time(repo, "--without-trl")
    assert "TRL was not timed" in report["note"] and "trl" not in report
    check_half(report["locus"], {"data", "rollout", "reference", "update", "rest"}, vision_forwards=2)


@pytest.mark.slow
@pytest.mark.skipif(util.find_spec("trl") is None, reason="needs trl, which is not among the requirements")
def test_step_time_against_trl(repo):
    """The two halves drift apart in what they measure, and the ratio compares different work."""
    report = step_time(repo)
    check_half(report["trl"], {"rollout", "reference", "update", "rest"}, vision_forwards=3 * TINY["group"])
    for name in ("prompt_tokens", "parameters", "completion_length"):
        assert report["locus"][name] == report["trl"][name]
    assert report["ratio"] > 0 and report["cpu_ratio"] > 0 and len(report["ratio_by_round"]) == 1


@pytest.mark.slow
def test_attention(repo):
    """Maps that differ from those of the whole attention, or a table without a row."""
    command = [sys.executable, "-m", "perf.attention", "--tokens", "64", "144"]
    done = subprocess.run(command, cwd=repo, capture_output=True, text=True, check=True)
    head, *rows = (line.split() for line in done.stdout.splitlines())
    assert len(rows) == 2 and head[0] == "tokens"
    assert all(float(row[-1]) < 1e-5 and float(row[1]) >= 0 for row in rows)
