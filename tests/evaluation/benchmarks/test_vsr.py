"""VSR: sentences that are true or false, and scores by hand."""

from __future__ import annotations

import pytest

from locus.errors import LocusError
from locus.evaluation.benchmarks.vsr import KIND, QUESTION, VSR
from locus.evaluation.reading.extractors import VLMEVALKIT
from tests.support.benchmark_files import answered, encoded, scores, verdict_on, write_tsv
from tests.support.benchmark_files_seeing import write_vsr


def test_vsr_official_folder(tmp_path):
    """The development set read with the test set; labels 1 and 0 compared with yes and no."""
    items = list(VSR(write_vsr(tmp_path), rows=3).items())
    assert [item.answer for item in items] == ["yes", "no", "no"]
    assert items[0].prompt == f"The cat is behind the suitcase.\n{QUESTION}"
    assert items[0].pictures[0].key == str(tmp_path / "train2017" / "000000000001.jpg") == items[1].pictures[0].key
    assert [item.groups["kind"] for item in items] == ["projective", "orientation", "unallocated"]
    (tmp_path / "train2017" / "000000000002.jpg").unlink()
    with pytest.raises(LocusError, match=r"row 3: picture .*000000000002\.jpg does not exist; pass images="):
        list(VSR(str(tmp_path)).items())


def test_vsr_scores(tmp_path):
    """An unread answer taken for no, which most answers are; kinds of relation mixed up."""
    bench = VSR(write_vsr(tmp_path), rows=3)
    found = scores(bench, answered(bench, ["Yes.", "Yes", "It is hard to tell."]))
    assert found["accuracy"] == pytest.approx(100 / 3) and found["recall"] == 100 and found["precision"] == 50
    assert found["f1"] == pytest.approx(200 / 3) and found["yes_ratio"] == pytest.approx(200 / 3)
    assert (found["projective"], found["orientation"], found["unallocated"]) == (100, 0, 0)
    assert len(KIND) == 70 and KIND["among"] == "unallocated" and KIND["ahead of"] == "adjacency"


def test_vsr_tsv(tmp_path):
    """VLMEvalKit's question with one of ours behind it, or its rule for yes and no left out."""
    row = {"index": 4, "image": encoded(), "question": "The cat is behind the suitcase. Yes or No?", "answer": "Yes"}
    bench = VSR(write_tsv(tmp_path / "a.tsv", [row]), rows=1)
    (item,) = bench.items()
    assert (item.item_id, item.prompt, item.answer) == ("4", row["question"], "yes")
    assert verdict_on(bench, item, "yes, or is it no", VLMEVALKIT).correct == 0, "both words: the kit asks its judge"
    assert verdict_on(bench, item, "Yes", VLMEVALKIT).correct == 1
