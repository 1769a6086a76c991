"""SEED-Bench: its picture questions from files of three forms."""

from __future__ import annotations

import pytest

from locus.errors import LocusError
from locus.evaluation.benchmarks.seed_bench import SEEDBench
from tests.support.benchmark_files import answered, hf_image, scores, write_parquet, write_tsv
from tests.support.benchmark_files_choice import SELECT, vek
from tests.support.benchmark_files_seeing import write_seed_bench


def test_seed_bench_official_json(tmp_path):
    """Films among the pictures; a name without an ending that is read as base64; dimensions 3 and 4 exchanged."""
    bench = SEEDBench(write_seed_bench(tmp_path), rows=2)
    first, second = bench.items()
    assert first.pictures[0].key == str(tmp_path / "SEED-Bench-image" / "1454426_2591111986")
    assert first.prompt == f"Question: How many?\nOptions:\nA. One\nB. Two\nC. None\nD. 4\n{SELECT}"
    assert (first.answer, first.groups["dimension"]) == ("A", "Instances Counting")
    assert second.groups["dimension"] == "Instance Location"
    found = scores(bench, answered(bench, ["A", "B"]))
    assert (found["accuracy"], found["instances_counting"], found["instance_location"]) == (50, 100, 0)
    (tmp_path / "SEED-Bench.json").write_text("[]")
    with pytest.raises(LocusError, match=r"SEED-Bench\.json: has no questions"):
        list(bench.items())


def test_seed_bench_other_forms(tmp_path):
    """The parquet's list of pictures, and VLMEvalKit's names of dimensions."""
    (item,) = SEEDBench(write_tsv(tmp_path / "a.tsv", [vek(category="Visual Reasoning")]), rows=1).items()
    assert item.groups["dimension"] == "Visual Reasoning" and item.options == {"A": "red", "B": "blue"}
    row = {"question_id": "7", "question_type_id": 9, "data_type": "image", "question": "Which?", "answer": "D"}
    row |= {f"choice_{letter}": letter for letter in "abcd"}
    rows = [row | {"image": [hf_image()]}, row | {"image": [hf_image()] * 8, "data_type": "video"}]
    (item,) = SEEDBench(write_parquet(tmp_path / "a.parquet", rows), rows=1).items()
    assert (item.item_id, len(item.pictures), item.groups["dimension"]) == ("7", 1, "Text Understanding")
