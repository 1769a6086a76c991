"""AI2D: answers by index, options that are letters, and indices out of range."""

from __future__ import annotations

import pytest

from locus.errors import LocusError
from locus.evaluation.benchmarks.ai2d import AI2D
from tests.support.benchmark_files import hf_image, verdict_on, write_parquet, write_tsv
from tests.support.benchmark_files_choice import SELECT, ai2d_rows, vek


def test_ai2d_answers_by_index_and_options_that_are_letters(tmp_path):
    """Answer "0" read as false or as a letter; an option's text "C" taken for the letter C."""
    benchmark = AI2D(write_parquet(tmp_path / "a.parquet", ai2d_rows()), rows=2)
    first, second = benchmark.items()
    assert (first.answer, second.answer) == ("A", "D")
    assert first.prompt == f"Question: Which?\nOptions:\nA. C\nB. A\nC. None\nD. B\n{SELECT}"
    assert verdict_on(benchmark, first, "The answer is C").correct == 0
    assert verdict_on(benchmark, first, "The answer is A").correct == 1
    columns = dict(zip("ABCD", ai2d_rows()[0]["options"], strict=True))
    (tsv,) = AI2D(write_tsv(tmp_path / "a.tsv", [vek(answer="D", **columns)]), "ai2d_no_mask", rows=1).items()
    assert tsv.prompt == first.prompt and tsv.answer == "D"


@pytest.mark.parametrize("answer", ["4", "A", "-1"])
def test_ai2d_index_out_of_range(tmp_path, answer):
    """An index of no option wraps around to another, or stops the run without naming the row."""
    row = {"question": "Which?", "options": list("wxyz"), "answer": answer, "image": hf_image()}
    with pytest.raises(LocusError, match=rf"row 1: answer '{answer}' is not an index of its 4 options"):
        list(AI2D(write_parquet(tmp_path / "a.parquet", [row])).items())
