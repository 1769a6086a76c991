"""Diagnoses that draw their own scenes, against hand-worked values: questions of several families, crowding."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from locus.analysis.diagnoses.context_suppression import suppressed
from locus.analysis.diagnoses.crowding import Crowding, in_order_kept
from locus.analysis.diagnoses.cue_search import CueSearchOnEvidence
from locus.analysis.diagnoses.questions import Family, Questions
from locus.errors import LocusError
from locus.evaluation.benchmark import Item
from locus.evaluation.benchmarks.scenes import SceneBenchmark, SceneQuestions
from locus.scenes.questions import draw_questions, existence_adversarial, kinds_of
from locus.scenes.source import SceneSource
from tests.support.scripted import Scripted, written

BENCHMARKS = {
    "attributes": ["colour", "shape", "pattern"],
    "counting": ["count"],
    "text grounding": ["grounding"],
}


def crowd(seed: int = 5) -> SceneSource:
    return SceneSource(1, 128, 128, (12, 16), (10, 14), stretch=1.2, clutter=0.4, seed=seed)


def right(item: Item) -> object:
    return item.answer if isinstance(item.answer, str) else written(item.answer.xyxy)


def test_questions_of_a_family_share_its_scenes():
    """A picture for each question: five times the work, and intervals of independent items that are not."""
    drawn = Family(crowd(), 40, BENCHMARKS).draw(seed=1)
    indices = [asked.index for _, asked in drawn]
    assert Counter(name for name, _ in drawn) == dict.fromkeys(BENCHMARKS, 40)
    assert Counter(asked.question.kind for name, asked in drawn if name == "attributes") == {
        "colour": 14, "shape": 13, "pattern": 13
    }  # fmt: skip
    assert indices == sorted(indices) and len(set(indices)) < 80, "120 questions"
    assert [asked.question for _, asked in drawn] == [
        asked.question for _, asked in Family(crowd(), 40, BENCHMARKS).draw(1)
    ]
    with pytest.raises(LocusError, match="questions=2: attributes alone has 3 kinds"):
        Family(crowd(), 2, BENCHMARKS)


def test_questions_by_hand():
    """Scores of one family in another's row, a pooled row that weighs benchmarks unevenly, boxes of the wrong frame."""
    large = Family(SceneSource(1, 128, 128, (1, 3), (32, 56), lookalikes=0.0, seed=6), 6, {"attributes": ["colour"]})
    diagnosis = Questions({"crowded": Family(crowd(), 6, BENCHMARKS), "large": large}, "processed")
    shown = Counter()

    def says(item: Item) -> object:
        shown[item.pictures[0].key] += 1
        return "none" if item.item_id.startswith("large") or item.groups["kind"] == "count" else right(item)

    measured = diagnosis.measure(Scripted(says))
    assert len(shown) < 20 and sum(shown.values()) == 24, "pictures are shared"
    assert measured["unit"].nunique() == len(shown) and measured["item"].is_unique
    table = diagnosis.section(measured.assign(policy="p")).table
    assert table[["measure", "of", "p", "items"]].values.tolist() == [
        ["crowded", "all", pytest.approx(2 / 3), 18],
        ["crowded", "attributes", 1.0, 6],
        ["crowded", "counting", 0.0, 6],
        ["crowded", "text grounding", 1.0, 6],
        ["large", "attributes", 0.0, 6],
    ]


# --- Crowding ---------------------------------------------------------------------------------------------------
KINDS = ["colour", "existence_adversarial", "relation"]


def crowding(**changes: object) -> Crowding:
    settings = {"source": crowd(), "kinds": KINDS, "questions": 6, "objects": [2, 4], "frame": "file"}
    return Crowding(**(settings | changes))


def test_versions_of_a_crowded_question():
    """Evidence that moves or goes, a background that changes, objects that come and go, a black picture for a "no"."""
    versions: dict[str, list[Item]] = {}

    def says(item: Item) -> object:
        versions.setdefault(item.item_id.split("/")[0], []).append(item)
        return right(item)

    measured = crowding().measure(Scripted(says))
    assert len(versions) == 18 and measured["correct"].all() and measured["item"].is_unique
    assert measured["question"].nunique() == 18 and measured["unit"].nunique() == 18
    for question, items in versions.items():
        rows = measured[measured["question"] == question]
        evidence = items[0].evidence
        assert rows["image"].tolist() == ["full"] * 3 + ["suppressed"] * bool(evidence)
        assert rows["level"].tolist() == [0, 1, 2, 2][: len(rows)]
        assert rows["objects"].tolist()[:2] == [2, 4] and 12 <= rows["objects"].iloc[2] <= 16
        assert all((item.prompt, item.evidence) == (items[0].prompt, evidence) for item in items)
        few, more, whole, *alone = (np.asarray(item.pictures[0].open()).astype(int) for item in items)
        for box in evidence:
            x1, y1, x2, y2 = (int(value) for value in box.xyxy)
            assert all((one[y1:y2, x1:x2] == whole[y1:y2, x1:x2]).all() for one in (few, more, *alone))
        gone, came = (few != whole).any(-1), (more != whole).any(-1)
        assert came.sum() < gone.sum() < few.shape[0] * few.shape[1] / 2 and not (came & ~gone).any(), "nested"
        assert not alone or (alone[0] == 0).mean() > 0.9


def test_what_is_like_the_evidence_stays():
    """An adversarial "no" whose near miss is the first to go: with few objects it is a random one."""
    drawn = draw_questions(crowd(), existence_adversarial, 20, seed=2)
    for entry in drawn:
        order = in_order_kept(entry.scene, entry.question, np.random.default_rng(0))
        assert sorted(order, key=str) == sorted(entry.scene.objects, key=str)
        words = set(entry.question.text.rstrip("?").split())
        if entry.question.answer == "no":
            assert len(words & set(order[0].attributes)) == 2
        else:
            assert (order[0].box,) == entry.question.evidence
    orders = [in_order_kept(drawn[0].scene, drawn[0].question, np.random.default_rng(seed)) for seed in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2]


def test_crowding_by_hand():
    """A policy that fails in whole scenes: signs of the differences, and questions without a pair that count."""
    diagnosis = crowding(kinds=["colour", "existence_random"])

    def says(item: Item) -> object:
        return right(item) if item.item_id.endswith(("/0", "suppressed")) else "none"

    measured = diagnosis.measure(Scripted(says))
    table = diagnosis.section(measured.assign(policy="p")).table.set_index(["measure", "of"])
    assert table.loc["accuracy", "p"].tolist() == [1, 0, 0, 1]
    assert table.loc["accuracy"].index[:2].tolist() == ["2 objects", "4 objects"]
    assert table.loc["accuracy"].index[3] == "suppressed" and table.loc[("accuracy", "suppressed"), "items"] == 9
    for label, items in (("all objects minus fewest", [12, 6, 6]), ("full minus suppressed", [9, 6, 3])):
        assert table.loc[label, "p"].tolist() == [-1, -1, -1] and table.loc[label, "items"].tolist() == items


@pytest.mark.parametrize("objects", [[], [0, 2], [4, 2], [2, 2], [2, 12], ["two"]])
def test_numbers_of_objects_grow_up_to_the_scenes(objects):
    """A curve that goes back and forth, or two levels that are one."""
    with pytest.raises(LocusError, match="objects=.*: give ascending whole numbers from 1 on, below the 12 objects"):
        crowding(objects=objects)


def test_equal_keys_mean_equal_pictures():
    """Features are kept by the pictures' keys: those of another question's evidence would be taken for this one's."""
    kinds = kinds_of(["colour", "relation", "shape"])
    benchmark = SceneQuestions("scenes", SceneBenchmark(crowd(), kinds, 6), "file")
    items = list(benchmark.items())
    cues = [cue for item in items for cue in CueSearchOnEvidence(benchmark, {}, "file")._cues(item)]
    pictures: dict[str, bytes] = {}
    for item in [*items, *map(suppressed, items), *cues]:
        for picture in item.pictures:
            assert pictures.setdefault(picture.key, picture.source) == picture.source
    assert len({picture.key for item in items for picture in item.pictures}) < len(items)
