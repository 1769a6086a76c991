"""ZoomBench: two views of each question, and their gap by hand."""

from __future__ import annotations

import pytest

from locus.errors import LocusError
from locus.evaluation.benchmarks.zoombench import ZoomBench
from tests.support.benchmark_files import answered, scores, verdict_on, write_parquet
from tests.support.benchmark_files_seeing import zoombench_rows


def test_zoombench_views(tmp_path):
    """Both pictures in one question; the letter of an open answer taken for a choice."""
    items = list(ZoomBench(write_parquet(tmp_path / "test.parquet", zoombench_rows()), rows=4).items())
    assert [item.item_id for item in items] == ["z0_full", "z0_crop", "z1_full", "z1_crop"]
    assert len({item.pictures[0].key for item in items}) == 4 and all(len(item.pictures) == 1 for item in items)
    assert items[0].options == {"A": "0", "B": "2", "C": "1"} and items[0].answer == "C"
    assert items[2].options == {} and items[2].answer == "B" and items[2].groups["kind"] == "open"
    assert items[0].prompt == zoombench_rows()[0]["query"]


def test_zoombench_gap(tmp_path):
    """The gap with its sign exchanged, or views resampled as questions."""
    bench = ZoomBench(write_parquet(tmp_path / "test.parquet", zoombench_rows()), rows=4)
    found = scores(bench, answered(bench, ["A", "The answer is (C).", "b", "B"]))
    assert (found["accuracy_full_rule"], found["accuracy_crop_rule"], found["zooming_gap_rule"]) == (50, 100, 50)
    assert (found["accuracy_full_choice_rule"], found["accuracy_full_open_rule"]) == (0, 100)
    assert bench.headline == "accuracy_full_rule" and list(bench.unit()) == ["row"]


class Says:
    """A judge that finds one response right, and keeps what it was asked."""

    def __init__(self, right: str) -> None:
        self.right, self.asked = right, []

    def equal(self, question: str, gold: str, response: str) -> bool:
        self.asked.append((question, gold))
        return response == self.right


def test_zoombench_judge(tmp_path):
    """A judge that is asked about the letter without its text, or whose mark is taken for the rule's."""
    judge = Says("hard to say")
    bench = ZoomBench(write_parquet(tmp_path / "a.parquet", zoombench_rows()), rows=4, judge_model=judge)
    item = next(iter(bench.items()))
    verdict = verdict_on(bench, item, "hard to say")
    assert (verdict.columns["judge"], verdict.columns["rule"], verdict.correct) == (1, 0, 1)
    assert judge.asked == [(item.prompt, "C (1)")] and bench.headline == "accuracy_full_judge"


def test_zoombench_letters_and_their_texts(tmp_path):
    """The text behind a letter taken for a part of it; a choice without a letter that nobody can get right."""
    rows = [zoombench_rows()[0] | {"response": "C. 1"}]
    assert next(iter(ZoomBench(write_parquet(tmp_path / "a.parquet", rows), rows=2).items())).answer == "C"
    rows[0]["response"] = "one"
    with pytest.raises(LocusError, match=r"row 1: the answer 'one' begins with no letter"):
        list(ZoomBench(write_parquet(tmp_path / "a.parquet", rows)).items())


@pytest.mark.parametrize(
    ("gold", "said", "right"),
    [
        ("3", "There are three.", 1),
        ("STOP", "stop", 1),
        ("red", "Blue", 0),
        ("A", "A", 1),
        ("Bank of New York Mellon", "Bank of New York Mellon.", 1),
        ("Bank of New York Mellon", "Bank of New York", 0),
    ],
)
def test_zoombench_open_answers(tmp_path, gold, said, right):
    """Words and numbers compared as they are written."""
    rows = [zoombench_rows()[1] | {"response": gold}]
    bench = ZoomBench(write_parquet(tmp_path / "a.parquet", rows), rows=2)
    assert verdict_on(bench, next(iter(bench.items())), said).correct == right
