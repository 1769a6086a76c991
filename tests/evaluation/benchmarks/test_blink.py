"""BLINK: several pictures a question, test files passed over, and scores by hand."""

from __future__ import annotations

import numpy as np
import pytest

from locus.errors import LocusError
from locus.evaluation.benchmarks.blink import BLINK
from tests.support.benchmark_files import answered, scores, write_parquet, write_tsv
from tests.support.benchmark_files_choice import SELECT
from tests.support.benchmark_files_seeing import blink_row, blink_tsv_rows, write_blink


def test_blink_official_folder(tmp_path):
    """Test questions, whose answers are hidden, among the validation ones; pictures lost or in another order."""
    items = list(BLINK(write_blink(tmp_path), rows=3).items())
    assert [item.item_id for item in items] == ["val_Jigsaw_1", "val_Jigsaw_2", "val_Relative_Depth_1"]
    assert [len(item.pictures) for item in items] == [3, 3, 1]
    assert len({picture.key for picture in items[0].pictures}) == 3
    assert items[0].options == {"A": "the second image", "B": "the third image"} and items[0].answer == "B"
    assert items[0].prompt.endswith("(A) the second image\n(B) the third image\n"), "the official prompt, as it is"
    with pytest.raises(LocusError, match=r"row 1: the task is 'Sums', must be one of Art_Style"):
        list(BLINK(write_parquet(tmp_path / "a.parquet", [blink_row("Sums", 1)])).items())


def test_blink_tsv(tmp_path):
    """A list of pictures in one cell of VLMEvalKit's file."""
    items = list(BLINK(write_tsv(tmp_path / "BLINK.tsv", blink_tsv_rows()), rows=2).items())
    assert [len(item.pictures) for item in items] == [2, 1]
    assert items[0].prompt == f"Question: Which?\nOptions:\nA. red\nB. blue\n{SELECT}"
    assert items[0].groups["task"] == "Jigsaw"


def test_blink_scores(tmp_path):
    """The mean over rows in place of that over tasks, which is the published total."""
    bench = BLINK(write_blink(tmp_path), rows=3)
    found = scores(bench, answered(bench, ["(B)", "(A)", "B"]))  # Jigsaw one of two, Relative_Depth one of one
    assert found["task_mean"] == 75 and found["accuracy"] == pytest.approx(200 / 3)
    assert (found["jigsaw"], found["relative_depth"]) == (50, 100) and np.isnan(found["counting"])
    assert len(found) == 16 and "multi_view_reasoning" in found
