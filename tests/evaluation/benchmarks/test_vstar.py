"""V*Bench: the official folder with its boxes, other files, and scores by hand."""

from __future__ import annotations

import pytest

from locus.errors import LocusError
from locus.evaluation.benchmarks.vstar import VStar
from tests.support.benchmark_files import answered, hf_image, scores, write_parquet, write_tsv
from tests.support.benchmark_files_choice import SELECT, VSTAR_TEXT, vek, write_vstar


def test_vstar_official_folder(tmp_path):
    """Gold always at A (the pictures' own JSON files), a re-parsed question, or xywh boxes taken for xyxy."""
    first, second = VStar(write_vstar(tmp_path), rows=2).items()
    assert (first.answer, second.answer) == ("B", "A")
    assert first.prompt == VSTAR_TEXT and first.options == {"A": "red (dark)", "B": "blue"}
    assert [box.xyxy for box in first.evidence] == [(4, 5, 14, 11)]
    assert (first.evidence[0].width, first.evidence[0].height) == (40, 30)
    assert first.pictures[0].open().size == (40, 30)


def test_vstar_box_file_is_needed(tmp_path):
    """An attention analysis that quietly loses the pictures whose boxes are missing or broken."""
    write_vstar(tmp_path / "a", bbox=[[1, 2, 3]])
    with pytest.raises(LocusError, match=r"sa_1\.json: no boxes can be read"):
        list(VStar(str(tmp_path / "a")).items())
    write_vstar(tmp_path / "outside", bbox=[[50, 5, 10, 6]])
    with pytest.raises(LocusError, match=r"sa_1\.json: .* are not all in 40 x 30 pixels"):
        list(VStar(str(tmp_path / "outside")).items())
    write_vstar(tmp_path / "b")
    (tmp_path / "b" / "direct_attributes" / "sa_1.json").unlink()
    with pytest.raises(LocusError, match=r"sa_1\.json: no boxes can be read"):
        list(VStar(str(tmp_path / "b")).items())


def test_vstar_other_files_and_scores(tmp_path):
    """The mean of the two categories given for the accuracy: they have 115 and 76 rows."""
    rows = [
        {"image": hf_image(n), "text": VSTAR_TEXT, "label": "B", "category": category, "question_id": str(n)}
        for n, category in enumerate(["direct_attributes"] * 3 + ["relative_position"])
    ]
    benchmark = VStar(write_parquet(tmp_path / "a.parquet", rows), rows=4)
    assert next(benchmark.items()).prompt == VSTAR_TEXT and next(benchmark.items()).evidence == ()
    found = scores(benchmark, answered(benchmark, ["B", "A", "A", "B"]))
    assert found == pytest.approx({"accuracy": 50, "direct_attributes": 100 / 3, "relative_position": 100})
    (item,) = VStar(write_tsv(tmp_path / "a.tsv", [vek(category="relative_position")]), rows=1).items()
    assert item.prompt == f"Question: Which?\nOptions:\nA. red\nB. blue\n{SELECT}"
