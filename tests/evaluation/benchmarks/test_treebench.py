"""TreeBench: letters by two rules, and boxes by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from locus.errors import LocusError
from locus.evaluation import scores as scoring
from locus.evaluation.benchmarks.treebench import TreeBench
from locus.evaluation.predictions import Prediction
from locus.evaluation.reading.extractors import LOCUS, VLMEVALKIT
from locus.types import Frame, View
from tests.support.benchmark_files import answered, scores, verdict_on, write_tsv
from tests.support.benchmark_files_seeing import treebench_rows
from tests.support.paths import CONF


def bench_of(tmp_path, rows=None) -> TreeBench:
    return TreeBench(write_tsv(tmp_path / "TreeBench.tsv", rows or treebench_rows()), rows=2, box_frame="file")


def test_treebench_items(tmp_path):
    """The default instruction in place of the one that VLMEvalKit has for it; boxes as width and height."""
    first, second = bench_of(tmp_path).items()
    directly = "Answer with the correct option's letter directly. \n"
    assert first.prompt == f"Question: Which?\nOptions:\nA. red\nB. blue\n{directly}"
    assert [box.xyxy for box in second.evidence] == [(0, 0, 10, 10), (20, 10, 40, 30)]
    assert (second.groups["half"], second.groups["ability"]) == ("reasoning", "Ordering")
    wrong = treebench_rows()[0] | {"target_instances": "[[50, 0, 60, 10]]"}
    with pytest.raises(LocusError, match=r"row 1: target_instances .* are not boxes in 40 x 30 pixels"):
        list(bench_of(tmp_path, [wrong]).items())


def test_treebench_scores(tmp_path):
    """The IoU of the first box in place of the nearest; the mean over boxes written in place of over targets."""
    bench = bench_of(tmp_path)
    told = [
        "<think>Here <box>[30,20,40,30]</box> or <box>[0,0,20,10]</box></think><answer>B</answer>",  # IoU of 1/2
        "<box>[20, 10, 40, 30]</box> A",  # one of two targets, wholly
    ]
    found = scores(bench, answered(bench, told))
    assert (found["accuracy"], found["ocr"], found["ordering"], found["reasoning"]) == (50, 100, 0, 0)
    assert found["mean_iou"] == pytest.approx(50)


def test_treebench_boxes_and_letters_of_the_kit(tmp_path):
    """Boxes of another frame compared with pixels; in VLMEvalKit's column its own rules, faults included."""
    bench = bench_of(tmp_path)
    item = next(iter(bench.items()))
    half = View(Frame.PROCESSED, (20, 15))  # the policy saw the picture at half its size
    said = "<box>[0,0,10,10]</box> The answer is not Easy: B"
    ours, kit = verdict_on(bench, item, said, view=half), verdict_on(bench, item, said, VLMEVALKIT, view=half)
    assert ours.columns["iou"] == 1 and kit.columns["iou"] == pytest.approx(0.25), "the kit takes numbers for pixels"
    assert kit.extracted.answer == "E" and ours.extracted.answer == "B"
    assert verdict_on(bench, item, "Best option: C", VLMEVALKIT).extracted.answer == "C"
    assert verdict_on(bench, item, "The answer is b", VLMEVALKIT).extracted.answer is None, "the space stays"
    spaced = "<box>[0, 0, 10, 10]</box> B"
    assert verdict_on(bench, item, spaced, VLMEVALKIT, view=half).columns["iou"] == 0, "nor does it know spaces"


def test_treebench_boxes_in_the_frame_of_the_policy(tmp_path):
    """Thousandths taken for pixels: 27 for perfect boxes; and a score of boxes whose frame nobody says."""
    bench = bench_of(tmp_path)
    item = next(iter(bench.items()))  # the target is 20 x 20 of 40 x 30 pixels
    said = Prediction(item.item_id, "<box>[0,0,500,667]</box> B")
    for frame, iou in (("unit1000", 1), ("processed", 0), (None, None)):
        verdict = scoring.verdict_of(replace(bench, box_frame=frame), item, said, LOCUS)
        assert verdict.correct == 1, "letters are scored without a frame, or a size of the processed one"
        found = verdict.columns["iou"]
        assert math.isnan(found) if iou is None else found == pytest.approx(iou, abs=0.01)
    shares = Prediction(item.item_id, "<box>[0, 0.0, 0.5, 0.667]</box> B", frame="unit")
    assert scoring.verdict_of(bench, item, shares, LOCUS).columns["iou"] == pytest.approx(1, abs=0.01)
    unknown = replace(bench, box_frame=None)
    made = scoring.scores(unknown, scoring.judged(unknown, unknown.items(), {item.item_id: said}), resamples=20)
    assert made["scores"]["locus"]["mean_iou"]["value"] is None and made["scores"]["locus"]["accuracy"]["value"] == 50
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("score", ["benchmark=treebench", "backbone.frame=unit1000"])
    assert instantiate(config.benchmark).frame == "unit1000"
