"""From predictions to scores: counts, both extractors, and intervals that know which items belong together."""

from __future__ import annotations

import csv
import inspect
import json
from dataclasses import replace
from pathlib import Path

import pytest
from hydra.utils import instantiate

from locus.boxes import iou
from locus.errors import LocusError
from locus.evaluation.benchmark import TaskBenchmark
from locus.evaluation.benchmarks.choice import options_in
from locus.evaluation.benchmarks.logicvista import listed_options
from locus.evaluation.benchmarks.refcoco import RefCOCO
from locus.evaluation.benchmarks.scenes import SceneBenchmark, SceneQuestions
from locus.evaluation.benchmarks.treebench import TreeBench
from locus.evaluation.benchmarks.vstar import VStar
from locus.evaluation.judge import ChatJudge
from locus.evaluation.maths.equality import equal
from locus.evaluation.predictions import Prediction
from locus.evaluation.reading.letters import extract_letter
from locus.evaluation.scores import add_row, comparison, judged, read_rows, rule_files, scores, write_scores
from locus.scenes.questions import colour, grounding, shape
from locus.scenes.source import SceneSource
from locus.tasks.answers import parse_answer
from locus.tasks.cue_search.reward import BoxReward
from locus.types import Frame, View
from tests.support.benchmark_files_other import refer
from tests.support.vstar_six import said, write_vstar_six


@pytest.fixture
def vstar(tmp_path) -> Path:
    return write_vstar_six(tmp_path)


def scenes(frame: str, *kinds: object) -> SceneQuestions:
    source = SceneSource(1, 64, 64, [2, 3], [10, 16], seed=7)
    return SceneQuestions("scenes", SceneBenchmark(source, kinds, 3), frame)


# --- Scores ---------------------------------------------------------------------------------------------------
def test_counts(vstar):
    """Missing, cut and unread responses are wrong, and each is counted as what it is."""
    benchmark = VStar(str(vstar), rows=6)
    given = {
        "0": Prediction("0", "A"),
        "1": Prediction("1", "A"),  # wrong
        "2": Prediction("2", "I see a red thing and", finished=False),
        "3": Prediction("3", "no idea"),
        "5": Prediction("5", "The answer is B."),
    }
    found = judged(benchmark, benchmark.items(), given)
    assert (found.n, found.n_missing, found.n_truncated) == (6, 1, 1)
    assert found.n_unparsed["locus"] == 2
    made = scores(benchmark, found, resamples=50)
    assert made["headline"]["name"] == "accuracy" and made["headline"]["value"] == pytest.approx(100 * 2 / 6)
    assert made["scores"]["locus"]["direct_attributes"]["value"] == pytest.approx(25)
    assert made["scores"]["locus"]["relative_position"]["value"] == pytest.approx(50)
    assert set(made["scores"]) == {"locus", "vlmevalkit"}
    low, high = made["headline"]["low"], made["headline"]["high"]
    assert low == high == pytest.approx(100 / 3), "a third of either picture's questions is right: no resample differs"
    json.dumps(made, allow_nan=False)


def test_no_number_is_null():
    """JSON has no NaN: a category without any row must not make the file unreadable."""
    benchmark = scenes("unit1000", colour, grounding)
    items = [item for item in benchmark.items() if item.groups["kind"] == "colour"]
    made = scores(benchmark, judged(benchmark, items, {}), resamples=10)
    assert made["scores"]["locus"]["grounding"]["value"] is None
    json.dumps(made, allow_nan=False)


def test_a_headline_without_a_value_is_said(tmp_path, caplog):
    """A null in scores.json, an empty cell in scores.csv, and not a word, after hours of answering."""
    benchmark = RefCOCO(str(refer(tmp_path)), "refcoco", frame="file", splits=("val", "testB"))
    items = list(benchmark.items())
    write_scores(tmp_path, benchmark, judged(benchmark, items, {}), 10)
    assert not caplog.messages
    write_scores(tmp_path, benchmark, judged(benchmark, items[:2], {}), 10)
    assert caplog.messages == ["refcoco: its score mean is null: testB, iou_mean, iou_testB have no items"]


def test_scenes_have_the_number_that_is_asked_for():
    """``benchmark.rows`` obeyed by every other benchmark and not looked at here."""
    benchmark = scenes("unit1000", colour, shape)
    assert len(list(replace(benchmark, rows=6).items())) == 6
    with pytest.raises(LocusError, match=r"scenes has 7 examples, found 6: .*benchmark\.rows"):
        next(replace(benchmark, rows=7).items())


def test_predictions_of_another_benchmark(vstar):
    """Their ids would be missing from the items, and all scores 0."""
    benchmark = VStar(str(vstar), rows=6)
    with pytest.raises(LocusError, match="1 of 2 predictions are of no item of vstar, such as id pope_1"):
        judged(benchmark, benchmark.items(), {**said("A"), "pope_1": Prediction("pope_1", "yes")})


def test_boxes_are_converted_from_the_size_that_was_seen():
    """A true box in the processed frame of an enlarged picture earns nothing when it is read in the file's."""
    for frame, factor in (("processed", 1.5), ("unit1000", 1000 / 64), ("file", 1.0)):
        benchmark = scenes(frame, grounding)
        given = {}
        for item in benchmark.items():
            numbers = [round(value * factor, 1) for value in item.answer.xyxy]
            given[item.item_id] = Prediction(item.item_id, f"<answer>{numbers}</answer>", size=(96, 96))
        made = scores(benchmark, judged(benchmark, benchmark.items(), given), resamples=10)
        assert made["headline"]["value"] == 100 and made["scores"]["locus"]["mean_iou"]["value"] > 97, frame
    with pytest.raises(LocusError, match="whose size the predictions do not give"):
        benchmark = scenes("processed", grounding)
        bare = {name: Prediction(name, one.response) for name, one in given.items()}
        judged(benchmark, benchmark.items(), bare)


def test_questions_about_one_scene_are_drawn_together():
    """Each kind is asked of the same scenes: taken for independent, they make the interval too narrow."""
    benchmark = scenes("unit1000", colour, shape)
    items = list(benchmark.items())
    named = {(item.groups["scene"], item.pictures[0].source) for item in items}
    assert len(items) == 6 and len(named) == len(dict(named)) == len({source for _, source in named}) < 6
    said = {item.item_id: Prediction(item.item_id, f"<answer>{item.answer}</answer>") for item in items}
    first = [said[item.item_id] for item in items if item.groups["scene"] == items[0].groups["scene"]]
    found = judged(benchmark, items, {one.id: one for one in first})
    assert len(first) == 2 and benchmark.unit() == ("scene",)
    assert scores(benchmark, found)["headline"]["high"] == 100, "a resample may be the one scene, again and again"


def test_crops_of_one_image_are_drawn_together(compose_app):
    """Several crops of one image taken for independent examples."""
    config = compose_app("evaluate", ["benchmark=cue_search", "benchmark.rows=60", "benchmark.source.count=100"])
    benchmark = instantiate(config.benchmark, _convert_="all")
    items = list(benchmark.items())
    named = {(item.groups["image"], item.pictures[0].source) for item in items}
    assert len(named) == len(dict(named)) == len({source for _, source in named}) < len(items)
    assert benchmark.unit() == ("image",)


# --- Two policies ---------------------------------------------------------------------------------------------
def test_comparison(vstar):
    """By item, not by score: equal scores on other items are two lost and two won."""
    benchmark = VStar(str(vstar), rows=6)
    found = [judged(benchmark, benchmark.items(), said(letters)) for letters in ("ABAAAA", "BAABAB")]
    made = comparison(benchmark, *found, resamples=20)["locus"]
    assert (made["lost"], made["won"], made["mcnemar_p"]) == (2, 2, 1.0)
    assert made["changes"]["accuracy"]["value"] == pytest.approx(0)
    assert made["changes"]["relative_position"]["value"] == pytest.approx(50)
    half = judged(benchmark, list(benchmark.items())[:3], {})
    with pytest.raises(LocusError, match="answered other items"):
        comparison(benchmark, found[0], half)


def test_unanswered_items_are_not_errors(vstar):
    """The first 2 of 6 predictions against all of them: four items that one policy is said to have been wrong on."""
    benchmark = VStar(str(vstar), rows=6)
    short, whole = (judged(benchmark, benchmark.items(), said(letters)) for letters in ("AB", "ABAAAA"))
    with pytest.raises(LocusError, match=r"4 and 0 of the 6 items .*limit=N"):
        comparison(benchmark, short, whole)
    assert comparison(benchmark, short, short, resamples=20)["locus"]["won"] == 0


# --- Small parts ----------------------------------------------------------------------------------------------
def test_view_of_a_prediction():
    """The frame that a prediction names counts before the one that was asked for; an unknown one is refused."""
    assert Prediction("0", "", frame="processed", size=(96, 64)).view("file") == View(Frame.PROCESSED, (96, 64))
    assert Prediction("0", "").view("unit1000") == View(Frame.UNIT1000)
    with pytest.raises(LocusError, match="unknown frame 'pixels'"):
        Prediction("0", "", frame="pixels").view("file")


def test_rows_of_the_csv(tmp_path):
    """A second scoring takes the place of the first, so that the others are still compared with the same policy; commas
    in a folder's name stay in one cell."""
    file = tmp_path / "scores.csv"
    for value, benchmark in ((1, "a"), (2, "b"), (3, "a")):
        row = {"policy": 'x, "y"', "benchmark": benchmark, "value": value, "paper_base": None}
        add_row(file, row, ("policy", "benchmark"))
    with file.open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    assert [(row["policy"], row["benchmark"], row["value"]) for row in rows] == [
        ('x, "y"', "a", "3"),
        ('x, "y"', "b", "2"),
    ]


def test_rows_of_a_launch_are_in_the_order_of_its_jobs(tmp_path):
    """The base of comparisons that is whichever policy ends first; one that another launch puts behind."""
    file = tmp_path / "scores.csv"

    def added(policy: str, job: str | None = None) -> str:
        add_row(file, {"policy": policy, "job": job}, ("policy",))
        return "".join(row["policy"] for row in read_rows(file))

    assert added("x") == "x"
    assert [added(policy, f"2026-01-01 {job:06d}") for policy, job in (("b", 9), ("c", 10), ("a", 2))][-1] == "xabc"
    assert added("d", "2026-01-02 000001") == "xabcd"
    assert added("a", "2026-01-02 000000") == "xabcd" and added("b") == "xabcd", "each stays before the later ones"
    assert added("d", "2026-01-03 000000") == "xabcd"
    assert added("a", "2026-01-03 000001") == "xdbca", "-m policy=d,a"


def test_the_version_is_of_all_rules():
    """Verdicts of other rules compared with each other, since some of them lie with their benchmarks."""
    rules = (extract_letter, equal, listed_options, options_in, TreeBench, TaskBenchmark, ChatJudge)
    rules += (parse_answer, BoxReward, iou)
    assert {inspect.getfile(rule) for rule in rules} <= set(map(str, rule_files()))
