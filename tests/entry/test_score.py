"""``python -m locus.score``: the frame that a policy speaks in, and one line for wrong input."""

from __future__ import annotations

from pathlib import Path

import pytest

from locus.errors import LocusError
from locus.evaluation.predictions import Prediction
from locus.score import spoken_frame
from tests.support.runs import TINY, command, refused, succeeded
from tests.support.vstar_six import write, write_vstar_six


# --- Small parts ----------------------------------------------------------------------------------------------
@pytest.fixture
def vstar(tmp_path) -> Path:
    return write_vstar_six(tmp_path)


def test_spoken_frame():
    """Pixels read as 0-1000 score near nothing, silently."""
    ours = [Prediction("0", "", frame="processed"), Prediction("1", "")]
    assert spoken_frame(None, ours, "p") == "processed" and spoken_frame("file", ours[1:], "p") == "file"
    assert spoken_frame(None, ours[1:], "p") is None
    with pytest.raises(LocusError, match=r"boxes are in processed, not in backbone\.frame=unit1000"):
        spoken_frame("unit1000", ours, "p")
    with pytest.raises(LocusError, match="of one policy"):
        spoken_frame(None, [*ours, Prediction("2", "", frame="file")], "p")


# --- The commands ---------------------------------------------------------------------------------------------
def test_wrong_input(tmp_path, vstar):
    """Each with one line that says what is wrong."""
    files = "benchmark=vstar", f"benchmark.path={vstar}", "benchmark.rows=6"
    out = f"hydra.run.dir={tmp_path / 'scored'}"
    good = write(tmp_path / "good.jsonl", {"0": "A"})
    refused(command("score", *files, out), "no value for predictions")
    refused(command("score", "benchmark=vstar", f"predictions={good}", out), "benchmarks/vstar: no such file")
    refused(command("score", *files, f"predictions={tmp_path / 'none'}", out), "none: cannot be read")
    other = write(tmp_path / "other.jsonl", {"pope_1": "yes"})
    refused(command("score", *files, f"predictions={other}", out), "are of no item of vstar")
    for wrong in ("resamples=1e4", "limit=-1"):
        refused(command("score", *files, f"predictions={good}", out, wrong), wrong.split("=")[0])
    whole = write(tmp_path / "whole.jsonl", dict.fromkeys("012345", "A"))
    refused(command("score", *files, f"predictions={whole}", f"against={good}", out), "5 and 0 of the 6 items")
    succeeded(command("score", *files, f"predictions={whole}", f"against={good}", "limit=1", out))
    moved = "benchmark=vstar", f"benchmark.path={tmp_path / 'none.tsv'}", f"predictions={good}"
    refused(command("score", *moved, out), "none.tsv: no such file")
    refused(command("score", *files[:2], f"predictions={good}", out), "vstar has 191 items, found 6")
    refused(command("score", "benchmark=scenes_grounding", f"predictions={good}", out), "unknown frame None")
    folder = f"folder={tmp_path / 'out'}"
    refused(command("evaluate", folder, "policy=some/model"), "in which frame it writes boxes")
    refused(command("evaluate", *TINY, folder, "policy=some/model"), "cannot open this hub id")
    refused(command("evaluate", *TINY, folder, "limit=0"), "limit=0")
    refused(command("evaluate", *TINY, folder, "token_budget=8"), "the budget is 8")
    assert not (tmp_path / "out" / "scores.csv").exists()
