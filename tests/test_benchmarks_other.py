"""Benchmarks that are not plain multiple choice: small files in their true forms, and scores worked by hand."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from benchmark_files import answered, encoded, hf_image, picture, scores, write_parquet, write_tsv
from benchmark_files_other import (
    baby_rows,
    hallusion_rows,
    mathverse_rows,
    mathvision_rows,
    ocrbench_rows,
    pope_rows,
    wemath_rows,
    write_babyvision,
    write_hallusionbench,
    write_logicvista,
    write_pope,
)
from chat_server import endpoint

from locus.errors import LocusError
from locus.evaluation.benchmark import Benchmark, Reading
from locus.evaluation.benchmarks.babyvision import BabyVision, same_blank
from locus.evaluation.benchmarks.hallusionbench import HallusionBench
from locus.evaluation.benchmarks.logicvista import LogicVista
from locus.evaluation.benchmarks.mathverse import MathVerse
from locus.evaluation.benchmarks.mathvision import MathVision
from locus.evaluation.benchmarks.ocrbench import OCRBench
from locus.evaluation.benchmarks.pope import POPE
from locus.evaluation.benchmarks.wemath import WeMath, split_options
from locus.evaluation.judge import ChatJudge


def told(benchmark: Benchmark) -> list[tuple[str, str]]:
    """Item and picture of each row."""
    return [(item.item_id, item.pictures[0].key) for item in benchmark.items()]


# --- POPE -----------------------------------------------------------------------------------------------------
def test_pope_rows_are_read_once_for_every_setting(tmp_path):
    """Settings of 1,709 rows instead of 3,000: the file names each distinct question once."""
    items = list(POPE(write_tsv(tmp_path / "POPE.tsv", pope_rows()), rows=6).items())
    assert [item.item_id for item in items] == [
        *("random_0", "popular_0", "adversarial_0", "random_1", "popular_2", "adversarial_2"),
    ]
    assert [item.groups["setting"] for item in items[:2]] == ["random", "popular"] and items[0].answer == "yes"
    assert items[0].groups["picture"] == items[3].groups["picture"] != items[4].groups["picture"]


def test_pope_scores(tmp_path):
    """An unread answer that counts as no answer at all raises recall; yes_ratio of the truth is always a half."""
    pope = POPE(write_tsv(tmp_path / "POPE.tsv", pope_rows()), rows=None)
    said = {
        "random_0": "Yes.",
        "popular_0": "**Yes**",
        "adversarial_0": "I cannot say",
        "random_1": "Yes",
        "popular_2": "no",
    }
    score = scores(pope, answered(pope, said))
    # Truth: 3 yes, 3 no. Said yes: 3, two of them right; the unread yes is missed; the unread no is wrong.
    assert score["precision"] == pytest.approx(200 / 3) and score["recall"] == pytest.approx(200 / 3)
    assert score["f1"] == pytest.approx(200 / 3) and score["accuracy"] == pytest.approx(50)
    assert score["yes_ratio"] == pytest.approx(50)
    # Random: precision 1/2, recall 1 -> 2/3; popular: 1; adversarial: nothing said yes, one there -> 0.
    assert (score["f1_random"], score["f1_popular"], score["f1_adversarial"]) == pytest.approx((200 / 3, 100, 0))
    assert score["f1_mean"] == pytest.approx(500 / 9) and score["accuracy_popular"] == pytest.approx(100)
    assert [score[f"{name}_random"] for name in ("precision", "recall", "yes_ratio")] == pytest.approx([50, 100, 100])
    assert np.isnan(score["precision_adversarial"]) and score["recall_adversarial"] == 0


def test_pope_f1_of_resamples(tmp_path):
    """A bootstrap that ignores the weights gives an interval of no width."""
    pope = POPE(write_tsv(tmp_path / "POPE.tsv", pope_rows()), rows=None)
    table = answered(pope, {"random_0": "yes", "random_1": "yes"})
    weights = np.array([[1.0] * 6, [2, 0, 0, 0, 0, 0], [0, 0, 0, 3, 0, 0], [0.0, 0, 0, 0, 1, 1]])
    assert pope.statistics()["f1"](table, weights).tolist() == pytest.approx([40, 100, 0, np.nan], nan_ok=True)


def test_pope_official_files_name_their_setting_only_in_their_name(tmp_path):
    """JSON lines under the name .json, question ids that begin anew in each file, pictures of another folder."""
    write_pope(tmp_path)
    pope = POPE(str(tmp_path), images=str(tmp_path / "val2014"), suffix=" Please answer yes or no.", rows=4)
    items = list(pope.items())
    assert [item.item_id for item in items] == ["random_1", "random_2", "adversarial_1", "adversarial_2"]
    assert items[0].prompt == "Is there a cat in the image? Please answer yes or no."
    assert told(POPE(str(tmp_path), rows=4)) == told(pope)
    with pytest.raises(LocusError, match=r"elsewhere/a\.jpg does not exist; pass images="):
        list(POPE(str(tmp_path), images=str(tmp_path / "elsewhere"), rows=4).items())


def test_pope_broken_official_files(tmp_path):
    """A traceback of json or of the decoder for a page of HTML or a picture that was saved under the file's name."""
    line = b'{"question_id": 1, "image": "a.jpg", "text": "Is it?", "label": "yes"}\n'
    for content, says in ((b"<html>\n", "line 1: no JSON object"), (b"\xff\xfe", "cannot be read")):
        (tmp_path / "coco_pope_popular.json").write_bytes(content)
        with pytest.raises(LocusError, match=rf"coco_pope_popular\.json.*{says}"):
            list(POPE(str(tmp_path)).items())
    (tmp_path / "a.jpg").write_bytes(picture())
    (tmp_path / "coco_pope_popular.json").write_bytes(line + b"\n\n")
    assert len(list(POPE(str(tmp_path), rows=1).items())) == 1, "empty lines at the end are no rows"


# --- HallusionBench -------------------------------------------------------------------------------------------
def test_hallusionbench_groups(tmp_path):
    """Figures of VD and VS merged because both have "ocr"; Unknown mapped to "No", which is more often right."""
    bench = HallusionBench(write_tsv(tmp_path / "HallusionBench.tsv", hallusion_rows()), rows=4)
    said = {
        "VD_ocr_1_0_0_0": "Yes",
        "VD_ocr_1_0_1_0": "no",
        "VD_ocr_1_0_1_1": "unclear",
        "VS_ocr_1_0_1_0": "No, it is not.",
    }
    score = scores(bench, answered(bench, said))
    # Figures: VD 0 right, VD 1 one of two, VS 1 right. Questions: VD 0 right on both figures, VD 1 wrong, VS 0 right.
    assert score["aAcc"] == 75 and score["fAcc"] == pytest.approx(200 / 3) and score["qAcc"] == pytest.approx(200 / 3)
    assert score["mean_of_three"] == pytest.approx((75 + 400 / 3) / 3) and score["aAcc_VS"] == 100
    assert list(bench.unit()) == ["kind", "set"]


def test_hallusionbench_official_file(tmp_path):
    """Questions without a figure among the 951, or answers "1" and "0" compared with yes and no."""
    file = write_hallusionbench(tmp_path)
    (item,) = HallusionBench(file, rows=1).items()
    assert told(HallusionBench(str(tmp_path), rows=1)) == [(item.item_id, item.pictures[0].key)]
    assert item.item_id == "VS_chart_1_0_1_0" and item.answer == "yes"
    assert item.groups["kind"] == "VS_chart" and item.groups["figure"] == "1"


# --- OCRBench -------------------------------------------------------------------------------------------------
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
    assert score["full_response"] == 75 and score["final_span"] == 50
    assert score["final_span_key_information_extraction"] == 100
    assert (score["final_span_text_recognition"], score["full_response_text_recognition"]) == (0, 100)
    assert score["final_span_handwritten_mathematical_expression_recognition"] == 0
    item = next(iter(bench.items()))
    assert bench.judge(item, said["1"], True, "vlmevalkit").correct == 1
    cut = bench.judge(item, "Centre Ville", False, "locus")
    assert cut.correct == 0 and cut.extracted.reading is Reading.TRUNCATED and cut.columns["full_response"] == 1


def test_ocrbench_parquet_tells_formulas_by_their_source(tmp_path):
    """Spaces in a formula counted as errors."""
    row = {"dataset": "HME100k", "question": "Write it.", "question_type": "x", "answer": ["a b"], "image": hf_image()}
    bench = OCRBench(write_parquet(tmp_path / "o.parquet", [row]), rows=1)
    (item,) = bench.items()
    assert item.answer == ("a b",)
    assert bench.judge(item, "ab", True, "locus").correct == 1 and bench.judge(item, "AB", True, "locus").correct == 0


# --- BabyVision -----------------------------------------------------------------------------------------------
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
        ("c, A", "A,C", "Which are all the same?", True), ("c, A", "A,C", "Which?", False), ("", "5", "", False),
    ],
)  # fmt: skip
def test_babyvision_blanks(answer, gold, question, right):
    """Places told by their digits alone, sets compared in order, order dropped where it matters."""
    assert same_blank(answer, gold, question) is right


# --- MathVision -----------------------------------------------------------------------------------------------
def test_mathvision(tmp_path):
    """Picture tags that meet the model's own, options that are only letters printed, values refused for letters."""
    path = write_tsv(tmp_path / "M.tsv", mathvision_rows())
    bench = MathVision(path, rows=3)
    first, second, third = bench.items()
    assert first.prompt.endswith("\nHow much?\n(A) $\\frac{1}{2}$\n(B) 2\n(C) 15\n(D) 4\n(E) 5")
    assert second.prompt.endswith("\nWhich?") and second.options["C"] == "C" and third.options == {}
    said = {"1": r"It is \boxed{0.5}", "2": r"\boxed{C}", "3": r"\boxed{60\text{ cm}}"}
    score = scores(bench, answered(bench, said))
    assert score["accuracy_rule"] == score["accuracy_choice_rule"] == score["accuracy_free_rule"] == 100
    assert bench.judge(third, "The answer is 60.", True, "vlmevalkit").correct == 0
    assert bench.judge(third, "60", True, "vlmevalkit").correct == 1
    assert bench.judge(third, r"\boxed{61}", True, "locus").correct == 0


def test_mathvision_choices_that_are_tags(tmp_path):
    """Five official rows have nothing but picture tags for choices: in the prompt they meet the model's own token."""
    choices = str([f"<image{number}>" for number in range(2, 7)])
    row = {"index": 1, "question": "Which graph?\n\n<image1>", "choices": choices, "answer": "B", "image": encoded()}
    (item,) = MathVision(write_tsv(tmp_path / "M.tsv", [row]), rows=1).items()
    assert "<image" not in item.prompt and "(A)" not in item.prompt and list(item.options.values()) == list("ABCDE")


def test_mathvision_parquet(tmp_path):
    """The column ``image`` is a path there, and the picture is in another."""
    row = {
        "id": "7",
        "question": "Q",
        "options": [],
        "image": "images/7.jpg",
        "decoded_image": hf_image(),
        "answer": "1.50",
    }
    row |= {"level": 2, "subject": "algebra", "solution": None}
    bench = MathVision(write_parquet(tmp_path / "m.parquet", [row]), rows=1)
    (item,) = bench.items()
    assert item.item_id == "7" and item.groups["level"] == "2" and item.pictures[0].open().size == (40, 30)
    assert bench.judge(item, r"\boxed{3/2}", True, "locus").correct == 1


# --- MathVerse ------------------------------------------------------------------------------------------------
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
    assert bench.judge(items["7"], "30", True, "vlmevalkit").correct == 0, "quick match is of texts"
    assert bench.judge(items["7"], "30°", True, "vlmevalkit").correct == 1
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
    assert bench.judge(item, rf"\boxed{{{gold}}}", True, "locus").correct == 1
    if gold == "C, D":
        assert bench.judge(item, r"\boxed{C}", True, "locus").correct == 0, "one of two is not the answer"


# --- We-Math --------------------------------------------------------------------------------------------------
def test_wemath_scores(tmp_path):
    """Groups told by their key, composites of a lacking step left out, loose mastery mixed up with strict."""
    rows = [row for row in wemath_rows() if (row["ID"], row["key"]) != ("2steps_4", "2steps_2")]
    bench = WeMath(write_parquet(tmp_path / "w.parquet", rows), groups=None, rows=18)
    right = {
        *("2:2steps_0:2steps_1", "2:2steps_0:2steps_2", "2:2steps_0:2steps_multi"),  # mastery
        *("2:2steps_1:2steps_1", "2:2steps_1:2steps_2"),  # inadequate generalisation
        *("2:2steps_2:2steps_1", "2:2steps_2:2steps_multi"),  # loose mastery, strictly rote
        "2:2steps_3:2steps_multi",  # rote either way
        *("2:2steps_4:2steps_1", "2:2steps_4:2steps_multi"),  # its second step is lacking: as if wrong
        *("3:3steps_0:3steps_1", "3:3steps_0:3steps_2"),  # insufficient knowledge
    }
    table = answered(bench, dict.fromkeys(right, "The answer is B."))
    score = scores(bench, table)
    assert score["strict"] == pytest.approx(100 * 1.5 / 6) and score["loose"] == pytest.approx(100 * 3.5 / 6)
    classes = ("insufficient", "inadequate", "mastery", "rote")
    assert [score[f"{name}_strict"] for name in classes] == pytest.approx([100 / 6, 100 / 6, 100 / 6, 50])
    assert [score[f"{name}_loose"] for name in classes] == pytest.approx([100 / 6, 100 / 6, 50, 100 / 6])
    assert score["rote_rate_strict"] == 75 and score["rote_rate_loose"] == 25
    # 13 steps and 6 composites: the lacking step is among them.
    assert score["one_step"] == pytest.approx(100 * 8 / 13) and score["accuracy"] == pytest.approx(100 * 12 / 19)
    assert score["two_steps"] == 80 and score["three_steps"] == 0


def test_wemath_lacking_groups_lower_the_score(tmp_path):
    """99.3 % from six groups: the official tables drop what is lacking from every class."""
    bench = WeMath(write_parquet(tmp_path / "w.parquet", wemath_rows()), rows=19)
    score = scores(bench, answered(bench, {item.item_id: r"\boxed{B}" for item in bench.items()}))
    assert score["strict"] == pytest.approx(100 * 6 / 525) and score["insufficient_strict"] == pytest.approx(
        100 * 519 / 525
    )
    assert score["accuracy"] == pytest.approx(100 * 19 / 1740) and score["one_step"] == pytest.approx(100 * 13 / 1215)
    assert score["two_steps"] == pytest.approx(100 * 5 / 360) and score["three_steps"] == pytest.approx(100 / 165)


def test_wemath_resamples_of_groups(tmp_path):
    """A group that is drawn twice counts twice, in every class and denominator."""
    bench = WeMath(write_parquet(tmp_path / "w.parquet", wemath_rows()), groups=None, rows=19)
    right = {item.item_id: "B" for item in bench.items() if item.groups["group"] == "2:2steps_0"}
    table = answered(bench, right)
    weights = np.stack([(table["group"] == "2:2steps_0") * 2.0 + (table["group"] == "3:3steps_0") * 1.0, np.ones(19)])
    assert bench.statistics()["strict"](table, weights).tolist() == pytest.approx([200 / 3, 100 / 6])
    assert bench.statistics()["accuracy"](table, weights).tolist() == pytest.approx([60, 300 / 19])


def test_wemath_options():
    """Options cut at a semicolon of their own."""
    assert split_options("A. 3; 4;B. x; C. No correct answer") == {"A": "3; 4", "B": "x", "C": "No correct answer"}
    assert split_options("") == {}


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("A. ①;B．②;C. ③; D. none", ["①", "②", "③", "none"]),
        ("A. 45° B. 60° ;C. 120°; D. none", ["45°", "60°", "120°", "none"]),
        ("A. to get Shape ;C.; B. down to get Shape ;C.; C. to get ;C.; D. none",
         ["to get Shape ;C.", "down to get Shape ;C.", "to get ;C.", "none"]),
        ("A. angle ∠AB;E.; B. angle ∠AB;C.; C. no; D. maybe; E. none",
         ["angle ∠AB;E.", "angle ∠AB;C.", "no", "maybe", "none"]),
    ],
)  # fmt: skip
def test_wemath_options_of_the_official_file(text, options):
    """Options lost, or in disorder, at a full-width dot, a lacking semicolon, or a point that is named after one."""
    assert split_options(text) == dict(zip("ABCDE", options, strict=False))


def test_wemath_headline(tmp_path):
    """The paper's 64.4 set beside a strict score, 30 points lower for the same policy."""
    bench = WeMath(write_parquet(tmp_path / "w.parquet", wemath_rows()), rows=19)
    assert bench.headline == "accuracy" and WeMath(bench.path, single="strict").headline == "strict"
    assert next(bench.items()).prompt.endswith("\nE. No correct answer\n"), "VLMEvalKit has no instruction here"
    table = answered(bench, {})
    of = {name: int(statistic.rows(table).sum()) for name, statistic in bench.statistics().items()}
    assert (of["accuracy"], of["one_step"], of["two_steps"], of["three_steps"]) == (19, 13, 5, 1)
    with pytest.raises(LocusError, match="single=mean of wemath: pass one of strict, loose, accuracy"):
        WeMath(bench.path, single="mean")


def test_wemath_tsv_and_official_extraction(tmp_path):
    """Options of columns; the official rule needs "Answer", which only the template asks for."""
    row = {"index": 0, "image": encoded(), "question": "Q?", "A": "3", "B": "None", "C": "", "answer": "B"}
    row |= {"ID": 1, "key": "2steps_1"}
    bench = WeMath(write_tsv(tmp_path / "W.tsv", [row]), template=True, rows=1)
    (item,) = bench.items()
    assert item.options == {"A": "3", "B": "None"} and item.prompt.endswith("<Answer>: <<your option>>")
    assert "B. None\n\nRegarding the format" in item.prompt
    assert bench.judge(item, "<Thought process>: <<x>> <Answer>: <<B>>", True, "vlmevalkit").correct == 1
    assert bench.judge(item, r"\boxed{B}", True, "vlmevalkit").correct == 0
    assert bench.judge(item, r"\boxed{B}", True, "locus").correct == 1


# --- LogicVista -----------------------------------------------------------------------------------------------
def test_logicvista(tmp_path):
    """Several letters compared as text, in part, or one by one; a number refused; the empty row asked."""
    write_logicvista(tmp_path)
    bench = LogicVista(str(tmp_path / "dataset.json"), rows=3)
    assert told(LogicVista(str(tmp_path), rows=3)) == told(bench)
    said = {"v1_0": r"\boxed{D, B}", "v1_1": r"\boxed{A, C}", "v1_2": r"\boxed{3}", "v1_382": "A"}
    score = scores(bench, answered(bench, said))
    assert score["accuracy_rule"] == pytest.approx(200 / 3) and score["accuracy_spatial_rule"] == 0
    assert np.isnan(score["accuracy_mechanical_rule"])
    whole = LogicVista(str(tmp_path / "dataset.json"), unscorable=True, rows=4)
    assert scores(whole, answered(whole, said))["accuracy_rule"] == 50
    assert bench.judge(next(bench.items()), r"\boxed{B}", True, "locus").correct == 0, "a part is not the answer"
    with pytest.raises(LocusError, match="unknown extractor 'mine'"):
        bench.judge(next(bench.items()), "B", True, "mine")


def test_logicvista_parquet(tmp_path):
    """Another name of the id column: rows would be told by their place in the file."""
    row = {"id": "v1_7", "question": "Which?", "answer": "C", "skill": "spatial", "image": hf_image()}
    (item,) = LogicVista(write_parquet(tmp_path / "l.parquet", [row]), rows=1).items()
    assert item.item_id == "v1_7" and item.groups["skill"] == "spatial"


def test_logicvista_broken_file(tmp_path):
    """A traceback of json for a file that was cut off."""
    (tmp_path / "dataset.json").write_text('{"v1_0": ')
    with pytest.raises(LocusError, match="dataset.json: is no LogicVista"):
        list(LogicVista(str(tmp_path / "dataset.json")).items())


# --- The judge ------------------------------------------------------------------------------------------------
def test_judge_asks_once_and_keeps_the_reply(tmp_path, monkeypatch):
    """A second scoring that pays again, a sampled verdict, a key that is not sent."""
    monkeypatch.setenv("A_KEY", "secret")
    cache = tmp_path / "new" / "judge.jsonl"
    with endpoint("True") as (url, seen):
        judge = ChatJudge(url, "m", str(cache), key_variable="A_KEY")
        assert judge.equal("Q?", "60", "sixty") and judge.equal("Q?", "60", "sixty")
        assert ChatJudge(url, "m", str(cache)).equal("Q?", "60", "sixty")
        (request,) = seen
    assert (
        request["path"] == "/v1/chat/completions" and request["temperature"] == 0 and request["key"] == "Bearer secret"
    )
    assert "sixty" in request["messages"][-1]["content"] and "secret" not in cache.read_text()


def test_judge_tries_again_and_outlives_a_cut_cache(tmp_path):
    """A run that ends at the first busy server, or at a line that an earlier run was killed in."""
    cache = tmp_path / "judge.jsonl"
    cache.write_text('{"key": "half')
    with endpoint(503, b"no json", 429, "False.") as (url, seen):
        assert not ChatJudge(url, "m", str(cache), wait=0).equal("Q?", "60", "61")
        assert len(seen) == 4
        assert not ChatJudge(url, "m", str(cache), wait=0).equal("Q?", "60", "61") and len(seen) == 4


@pytest.mark.parametrize(("status", "asked"), [(500, 3), (401, 1)])
def test_judge_gives_up_with_one_error(tmp_path, status, asked):
    """Answers counted wrong because the server was away; a refused key tried again and again."""
    with endpoint(status) as (url, seen):
        judge = ChatJudge(url, "m", str(tmp_path / "judge.jsonl"), tries=3, wait=0)
        with pytest.raises(LocusError, match=f"judge m at {url}.*status {status}.*check judge.url"):
            judge.equal("Q?", "60", "61")
    assert len(seen) == asked and not (tmp_path / "judge.jsonl").exists()


def test_judge_without_key_or_address(tmp_path):
    """A file read as if it were a server, and a missing key found after all tries."""
    with pytest.raises(LocusError, match="judge.url"):
        ChatJudge("file:///etc", "m", str(tmp_path / "j"))
    with pytest.raises(LocusError, match="NO_SUCH_KEY"):
        ChatJudge("http://localhost:1", "m", str(tmp_path / "j"), key_variable="NO_SUCH_KEY").equal("Q", "1", "2")


def test_judge_and_rule_stand_side_by_side(tmp_path):
    """A judge's score under the rule's name; a response that was cut off sent to the judge all the same."""
    path = write_parquet(tmp_path / "b.parquet", [baby_rows()[0] | {"image": hf_image()}])
    with endpoint("True") as (url, seen):
        bench = BabyVision(path, judge_model=ChatJudge(url, "m", str(tmp_path / "judge.jsonl")), rows=1)
        (item,) = bench.items()
        verdict = bench.judge(item, "<think>B?</think>The red one, surely", True, "locus")
        cut = bench.judge(item, "The red", False, "locus")
    table = pd.DataFrame([{"correct": verdict.correct, **verdict.columns}])
    assert bench.headline == "accuracy_judge" and verdict.correct == 1 and cut.correct == 0 and len(seen) == 1
    assert "A (red)" in seen[0]["messages"][-1]["content"] and "B?" not in seen[0]["messages"][-1]["content"]
    assert {"accuracy_judge", "accuracy_rule"} <= set(bench.statistics())
    assert scores(bench, table)["accuracy_judge"] == 100
