"""MMStar: options within the question, and scores by hand."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from locus.evaluation.benchmarks.mmstar import MMStar, split_options
from tests.support.benchmark_files import scores, verdict_on, write_parquet, write_tsv
from tests.support.benchmark_files_choice import SELECT, mmstar_rows, vek


def test_mmstar_inline_options_are_printed_once(tmp_path):
    """Options in the question and again below it; commas, colons and a "None" in options."""
    inline, _ = MMStar(write_parquet(tmp_path / "a.parquet", mmstar_rows()), rows=2).items()
    assert inline.options == {"A": "A cat, asleep.", "B": "3, 4 and 5", "C": "None", "D": "note: a dog"}
    columns = vek(4, question="What is it?", answer="C", **inline.options, category="math", l2_category="geometry")
    (tsv,) = MMStar(write_tsv(tmp_path / "a.tsv", [columns]), rows=1).items()
    assert inline.prompt == tsv.prompt and inline.prompt.count("asleep") == 1
    assert tsv.groups == {"category": "math", "axis": "geometry"}


def test_mmstar_options_that_cannot_be_split_stay_where_they_are(tmp_path):
    """A question without its options, because they were cut off and not printed again."""
    assert split_options("Is it?\nOptions: A: Yes\nB: No") == ("Is it?", {"A": "Yes", "B": "No"})
    for text in ("What is in A, B or C?", "Options: left or right", "Options: one of these, A: x, B: y"):
        assert split_options(text) == (text, {})
    late = "It?\nOptions: A: x, C: z, B: plan B, C: plan C"
    assert split_options(late) == ("It?", {"A": "x, C: z", "B": "plan B", "C": "plan C"})
    benchmark = MMStar(write_parquet(tmp_path / "a.parquet", mmstar_rows()[1:]), rows=1)
    (item,) = benchmark.items()
    assert item.prompt == f"Question: Left or right?\n{SELECT}" and item.options == {}
    assert verdict_on(benchmark, item, "B").correct == 1
    assert verdict_on(benchmark, item, "E").correct == 0


def test_mmstar_scores():
    """The mean over axes of unequal size given for the accuracy."""
    rows = pd.DataFrame({"correct": [1.0, 0.0, 0.0, 1.0], "axis": list("aaab")})
    rows["category"] = ["math", "math", "science & technology", "math"]
    found = scores(MMStar("none"), rows)
    assert (found["accuracy"], found["science_technology"]) == (50, 0)
    assert found["axis_mean"] == pytest.approx(200 / 3) and found["math"] == pytest.approx(200 / 3)
    assert np.isnan(found["logical_reasoning"])
