"""MMVP: pairs, read from files of three forms, and scores by hand."""

from __future__ import annotations

import shutil

import pytest

from locus.errors import LocusError
from locus.evaluation.benchmarks.mmvp import MMVP
from tests.support.benchmark_files import answered, hf_image, scores, told, write_parquet, write_tsv
from tests.support.benchmark_files_choice import SELECT, vek
from tests.support.benchmark_files_seeing import write_mmvp


def test_mmvp_official_folder(tmp_path):
    """Pictures of the row before or after; a bracket in an option taken for the next option; the CSV's commas."""
    items = list(MMVP(write_mmvp(tmp_path), rows=4).items())
    assert [item.item_id for item in items] == ["1", "2", "3", "4"]
    assert [item.answer for item in items] == ["B", "A", "B", "A"]
    assert [item.pictures[0].key for item in items] == [
        str(tmp_path / "MMVP Images" / f"{n}.jpg") for n in (1, 2, 3, 4)
    ]
    assert items[0].prompt == f"Question: Is it open, or closed?\nOptions:\nA. Open\nB. Closed\n{SELECT}"
    assert items[2].options == {"A": "Left", "B": "Up (left)"}
    shutil.move(tmp_path / "MMVP Images", tmp_path / "elsewhere")
    assert len(told(MMVP(str(tmp_path), rows=4, images=str(tmp_path / "elsewhere")))) == 4
    with pytest.raises(LocusError, match=r"row 1: picture .*1\.jpg does not exist; pass images="):
        list(MMVP(str(tmp_path)).items())


def test_mmvp_scores(tmp_path):
    """Half a pair that counts; pairs that begin at the second row."""
    bench = MMVP(write_mmvp(tmp_path), rows=4)
    # The first pair is right once, the second twice: by pairs that began at row 2 none would be right.
    assert scores(bench, answered(bench, ["A", "A", "(B)", "a"])) == {"pairs": 50, "accuracy": 75}
    assert list(bench.unit()) == ["pair"]


def test_mmvp_other_forms(tmp_path):
    """The same prompt from the parquet's columns and from VLMEvalKit's."""
    row = {
        "Index": 1,
        "Question": "Which?",
        "Options": "(a) red (b) blue",
        "Correct Answer": "(b)",
        "image": hf_image(),
    }
    (one,) = MMVP(write_parquet(tmp_path / "a.parquet", [row]), rows=1).items()
    (other,) = MMVP(write_tsv(tmp_path / "MMVP.tsv", [vek(0)]), rows=1).items()
    assert (one.prompt, one.answer, one.options, one.groups) == (
        other.prompt,
        other.answer,
        other.options,
        other.groups,
    )
    with pytest.raises(LocusError, match=r"row 1: Options 'A B' is not like"):
        list(MMVP(write_parquet(tmp_path / "b.parquet", [row | {"Options": "A B"}])).items())
