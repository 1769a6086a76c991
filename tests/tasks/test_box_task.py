"""Tasks answered by a box: what the best answer without a look earns, by hand and against guesses."""

from __future__ import annotations

import numpy as np
import pytest

from locus.errors import LocusError
from locus.tasks.box_task import best_blind_iou
from locus.tasks.cue_search.task import CueSearch
from locus.tasks.cue_search.text_cues import AnnotatedTextCue
from locus.types import CueExample, Frame, Response, Sample, Status, View
from tests.support.miniature import scenes
from tests.support.models import cue_task, example

SIZE = (100.0, 100.0)
FILE = View(Frame.FILE)


def test_best_blind_iou_by_hand():
    """Two halves of an image: a half is right once in two, the whole image half right always; a third rule is better
    than both; a place that is best for one image alone."""
    left, right = (0, 0, 50, 100), (50, 0, 100, 100)
    sizes = np.array([SIZE, SIZE])
    halves = np.array([left, right], dtype=float)
    assert best_blind_iou(halves, sizes, np.full((1, 2, 2), (50.0, 100.0))) == pytest.approx(0.5)
    assert best_blind_iou(halves, sizes, np.full((1, 2, 2), 1000.0)) == pytest.approx(0.5)
    mostly_left = np.array([left, left, left, right], dtype=float)
    rules = np.stack([np.full((4, 2), (100.0, 100.0)), np.full((4, 2), (50.0, 100.0))])
    assert best_blind_iou(mostly_left, np.full((4, 2), 100.0), rules) == pytest.approx(0.75)
    assert best_blind_iou(mostly_left, np.full((4, 2), 100.0), rules[:1]) == pytest.approx(0.5)


def many(number: int = 60) -> list[CueExample]:
    """Boxes of sides 10 to 40 anywhere in 100x80 pictures."""
    rng = np.random.default_rng(0)
    drawn = []
    for index in range(number):
        sides = rng.uniform(10, 40, 2)
        corner = rng.uniform(0, (100, 80) - sides)
        drawn.append(example((100, 80), (*corner.tolist(), *(corner + sides).tolist()), str(index)))
    return drawn


def test_blind_answers_stay_at_chance_or_below_in_every_frame():
    """A chance that guesses beat, or blind answers that are not of the form or read in another frame."""
    task, rng = cue_task(many()), np.random.default_rng(1)
    for view in (FILE, View(Frame.UNIT1000), View(Frame.PROCESSED, (200.0, 80.0))):
        grades = [task.grade(one, Response(task.blind(one, view, rng)), view) for one in many() for _ in range(4)]
        assert {grade.status for grade in grades} == {Status.OK} and all(grade.parts["format"] for grade in grades)
        ious = [grade.parts["iou"] for grade in grades]
        assert 0.02 < np.mean(ious) <= task.chance(many()) + 2 * np.std(ious) / len(ious) ** 0.5 < 0.4


def test_what_the_cue_tells_raises_chance():
    """A chance of cue search that ignores the crop's size: these are in the centre, of sizes from 10 to 90 px; or of
    words that ignores the place they name."""
    centred = [example((100, 100), (50 - half, 50 - half, 50 + half, 50 + half), str(half)) for half in (5, 15, 45)]
    assert cue_task(centred).chance(centred) == pytest.approx(1)

    class Words(AnnotatedTextCue):
        def over(self, source, examples):
            return self

        def audit(self, examples):
            return {}

        def expression(self, one):
            return "the cup in the upper left" if one.box[0] < 50 else "the cup at the right, the larger of two"

    corners = [example((100, 100), box, name) for name, box in (("l", (0, 0, 65, 65)), ("r", (55, 0, 100, 45)))]
    told, blind = cue_task(corners, cue=Words(0.9)), cue_task(corners)
    assert told.chance(corners) == pytest.approx(1) and blind.chance(corners) < 0.9


def test_blind_targets_teach_the_form_alone():
    """Supervised targets that differ between epochs, are the gold ones, or want rationales that nobody reads."""
    source, corpus = scenes()
    task = CueSearch(corpus, source, sft_targets="blind", name="text_cue")
    samples = [Sample(one, None, FILE) for one in corpus.train]
    texts = list(task.target(samples))
    assert task.name == "text_cue" and CueSearch(corpus, source).name == "cue_search"
    assert texts == list(task.target(samples)) != list(CueSearch(corpus, source).target(samples))
    grades = [task.grade(one.example, Response(text), FILE) for one, text in zip(samples, texts, strict=True)]
    assert all(grade.parts["format"] for grade in grades)
    with pytest.raises(LocusError, match=r"task\.sft_targets=blnd: give gold or blind"):
        CueSearch(corpus, source, sft_targets="blnd")
