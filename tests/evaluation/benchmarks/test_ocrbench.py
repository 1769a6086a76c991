"""OCRBench: texts found in responses, formulas told by their source, and scores by hand."""

from __future__ import annotations

from locus.evaluation.benchmarks.ocrbench import OCRBench
from locus.evaluation.reading.extractors import VLMEVALKIT
from locus.evaluation.reading.responses import Reading
from tests.support.benchmark_files import answered, hf_image, scores, verdict_on, write_parquet, write_tsv
from tests.support.benchmark_files_other import ocrbench_rows


def test_ocrbench(tmp_path):
    """Gold texts evaluated as code, formulas compared without case, hits in thoughts taken for answers."""
    bench = OCRBench(write_tsv(tmp_path / "O.tsv", ocrbench_rows()), rows=4)
    assert next(iter(bench.items())).answer == ("CENTRE", "Centre Ville")
    said = {
        "1": "<think>Centre or Center?</think>It says Center.",
        "2": r"x^{2}+a",
        "3": "It costs 2105.",
        "4": "It's",
    }
    score = scores(bench, answered(bench, said))
    assert score["full_response"] == 75 and score["final_span"] == score["accuracy"] == 50
    kits = scores(bench, answered(bench, said, VLMEVALKIT))
    assert kits[bench.headline] == kits["full_response"] == 75  # as in value_vlmevalkit, and in comparisons
    assert score["final_span_key_information_extraction"] == 100
    assert (score["final_span_text_recognition"], score["full_response_text_recognition"]) == (0, 100)
    assert score["final_span_handwritten_mathematical_expression_recognition"] == 0
    item = next(iter(bench.items()))
    assert verdict_on(bench, item, said["1"], VLMEVALKIT).correct == 1
    cut = verdict_on(bench, item, "Centre Ville", finished=False)
    assert cut.correct == 0 and cut.extracted.reading is Reading.TRUNCATED and cut.columns["full_response"] == 1


def test_ocrbench_parquet_tells_formulas_by_their_source(tmp_path):
    """Spaces in a formula counted as errors."""
    row = {"dataset": "HME100k", "question": "Write it.", "question_type": "x", "answer": ["a b"], "image": hf_image()}
    bench = OCRBench(write_parquet(tmp_path / "o.parquet", [row]), rows=1)
    (item,) = bench.items()
    assert item.answer == ("a b",)
    assert verdict_on(bench, item, "ab").correct == 1 and verdict_on(bench, item, "AB").correct == 0
