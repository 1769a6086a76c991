"""RealWorldQA: letters, numbers and words as answers, and broken rows that are marked."""

from __future__ import annotations

import pytest

from locus.evaluation.benchmarks.realworldqa import RealWorldQA
from locus.evaluation.reading.extractors import VLMEVALKIT
from locus.evaluation.reading.responses import Reading
from tests.support.benchmark_files import answered, scores, verdict_on, write_tsv
from tests.support.benchmark_files_choice import SHORT, vek, write_realworldqa


def test_realworldqa_official(tmp_path):
    """A second instruction that contradicts the first; numbers judged as letters; strict and normalised mixed up."""
    benchmark = RealWorldQA(write_realworldqa(tmp_path), rows=3)
    items = list(benchmark.items())
    assert [item.groups["kind"] for item in items] == ["letter", "short", "short"]
    assert items[0].options == {"A": "Left", "B": "None", "C": "Ahead"} and items[1].options == {}
    assert items[1].prompt == f"How many cars? {SHORT}" and [item.item_id for item in items] == ["0", "1", "2"]
    rows = answered(benchmark, ["The answer is B", "three", "yes."])
    assert rows["correct"].tolist() == [1, 1, 1] and rows["strict"].tolist() == [0, 0, 1]
    found = scores(benchmark, rows)
    expected = {"accuracy": 100, "strict": 100 / 3, "letter": 100, "short": 100, "without_broken": 100}
    assert found == pytest.approx(expected)
    assert verdict_on(benchmark, items[1], "three", VLMEVALKIT).correct == 0
    assert verdict_on(benchmark, items[1], "3.", VLMEVALKIT).correct == 1
    assert verdict_on(benchmark, items[1], "", VLMEVALKIT).extracted.reading == Reading.NONE


def test_realworldqa_tsv_marks_its_broken_rows(tmp_path):
    """Rows whose right option was lost count like the others, and nobody can say by how much."""
    rows = [vek(104), vek(105), vek(106, answer="D")]
    benchmark = RealWorldQA(write_tsv(tmp_path / "a.tsv", rows), rows=3)
    assert [item.groups["row"] for item in benchmark.items()] == ["whole", "broken", "broken"]
    found = scores(benchmark, answered(benchmark, ["B", "A", "A"]))
    assert found["accuracy"] == pytest.approx(100 / 3) and found["without_broken"] == 100
