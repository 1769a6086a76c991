"""HallusionBench: accuracy by question, pair and figure, and its official file."""

from __future__ import annotations

import pytest

from locus.evaluation.benchmarks.hallusionbench import HallusionBench
from tests.support.benchmark_files import answered, scores, told, write_tsv
from tests.support.benchmark_files_other import hallusion_rows, write_hallusionbench


def test_hallusionbench_groups(tmp_path):
    """Figures of VD and VS merged because both have "ocr"; Unknown mapped to "No", which is more often right."""
    bench = HallusionBench(write_tsv(tmp_path / "HallusionBench.tsv", hallusion_rows()), rows=4)
    said = {
        "VD_ocr_1_0_0_0": "Yes",
        "VD_ocr_1_0_1_0": "no",
        "VD_ocr_1_0_1_1": "unclear",
        "VS_ocr_1_0_1_0": "No, it is not.",
    }
    score = scores(bench, answered(bench, said))
    # Figures: VD 0 right, VD 1 one of two, VS 1 right. Questions: VD 0 right on both figures, VD 1 wrong, VS 0 right.
    assert score["aAcc"] == 75 and score["fAcc"] == pytest.approx(200 / 3) and score["qAcc"] == pytest.approx(200 / 3)
    assert score["mean_of_three"] == pytest.approx((75 + 400 / 3) / 3) and score["aAcc_VS"] == 100
    assert list(bench.unit()) == ["kind", "set"]


def test_hallusionbench_official_file(tmp_path):
    """Questions without a figure among the 951, or answers "1" and "0" compared with yes and no."""
    file = write_hallusionbench(tmp_path)
    (item,) = HallusionBench(file, rows=1).items()
    assert told(HallusionBench(str(tmp_path), rows=1)) == [(item.item_id, item.pictures[0].key)]
    assert item.item_id == "VS_chart_1_0_1_0" and item.answer == "yes"
    assert item.groups["kind"] == "VS_chart" and item.groups["figure"] == "1"
