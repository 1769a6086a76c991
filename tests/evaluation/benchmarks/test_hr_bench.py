"""HR-Bench: four cycles of each question, and scores by hand."""

from __future__ import annotations

import pytest

from locus.evaluation.benchmark import Item
from locus.evaluation.benchmarks.hr_bench import HRBench
from locus.evaluation.statistics import score
from tests.support.benchmark_files import answered, scores, write_parquet, write_tsv
from tests.support.benchmark_files_choice import SELECT, hr_rows


@pytest.mark.parametrize("write", [write_parquet, write_tsv])
def test_hr_bench(tmp_path, write):
    """An all-rotations-right rule in place of the mean over cycles, or rotations resampled as questions."""
    suffix = {write_parquet: "parquet", write_tsv: "tsv"}[write]
    benchmark = HRBench(write(tmp_path / f"hr.{suffix}", hr_rows()), "hr_bench_4k", rows=8)
    items = list(benchmark.items())
    assert [item.options[str(item.answer)] for item in items] == ["red"] * 8
    assert items[0].options == {"A": "red", "B": "blue", "C": "None", "D": "green"}
    assert items[0].prompt == f"Question: Which colour?\nOptions:\nA. red\nB. blue\nC. None\nD. green\n{SELECT}"
    assert len({item.groups["question"] for item in items}) == 2
    # "single" is right in all cycles, "cross" in the first only.
    right = [n < 2 or item.groups["category"] == "single" for n, item in enumerate(items)]
    rows = answered(benchmark, [str(i.answer) if r else wrong(i) for i, r in zip(items, right, strict=True)])
    found = scores(benchmark, rows)
    assert found == pytest.approx({"overall": 62.5, "fsp": 100, "fcp": 25, "all_cycles_right": 50})
    interval = score(rows, benchmark.statistics()["overall"], benchmark.unit())
    assert (interval.low, interval.high) == (25, 100), "two questions: a resample is one, the other, or both"


def wrong(item: Item) -> str:
    """An option that is not the answer."""
    return next(letter for letter in item.options if letter != item.answer)
