"""What all multiple-choice benchmarks share: the published prompt, judging, and intervals that know their groups."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from locus.errors import LocusError
from locus.evaluation.benchmarks.ai2d import AI2D
from locus.evaluation.benchmarks.choice import mean_over, vlmevalkit_prompt
from locus.evaluation.benchmarks.vstar import VStar
from locus.evaluation.reading.extractors import VLMEVALKIT
from locus.evaluation.reading.responses import Reading
from locus.evaluation.statistics import by_column, mean_of, score
from tests.support.benchmark_files import answered, encoded, verdict_on, write_tsv
from tests.support.benchmark_files_choice import SELECT, vek


# --- What all choice benchmarks share -------------------------------------------------------------------------
def test_a_wrong_number_of_rows_is_an_error(tmp_path):
    """A file cut between two rows scores like a whole one."""
    path = write_tsv(tmp_path / "a.tsv", [vek(n) for n in range(3)])
    with pytest.raises(LocusError, match=r"ai2d has 3088 items, found 3.*rows=null"):
        list(AI2D(path).items())
    assert len(list(AI2D(path, rows=3).items())) == len(list(AI2D(path, rows=None).items())) == 3


def test_ids_that_come_again_are_told_apart(tmp_path):
    """Two rows of one id: the second response overwrites the first, and a row is missing from the score."""
    path = write_tsv(tmp_path / "a.tsv", [vek(5), vek(6), vek(5)])
    assert [item.item_id for item in AI2D(path, rows=3).items()] == ["5", "6", "5#2"]


@pytest.mark.parametrize(("answer", "says"), [("", "answer is empty"), ("blue", "'blue' is not a letter")])
def test_an_answer_that_is_no_letter(tmp_path, answer, says):
    """An empty truth that no response can match, scored as wrong without a word."""
    with pytest.raises(LocusError, match=rf"row 1: .*{says}"):
        list(AI2D(write_tsv(tmp_path / "a.tsv", [vek(answer=answer)])).items())


def test_vlmevalkit_prompt_is_the_published_text():
    """A space or line less than the default prompt moves scores by points."""
    options = {"A": "red", "B": "None"}
    text = vlmevalkit_prompt("Which?", options, "Look.")
    assert text == f"Hint: Look.\nQuestion: Which?\nOptions:\nA. red\nB. None\n{SELECT}"
    assert vlmevalkit_prompt("Which?", {}) == "Question: Which?\n"


def test_judging(tmp_path):
    """A cut or an empty response scored as right, or the two extractors mixed up."""
    benchmark = AI2D(write_tsv(tmp_path / "a.tsv", [vek(D="green")]), rows=1)
    (item,) = benchmark.items()
    right = verdict_on(benchmark, item, "<answer>B</answer>")
    assert (right.item_id, right.correct, right.extracted.answer) == ("0", 1.0, "B")
    assert verdict_on(benchmark, item, "<answer>B</answer>", VLMEVALKIT).correct == 0, "it does not know the tags"
    assert verdict_on(benchmark, item, "B.", VLMEVALKIT).correct == 1
    cut = verdict_on(benchmark, item, "Let me compare the red one", finished=False)
    assert cut.correct == 0 and cut.extracted.reading == Reading.TRUNCATED
    assert verdict_on(benchmark, item, "").correct == 0
    assert verdict_on(benchmark, item, "The answer is C").correct == 0, "there is no C"


def test_an_answer_outside_the_options_is_marked(tmp_path):
    """A row that nobody can get right, unseen in the table."""
    benchmark = AI2D(write_tsv(tmp_path / "a.tsv", [vek(0), vek(1, answer="D")]), rows=2)
    assert answered(benchmark, ["B", "B"])["answerable"].tolist() == [1, 0]


def test_interval_of_an_accuracy_is_the_binomial_one():
    """An interval of percentiles of the wrong tail, or of the rows in place of their mean: 60 of 191, by hand."""
    rows = pd.DataFrame({"correct": [1.0] * 60 + [0.0] * 131, "picture": range(191)})
    found = score(rows, VStar("none").statistics()["accuracy"], VStar("none").unit(), resamples=4000)
    share = 60 / 191
    half = 196 * (share * (1 - share) / 191) ** 0.5
    assert found.value == pytest.approx(100 * share) and found.n == 191
    assert (found.low, found.high) == pytest.approx((100 * share - half, 100 * share + half), abs=0.8)


def test_questions_about_one_picture_are_drawn_together(tmp_path):
    """AI2D asks three questions about a diagram: taken for independent, they make the interval too narrow."""
    rows = [vek(n, image=encoded(n // 3)) for n in range(6)]
    benchmark = AI2D(write_tsv(tmp_path / "a.tsv", rows), rows=6)
    table = answered(benchmark, ["B"] * 3 + ["A"] * 3)
    found = score(table, benchmark.statistics()["accuracy"], benchmark.unit())
    assert (found.value, found.low, found.high) == (50, 0, 100), "two pictures: a resample is one, the other, or both"


def test_a_score_says_how_many_rows_it_stands_on():
    """The 76 relations of V* published with the count of all 191 rows."""
    rows = pd.DataFrame({"correct": 1.0, "category": ["direct_attributes"] * 5 + ["relative_position"] * 2})
    rows = rows.assign(cycle=list("0011223"), source="COCO", other=1.0)
    named = VStar("none").statistics()
    assert [score(rows, statistic, (), resamples=8).n for statistic in named.values()] == [7, 5, 2]
    assert score(rows, mean_over("cycle", category="relative_position"), (), resamples=8).n == 2
    assert score(rows, mean_of(*list(named.values())[1:]), (), resamples=8).n == 7
    assert score(rows, by_column("other", named["direct_attributes"]), (), resamples=8).n == 5
    assert score(rows, named["relative_position"], (), before=rows, resamples=8).n == 2


# --- HR-Bench -------------------------------------------------------------------------------------------------
def test_mean_over_weighs_cycles_and_not_rows():
    """Cycles of unequal size (a partial run) averaged by rows: 1 of 1 and 0 of 3 are 50 %, not 25 %."""
    rows = pd.DataFrame({"correct": [1.0, 0.0, 0.0, 0.0], "cycle": list("0111"), "kind": list("aaab")})
    assert mean_over("cycle")(rows, np.ones((1, 4))).tolist() == [50]
    assert mean_over("cycle", kind="b")(rows, np.ones((1, 4))).tolist() == [0]
    assert np.isnan(mean_over("cycle", kind="c")(rows, np.ones((2, 4)))).all()
