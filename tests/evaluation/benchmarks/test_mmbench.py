"""MMBench: rotations of one question, and circular evaluation by hand."""

from __future__ import annotations

import numpy as np
import pytest

from locus.errors import LocusError
from locus.evaluation.benchmarks.mmbench import MMBench
from locus.evaluation.statistics import all_right, score
from tests.support.benchmark_files import answered, hf_image, scores, write_parquet, write_tsv
from tests.support.benchmark_files_choice import SELECT
from tests.support.benchmark_files_seeing import mmbench_rows


def test_mmbench_rotations(tmp_path):
    """Rotations taken for questions of their own; a rotation without the picture of its first row; a lost hint."""
    items = list(MMBench(write_tsv(tmp_path / "a.tsv", mmbench_rows()), rows=5).items())
    assert [item.options[str(item.answer)] for item in items] == ["cat", "cat", "1", "1", "1"]
    assert [item.groups["question"] for item in items] == ["7", "7", "8", "8", "8"]
    assert [item.groups["rotation"] for item in items] == ["0", "1", "0", "1", "2"]
    assert items[1].pictures[0].key == items[0].pictures[0].key != items[2].pictures[0].key
    assert items[2].prompt == f"Hint: Look.\nQuestion: Which?\nOptions:\nA. 1\nB. 2\nC. None\n{SELECT}"


def test_mmbench_scores(tmp_path):
    """A question that counts though one of its rotations is wrong; rotations resampled as questions."""
    bench = MMBench(write_tsv(tmp_path / "a.tsv", mmbench_rows()), rows=5)
    table = answered(bench, ["A", "B", "A", "A", "B"])  # the question of three is wrong in its second rotation
    found = scores(bench, table)
    assert (found["circular"], found["vanilla"], found["all_rotations"]) == (50, 100, 80)
    assert (found["coarse_perception"], found["logic_reasoning"]) == (100, 0)
    assert np.isnan(found["finegrained_perception_cross_instance"])
    interval = score(table, bench.statistics()["circular"], bench.unit(), resamples=200)
    assert (interval.low, interval.high) == (0, 100), "two questions: a resample is one, the other, or both"


def test_groups_of_a_part_of_the_rows(tmp_path):
    """A weight of the whole table's first rows in place of the chosen ones', by hand."""
    table = answered(MMBench(write_tsv(tmp_path / "a.tsv", mmbench_rows()), rows=5), ["A", "B", "A", "C", "B"])
    weights = np.array([[1.0, 1, 2, 2, 2], [3.0, 3, 0, 0, 0]])
    assert all_right("question", ability="logic_reasoning")(table, weights).tolist() == pytest.approx(
        [100, np.nan], nan_ok=True
    )
    assert all_right("question")(table, weights).tolist() == [100, 100]


def test_mmbench_parquet(tmp_path):
    """An empty cell, "nan" in the parquet, shown as a hint or an option; an index that is not a number."""
    row = mmbench_rows()[0] | {"image": hf_image(), "hint": "nan", "C": "nan", "D": "nan"}
    row["L2-category"] = row.pop("l2-category")
    (item,) = MMBench(write_parquet(tmp_path / "a.parquet", [row]), rows=1).items()
    assert item.prompt == f"Question: Which?\nOptions:\nA. cat\nB. dog\n{SELECT}"
    with pytest.raises(LocusError, match=r"row 1: index 'x7' is not a whole number"):
        list(MMBench(write_parquet(tmp_path / "b.parquet", [row | {"index": "x7"}])).items())
