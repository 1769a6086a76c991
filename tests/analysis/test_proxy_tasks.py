"""Every proxy task asked of a policy, whatever it was trained on: scores, chance and table by hand."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from locus.analysis.diagnoses.proxy_tasks import ProxyTasks
from locus.analysis.diagnoses.shared import compare
from locus.analysis.run_metrics import AFTER, BEFORE
from locus.errors import LocusError
from locus.evaluation.benchmark import Item, TaskBenchmark
from locus.scenes.source import SceneSource
from locus.tasks.cue_search.audits import corpus_of
from locus.tasks.cue_search.crops import CropStrategy
from locus.tasks.cue_search.task import CueSearch
from locus.tasks.proxies.rotation import Rotation
from tests.support.scripted import Scripted, written

BINS = {"tiny": (0.0, 0.01), "small": (0.01, 0.05)}


@pytest.fixture(scope="module")
def diagnosis() -> ProxyTasks:
    """Two tasks on the same eight held-out crops, of which six are asked."""
    source = SceneSource(24, 128, 128, (4, 7), (10, 26), stretch=1.2, clutter=0.4, seed=8)
    corpus = corpus_of(source, CropStrategy(BINS, {"tiny": 0.5, "small": 0.5}, 8, {}, {}), 4, 8, seed=1)
    return ProxyTasks({"rotation": Rotation(corpus, source), "cue_search": CueSearch(corpus, source)}, "processed", 6)


def says(item: Item, rotation: Rotation, knows: bool) -> str:
    """Turns: the right one or the first; boxes: the right one, moved by half of its sides by whoever does not know."""
    if "turned" in item.prompt:
        return rotation.answer(item.example) if knows else "0"
    x1, y1, x2, y2 = item.example.target.xyxy
    dx, dy = (0, 0) if knows else ((x2 - x1) / 2, (y2 - y1) / 2)
    return written((x1 + dx, y1 + dy, x2 + dx, y2 + dy))


def test_scores_by_hand(diagnosis: ProxyTasks, tmp_path: Path):
    """A task graded as another, a box in the wrong frame, a reward in place of the headline, items of unequal runs."""
    rotation = diagnosis.tasks["rotation"]
    policies = {
        name: Scripted(lambda item, knows=knows: says(item, rotation, knows))
        for name, knows in ((BEFORE, False), (AFTER, True))
    }
    (section,) = compare(policies, {"proxies": diagnosis}, tmp_path)
    table = pd.read_parquet(tmp_path / "proxy_tasks.parquet")
    assert set(table) == {"policy", "task", "item", "unit", "score", "chance", "response"}
    assert (
        table.groupby(["policy", "task"]).size().tolist() == [6] * 4 and not table.duplicated(["policy", "item"]).any()
    )
    means = table.groupby(["task", "policy"])["score"].mean()
    unturned = sum(rotation.answer(example) == "0" for example in rotation.examples("validation")[:6]) / 6
    assert means["rotation", BEFORE] == unturned and means["rotation", AFTER] == 1  # without the format's tenth
    assert means["cue_search", AFTER] == pytest.approx(1)
    assert means["cue_search", BEFORE] == pytest.approx(1 / 7)  # a quarter of the box, of seven quarters
    chance = table.groupby("task")["chance"].unique()
    assert chance["rotation"].tolist() == [0.25]
    assert chance["cue_search"][0] == pytest.approx(
        diagnosis.tasks["cue_search"].chance(rotation.examples("validation")[:6]), nan_ok=True
    )
    units = table.groupby("task")["unit"].agg(set)
    assert units["rotation"] == units["cue_search"] == {e.image_id for e in rotation.examples("validation")[:6]}
    rows = section.table.set_index("measure")
    assert rows.loc["rotation", ["of", BEFORE, AFTER, "change", "chance", "items"]].tolist() == [
        "accuracy", unturned, 1.0, 1 - unturned, 0.25, 6
    ]  # fmt: skip
    assert rows.loc["cue_search", "of"] == "mean IoU" and rows.loc["cue_search", "low"] == pytest.approx(6 / 7)


def test_only_answers_that_are_boxes_have_evidence(diagnosis: ProxyTasks):
    """The crop's box drawn over turned or shuffled pictures, where it is not; attention judged by it."""
    evidence = {
        name: [item.evidence for item in TaskBenchmark(task, "processed").items()]
        for name, task in diagnosis.tasks.items()
    }
    assert not any(evidence["rotation"]) and all(evidence["cue_search"])


def test_wrong_settings_are_named(diagnosis: ProxyTasks):
    """A diagnosis that fails after the training it should judge."""
    with pytest.raises(LocusError, match="limit=0: give a whole number from 1 on"):
        ProxyTasks(diagnosis.tasks, "processed", limit=0)
    with pytest.raises(LocusError, match="tasks is empty: give one"):
        ProxyTasks({}, "processed")
