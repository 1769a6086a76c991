"""LogicVista: several letters as an answer, two forms of file, and a broken one."""

from __future__ import annotations

import numpy as np
import pytest

from locus.errors import LocusError
from locus.evaluation.benchmarks.logicvista import LogicVista, listed_options
from tests.support.benchmark_files import answered, hf_image, scores, told, verdict_on, write_parquet
from tests.support.benchmark_files_other import write_logicvista


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
    assert verdict_on(bench, next(bench.items()), r"\boxed{B}").correct == 0, "a part is not the answer"


def test_logicvista_parquet(tmp_path):
    """Another name of the id column: rows would be told by their place in the file."""
    row = {"id": "v1_7", "question": "Which?", "answer": "C", "skill": "spatial", "image": hf_image()}
    (item,) = LogicVista(write_parquet(tmp_path / "l.parquet", [row]), rows=1).items()
    assert item.item_id == "v1_7" and item.groups["skill"] == "spatial"


def test_logicvista_broken_file(tmp_path):
    """A traceback of json for a file that was cut off."""
    (tmp_path / "dataset.json").write_text('{"v1_0": ')
    with pytest.raises(LocusError, match="dataset.json: is not a LogicVista"):
        list(LogicVista(str(tmp_path / "dataset.json")).items())


def test_options_in_the_question(tmp_path):
    """ "(B): False." unread, because the options that the question lists were not known."""
    question = "The watches agree. Select from A, B and C. (A) True (B)False (C)Insufficient Information"
    row = {"id": "v1_44", "question": question, "answer": "B", "skill": "numerical", "image": hf_image()}
    bench = LogicVista(write_parquet(tmp_path / "l.parquet", [row]), rows=1)
    (item,) = bench.items()
    assert item.options == {"A": "True", "B": "False", "C": "Insufficient Information"} and item.prompt == question
    for text, right in (("(B): False.", 1), ("It is false", 1), ("True", 0), ("There is insufficient information.", 0)):
        assert verdict_on(bench, item, text).correct == right, text
    assert listed_options("Which figure? (A) (B) (C)") == {"A": "A", "B": "B", "C": "C"}
    assert listed_options("What choice (A, B, C, or D) fits?") == listed_options("Which of (A) and (C)?") == {}
