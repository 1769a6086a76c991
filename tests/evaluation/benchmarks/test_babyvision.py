"""BabyVision: choices and blanks, its official folder, and scores by hand."""

from __future__ import annotations

import pytest

from locus.errors import LocusError
from locus.evaluation.benchmarks.babyvision import BabyVision, same_blank
from tests.support.benchmark_files import answered, hf_image, scores, write_parquet
from tests.support.benchmark_files_other import baby_rows, write_babyvision


def test_babyvision(tmp_path):
    """A choiceAns of 0 taken for none; the text "null" for an answer; a judge's score under the rule's name."""
    rows = baby_rows()
    bench = BabyVision(write_parquet(tmp_path / "b.parquet", [row | {"image": hf_image()} for row in rows]), rows=2)
    choice, blank = bench.items()
    assert choice.answer == "A" and blank.answer == "(4,7)" and not blank.options
    assert choice.prompt == (
        "Which?\nChoices:\n(A) red\n(B) blue\n"
        "Think about the question and give your final answer in \\boxed{Answer} format."
    )
    table = answered(bench, {"1": r"\boxed{A}", "2": r"\boxed{\text{Row 4, Column 7}}"})
    score = scores(bench, table)
    assert score["accuracy_rule"] == score["accuracy_visual_tracking_rule"] == 100
    assert not any("judge" in name for name in score) and bench.headline == "accuracy_rule"
    broken = write_parquet(tmp_path / "c.parquet", [rows[1] | {"image": hf_image(), "blankAns": "null"}])
    with pytest.raises(LocusError, match=r"c.parquet, row 1: ansType blank with the answer 'null'"):
        list(BabyVision(broken, rows=None).items())


def test_babyvision_official_folder(tmp_path):
    """Pictures of the official archive lie in a folder beside the file that names them."""
    choice, blank = BabyVision(write_babyvision(tmp_path), rows=2).items()
    assert (choice.answer, blank.answer) == ("A", "(4,7)") and choice.pictures[0].open().size == (40, 30)


@pytest.mark.parametrize(
    ("answer", "gold", "question", "right"),
    [
        ("(4, 7)", "(4,7)", "", True), ("(7,4)", "(4,7)", "Find all.", False), ("Row 4 Column 17", "(4, 17)", "", True),
        ("5,10", "10,5", "", False), ("5, 10", "10,5", "Name all of them.", True), ("47", "(4,7)", "", False),
        ("B3", "A3", "", False), ("a-3", "A3", "", True), ("Blue", "blue.", "", True), ("", "blue", "", False),
        (r"\text{Blue}", "blue", "", True), (r"\text{A}, \text{C}", "A,C", "", True), (r"\mathrm{A3}", "A3", "", True),
        ("c, A", "A,C", "Which are all the same?", True), ("c, A", "A,C", "Which?", False), ("", "5", "", False),
    ],
)  # fmt: skip
def test_babyvision_blanks(answer, gold, question, right):
    """Places told by their digits alone, sets compared in order, order dropped where it matters."""
    assert same_blank(answer, gold, question) is right
