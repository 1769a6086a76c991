"""RefCOCO: four forms of file give the same boxes, and boxes are compared in the frame they are written in."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from locus.errors import LocusError
from locus.evaluation.benchmark import Item
from locus.evaluation.benchmarks.refcoco import RefCOCO
from locus.evaluation.benchmarks.refcoco_forms import split_name
from locus.evaluation.reading.extractors import VLMEVALKIT
from locus.evaluation.reading.responses import Reading
from locus.types import Frame, View
from tests.support.benchmark_files import scores, verdict_on, write_parquet
from tests.support.benchmark_files_other import GOLD, XYWH, jpeg, jxu124, refer, vlmevalkit

UNC = ("val", "testA", "testB")
HELD = ("val", "testB")
"""Of `refer`'s folder."""


def refcoco(path: str | Path, frame: str = "unit1000", splits: Sequence[str] = HELD, **more: Any) -> RefCOCO:
    return RefCOCO(str(path), "refcoco", frame=frame, splits=splits, **more)


# --- Forms of file --------------------------------------------------------------------------------------------
def test_refer_files(tmp_path):
    """One item a reference instead of a sentence, training sentences among them, widths taken for corners."""
    items = list(refcoco(refer(tmp_path), rows=4).items())
    assert [item.item_id for item in items] == ["val_1_0", "val_1_1", "testB_3_0", "testB_3_1"]
    assert items[0].answer.xyxy == GOLD and items[0].answer.frame is Frame.FILE
    assert (items[0].answer.width, items[0].answer.height) == (640, 480) and items[0].evidence == (items[0].answer,)
    assert items[1].prompt == (
        'Please find the region that this sentence describes: "a cat". Output its bounding box as [x1, y1, x2, y2] '
        "in relative coordinates from 0 to 1000."
    )
    assert "in pixel coordinates" in next(refcoco(tmp_path, "processed", rows=4).items()).prompt


def test_jxu124_boxes_are_of_the_annotation(tmp_path):
    """``bbox`` is xyxy there: read as xywh, each box would be twice too large. Its ``test`` is testA."""
    items = list(refcoco(jxu124(tmp_path), splits=("val", "testA"), images=str(tmp_path), rows=2).items())
    assert [item.groups["split"] for item in items] == ["testA", "val"] and items[0].answer.xyxy == GOLD
    assert [split_name("test", ("val", "test")), split_name("test-A", ())] == ["test", "testA"]


def test_lmms_splits_that_are_no_known_splits(tmp_path):
    """8,811 references called val, 5,000 of them of another set, published beside UNC's 3,811."""
    row = {
        "question_id": "9",
        "answer": ["left cat", "a cat"],
        "bbox": XYWH,
        "image": {"bytes": jpeg(), "path": "a.jpg"},
    }
    for split in ("val", "test", "testA"):
        write_parquet(tmp_path / f"{split}-00000-of-00001.parquet", [row | {"question": "Where?"}])
    items = list(refcoco(tmp_path, splits=("testA",), rows=2).items())
    assert [item.item_id for item in items] == ["testA_9_0", "testA_9_1"] and items[0].answer.xyxy == GOLD
    assert len(list(refcoco(tmp_path, splits=("lmms_val", "lmms_test"), rows=4).items())) == 4


def test_splits_without_a_sentence(tmp_path):
    """10,752 sentences of lmms-lab's files answered, and no score: their val is another, and UNC's has none there."""
    refer(tmp_path)
    for splits, lacking in (((*HELD, "testA"), "testA"), (("testC",), "testC")):
        with pytest.raises(LocusError, match=rf"no sentence of the splits {lacking}; .*benchmark\.splits="):
            list(refcoco(tmp_path, splits=splits, rows=None).items())
    assert len(list(islice(refcoco(tmp_path, splits=UNC).items(), 3))) == 3, "of the first items nobody knows"


def test_one_split_by_its_name(tmp_path):
    """``benchmark.splits=testB`` taken for the splits t, e, s, ...: as many scores, all of them null."""
    benchmark = refcoco(refer(tmp_path), splits="testB", rows=2)
    assert [item.groups["split"] for item in benchmark.items()] == ["testB", "testB"]
    assert list(benchmark.statistics()) == ["mean", "testB", "iou_mean", "iou_testB"]


def test_vlmevalkit_rows_of_the_other_benchmarks(tmp_path):
    """RefCOCO+ and RefCOCOg counted as RefCOCO, and a prompt for another family of models put to the policy."""
    path = vlmevalkit(tmp_path / "RefCOCO.tsv")
    (item,) = refcoco(path, splits=("testA",), rows=1).items()
    assert item.groups["split"] == "testA" and item.answer.xyxy == pytest.approx(GOLD)
    assert '"left cat"' in item.prompt and "<ref>" not in item.prompt
    (other,) = RefCOCO(path, "refcocog", rows=1, frame="file", splits=("val",)).items()
    assert '"g cat"' in other.prompt and other.groups["picture"] == item.groups["picture"]


def test_boxes_that_are_not_in_their_picture(tmp_path):
    """A file whose boxes are corners where widths are expected scores every policy near zero, without a word."""
    row = {"question_id": "9", "answer": ["cat"], "bbox": [600.0, 400.0, 639.0, 479.0]}
    path = write_parquet(tmp_path / "testA-0.parquet", [row | {"image": {"bytes": jpeg(), "path": "a.jpg"}}])
    with pytest.raises(LocusError, match=r"testA-0.parquet, row 1: the box .* is not in its 640x480 picture"):
        list(refcoco(path, splits=UNC).items())


def test_refer_annotation_missing(tmp_path):
    """A KeyError for instances of another year."""
    refer(tmp_path)
    (tmp_path / "instances.json").write_text(json.dumps({"images": [], "annotations": []}))
    with pytest.raises(LocusError, match=r"refs\(unc\).json, row 1: its image_id or ann_id is not in instances.json"):
        list(refcoco(tmp_path).items())


def test_refer_splits_of_google_are_passed_over(tmp_path):
    """Both lie in refer's folder under the same split names; Google's come first in the alphabet."""
    refer(tmp_path)
    (tmp_path / "refs(google).json").write_text("[]")
    assert len(list(refcoco(tmp_path, rows=4).items())) == 4


def test_broken_boxes_name_the_row(tmp_path):
    """A traceback of unpacking for a box of three numbers, or for a file of another kind."""
    row = {"question_id": "9", "answer": ["cat"], "bbox": [1.0, 2.0, 3.0]}
    path = write_parquet(tmp_path / "testA-0.parquet", [row | {"image": {"bytes": jpeg(), "path": "a.jpg"}}])
    with pytest.raises(LocusError, match=r"testA-0.parquet, row 1: the box .* is not four numbers"):
        list(refcoco(path, splits=UNC).items())
    (tmp_path / "refer").mkdir()
    refer(tmp_path / "refer")
    for broken in ('{"train": []}', '["a"]', "[1]"):
        (tmp_path / "refer" / "refs(unc).json").write_text(broken)
        with pytest.raises(LocusError, match=r"refs\(unc\).json and instances.json cannot be read"):
            list(refcoco(tmp_path / "refer").items())


# --- Frames ---------------------------------------------------------------------------------------------------
@pytest.fixture
def item(tmp_path) -> Item:
    return next(refcoco(refer(tmp_path)).items())


@pytest.mark.parametrize(
    ("frame", "response"),
    [
        ("file", "[64, 48, 320, 240]"),
        ("unit1000", "[100, 100, 500, 500]"),
        ("processed", "[117.6, 86.8, 588, 434]"),  # 640 x 480 shown as 1176 x 868
        ("processed", "[588, 434, 117.6, 86.8]"),  # corners the other way round
    ],
)
def test_a_true_answer_in_each_frame(item, frame, response):
    """Pixels of the enlarged picture compared with pixels of the file: IoU near 0 for a perfect answer."""
    bench = refcoco("x", frame)
    verdict = verdict_on(bench, item, response, view=View(Frame(frame), (1176, 868)))
    assert verdict.columns["iou"] == pytest.approx(1) and verdict.correct == 1
    others = {"file", "unit1000", "processed"} - {frame}
    for other in others:
        wrong = verdict_on(bench, item, response, view=View(Frame(other), (1176, 868)))
        assert wrong.columns["iou"] < 0.9


def test_processed_frame_needs_its_size(item):
    """A size guessed from the file's is wrong as soon as min_pixels enlarges pictures."""
    with pytest.raises(LocusError, match="processed frame, whose size the predictions do not give"):
        verdict_on(refcoco("x", "processed"), item, "[1, 2, 3, 4]", view=View(Frame.PROCESSED))
    with pytest.raises(LocusError, match="unknown frame"):
        refcoco("x", "pixels")


@pytest.mark.parametrize(
    ("response", "iou", "reading"),
    [
        ("[100, 100, 500, 300]", 0.5, Reading.OK),  # exactly half: right
        ("[100, 100, 500, 299]", 0.4975, Reading.OK),
        ("[-50, 100, 500, 500]", 0.8, Reading.OK),  # clipped: 500 x 400 around 400 x 400
        ("[500, 500, 500, 900]", 0, Reading.OUT_OF_RANGE),  # no width
        ("[1100, 1100, 1500, 1500]", 0, Reading.OUT_OF_RANGE),  # wholly outside
        ("I see no cat", 0, Reading.NONE),
    ],
)
def test_boundaries(item, response, iou, reading):
    """An IoU of exactly 0.5 is right in both kits; nothing outside the picture may enlarge a union."""
    verdict = verdict_on(refcoco("x"), item, response, view=View(Frame.UNIT1000))
    assert verdict.columns["iou"] == pytest.approx(iou) and verdict.correct == float(iou >= 0.5)
    assert verdict.extracted.reading is reading and (verdict.extracted.answer is None) == (reading is not Reading.OK)


@pytest.mark.parametrize(("response", "correct"), [("[0.1, 0.1, 0.5, 0.5]", 1), ("[100, 100, 500, 500]", 1),
                                                   ("[64, 48, 320, 240]", 0)])  # fmt: skip
def test_vlmevalkit_guesses_the_frame(item, response, correct):
    """Its numbers for policies that write pixels cannot be reproduced without its fault."""
    assert verdict_on(refcoco("x", "file"), item, response, VLMEVALKIT).correct == correct


def test_scores():
    """The mean weighs splits alike, not sentences."""
    table = pd.DataFrame(
        {"split": ["val"] * 3 + ["testA", "testB"], "correct": [1, 0, 0, 1, 0], "iou": [0.6, 0.3, 0, 1, 0.4]}
    )
    score = scores(refcoco("x", splits=UNC), table)
    assert score["val"] == pytest.approx(100 / 3) and score["testA"] == 100 and score["testB"] == 0
    assert score["mean"] == pytest.approx(400 / 9) and score["iou_mean"] == pytest.approx((30 + 100 + 40) / 3)
