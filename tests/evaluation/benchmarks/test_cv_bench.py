"""CV-Bench: items, sources and boxes of its files, and scores by hand."""

from __future__ import annotations

import pytest

from locus.errors import LocusError
from locus.evaluation.benchmarks.cv_bench import CVBench
from tests.support.benchmark_files import answered, scores, write_parquet, write_tsv
from tests.support.benchmark_files_choice import cv_row, vek, write_cv


def test_cv_bench_items(tmp_path):
    """A sixth option cut off, the instruction printed twice, ids that both files use, boxes in another layout."""
    items = list(CVBench(write_cv(tmp_path), rows=5).items())
    assert [item.item_id for item in items] == ["2D-0", "2D-1", "2D-2", "3D-0", "3D-1"]
    assert items[0].answer == "F" and items[0].options["F"] == "None"
    assert items[1].prompt == "How many? Select from the following choices.\n(A) above\n(B) below"
    assert [box.xyxy for box in items[3].evidence] == [(1, 2, 11, 22), (5, 5, 40, 30)]
    assert items[0].evidence == items[4].evidence == ()


def test_cv_bench_boxes_of_another_layout_are_refused(tmp_path):
    """Width and height taken for a corner: every box would be wrong, and the attention in it."""
    path = write_cv(tmp_path, bbox=[[20, 10, 10, 20]])
    with pytest.raises(LocusError, match=r"test_3d\.parquet, row 1: bbox .* not xyxy in 40 x 30 .*boxes=xywh"):
        list(CVBench(path).items())
    assert list(CVBench(path, rows=5, boxes="xywh").items())[3].evidence[0].xyxy == (20, 10, 30, 30)
    assert list(CVBench(path, rows=5, boxes="none").items())[3].evidence == ()
    with pytest.raises(LocusError, match="boxes=yxyx"):
        CVBench(path, boxes="yxyx")
    broken = write_cv(tmp_path / "broken", bbox=[[20, 10, 30]])
    with pytest.raises(LocusError, match=r"row 1: bbox .* is not four numbers.*boxes=none"):
        list(CVBench(broken).items())


def test_cv_bench_sources_of_other_names_are_refused(tmp_path):
    """Rows of a source that the formula does not know fall out of the headline, and nothing says so."""
    row = cv_row(0, "ADE20k", "Count", ["0", "1"], "(A)")
    with pytest.raises(LocusError, match=r"row 1: source is 'ADE20k', must be one of ADE20K, COCO, Omni3D"):
        list(CVBench(write_parquet(tmp_path / "test_2d.parquet", [row])).items())


def test_cv_bench_scores(tmp_path):
    """One of the three numbers that are called CV-Bench given for another; worked by hand."""
    benchmark = CVBench(write_cv(tmp_path), rows=5)
    found = scores(benchmark, answered(benchmark, ["F", "B", "B", "A", "B"]))
    # ADE20K 1/2, COCO 1/1 -> 2D 75; Omni3D 1/2 -> 3D 50.
    expected = {"formula": 62.5, "2d": 75, "3d": 50, "flat": 60, "task_mean": 50}
    assert found == pytest.approx({**expected, "count": 100, "relation": 0, "depth": 100, "distance": 0})


def test_cv_bench_tsv(tmp_path):
    """VLMEvalKit's files name the columns otherwise; their letters are columns."""
    for side, source, task in (("2D", "COCO", "Count"), ("3D", "Omni3D", "Depth")):
        more = {"prompt": "How many?\n(A) red\n(B) blue", "split": side, "source": source, "task": task}
        write_tsv(tmp_path / f"CV-Bench-{side}.tsv", [vek(answer="(B)", **more)])
    two, three = CVBench(str(tmp_path), rows=2).items()
    assert (two.item_id, three.item_id, three.groups["source"]) == ("2D-0", "3D-0", "Omni3D")
    assert two.prompt == "How many?\n(A) red\n(B) blue" and two.options == {"A": "red", "B": "blue"}
