"""MathVerse: versions of one problem, and choices as the file has them."""

from __future__ import annotations

import pytest

from locus.errors import LocusError
from locus.evaluation.benchmarks.mathverse import MathVerse
from locus.evaluation.reading.extractors import VLMEVALKIT
from tests.support.benchmark_files import answered, scores, verdict_on, write_parquet
from tests.support.benchmark_files_other import mathverse_rows


def test_a_headline_that_there_is_not():
    """Found once 3,940 problems are answered, by a KeyError."""
    with pytest.raises(LocusError, match="single=visiononly of mathverse: pass one of mean, .*vision_only"):
        MathVerse("x", single="visiononly")


def test_mathverse(tmp_path):
    """Versions pooled where they are to be averaged, Text Only counted, options of Vision Only not known."""
    bench = MathVerse(write_parquet(tmp_path / "v.parquet", mathverse_rows()), rows=10)
    items = {item.item_id: item for item in bench.items()}
    assert (
        "6" not in items and items["5"].options == {"A": "60°", "B": "30°"} and items["1"].prompt.startswith("Reason")
    )
    said = {"1": r"\boxed{B}", "2": "The answer is B", "5": r"\boxed{30^\circ}", "7": r"\boxed{30}", "8": r"\boxed{31}"}
    score = scores(bench, answered(bench, said))
    each = {"text_dominant": 100, "text_lite": 50, "vision_intensive": 0, "vision_dominant": 0, "vision_only": 50}
    assert {name: score[f"{name}_rule"] for name in each} == each
    assert score["mean_rule"] == 40 and bench.headline == "mean_rule" and bench.unit() == ("problem",)
    assert verdict_on(bench, items["7"], "30", VLMEVALKIT).correct == 0, "quick match is of texts"
    assert verdict_on(bench, items["7"], "30°", VLMEVALKIT).correct == 1
    assert next(MathVerse(bench.path, query="query_wo", rows=10).items()).prompt == "Answer: Find the angle."


@pytest.mark.parametrize(
    ("answer", "listed", "gold", "options"),
    [
        ("(C)", "\nChoices:\nA.no\nB.one\nC.two", "C", {"A": "no", "B": "one", "C": "two"}),
        ("C\nD", "\nChoices:\nA:1\nB:2\nC:3\nD:4", "C, D", dict(zip("ABCD", "1234", strict=True))),
        ("False", "\nChoice:\nA. True\nB. False", "B", {"A": "True", "B": "False"}),
        (r"090^\circ T", "", r"090^\circ T", {}),
        ("B", "\nChoices:\nA:\nB:\nC:", "B", {"A": "", "B": "", "C": ""}),
        ("E", "", "E", dict(zip("ABCDE", "ABCDE", strict=True))),
    ],
)
def test_mathverse_choices_as_the_file_has_them(tmp_path, answer, listed, gold, options):
    """Of the 436 problems with choices 10 have no bare letter for an answer: no response could match them."""
    row = mathverse_rows()[0] | {"answer": answer, "question_for_eval": f"Find it.{listed}"}
    bench = MathVerse(write_parquet(tmp_path / "v.parquet", [row]), rows=1)
    (item,) = bench.items()
    assert (item.answer, dict(item.options)) == (gold, options)
    assert verdict_on(bench, item, rf"\boxed{{{gold}}}").correct == 1
    if gold == "C, D":
        assert verdict_on(bench, item, r"\boxed{C}").correct == 0, "one of two is not the answer"
