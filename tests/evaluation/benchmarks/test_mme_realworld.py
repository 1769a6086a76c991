"""MME-RealWorld: three forms of file, the official extractor, and scores by hand."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from locus.evaluation.benchmark import Item
from locus.evaluation.benchmarks.mme_realworld import MMERealWorld
from locus.evaluation.reading.extractors import VLMEVALKIT
from tests.support.benchmark_files import scores, verdict_on
from tests.support.benchmark_files_choice import write_mme

MME_PROMPT = (
    "Which? The choices are listed below:\n(A) red\n(B) blue\n(C) NA\n(D) 4\n(E) The image does not show it\n"
    "Select the best answer to the above multiple-choice question based on the image. Respond with only the letter "
    "(A, B, C, D, or E) of the correct option. \nThe best answer is:"
)


@pytest.mark.parametrize("kind", ["json", "tsv", "parquet"])
def test_mme_realworld_items(tmp_path, kind):
    """The same question put in other words, or counted to another sub-task, for the file that it comes from."""
    images = str(tmp_path / "imgs") if kind == "json" else ""
    (item,) = MMERealWorld(write_mme(tmp_path, kind), "mme_realworld", 1, images).items()
    assert item.prompt == MME_PROMPT and item.answer == "B" and item.item_id == "3"
    assert list(item.options) == list("ABCDE") and item.options["C"] == "NA"
    assert item.pictures[0].open().size == (40, 30)
    whole = "Perception/Remote Sensing"
    groups = {"task": "Perception", "domain": "Remote Sensing", "task_domain": whole}
    assert item.groups == {**groups, "subtask": f"{whole}/color/attribute"}


def test_mme_realworld_vlmevalkit_is_the_official_rule(tmp_path):
    """A column named after the kit that follows another rule than the kit here: it reads an A in "Answer: B"."""
    benchmark = MMERealWorld(write_mme(tmp_path, "parquet"), "mme_realworld", 1)
    (item,) = benchmark.items()
    for response, ours, official in (("Answer: B", 1, 0), ("B", 1, 1), ("", 0, 0), ("Blue is A", 0, 1)):
        verdicts = verdict_on(benchmark, item, response), verdict_on(benchmark, item, response, VLMEVALKIT)
        assert tuple(verdict.correct for verdict in verdicts) == (ours, official), response
    gold_a = Item("1", "", "A", (), dict(zip("AB", "xy", strict=True)), item.groups)
    assert verdict_on(benchmark, gold_a, "Answer: B").correct == 0
    assert verdict_on(benchmark, gold_a, "Answer: B", VLMEVALKIT).correct == 1
    assert verdict_on(benchmark, gold_a, "").correct == 0


def test_mme_realworld_scores():
    """Avg (by rows) and Avg-C (by domains) interchanged; by hand on 6 rows."""
    cells = [
        ("Perception", "Monitoring", 1.0),
        ("Perception", "Monitoring", 0.0),
        ("Perception", "Monitoring", 0.0),
        ("Perception", "Remote Sensing", 1.0),
        ("Reasoning", "Monitoring", 1.0),
        ("Reasoning", "Monitoring", 0.0),
    ]
    rows = pd.DataFrame(cells, columns=["task", "domain", "correct"])
    rows["task_domain"] = rows["task"] + "/" + rows["domain"]
    rows["subtask"] = rows["task_domain"] + "/" + pd.Series(list("ppqrss"))
    found = scores(MMERealWorld("none", "mme_realworld", None), rows)
    assert found["accuracy"] == 50
    assert (found["perception"], found["reasoning"]) == (50, 50)
    assert found["perception_monitoring"] == pytest.approx(100 / 3) and found["perception_remote_sensing"] == 100
    assert found["perception_avg_c"] == pytest.approx(200 / 3) and found["reasoning_avg_c"] == 50
    assert found["avg_c"] == pytest.approx((100 / 3 + 100 + 50) / 3)
    assert found["subtask_mean"] == 50  # p 1/2, q 0/1, r 1/1, s 1/2
    assert np.isnan(found["perception_ocr"]), "no such row: not a zero"
