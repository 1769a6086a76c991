"""TreeBench: letters by two rules, and boxes by hand."""

from __future__ import annotations

import pytest

from locus.errors import LocusError
from locus.evaluation.benchmarks.treebench import TreeBench
from locus.evaluation.reading.extractors import VLMEVALKIT
from locus.types import Frame, View
from tests.support.benchmark_files import answered, scores, verdict_on, write_tsv
from tests.support.benchmark_files_seeing import treebench_rows


def bench_of(tmp_path, rows=None) -> TreeBench:
    return TreeBench(write_tsv(tmp_path / "TreeBench.tsv", rows or treebench_rows()), rows=2)


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
    spaced = "<box>[0, 0, 10, 10]</box> B"
    assert verdict_on(bench, item, spaced, VLMEVALKIT, view=half).columns["iou"] == 0, "nor does it know spaces"
