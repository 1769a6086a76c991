"""Squares to choose from: where they lie, by hand, and that nothing but the pixels tells them apart."""

from __future__ import annotations

from itertools import pairwise

import pytest

from locus.errors import LocusError
from locus.tasks.proxies.crop_choice import centred, lattice
from locus.tasks.proxies.odd_one_out import OddOneOut
from locus.tasks.proxies.patch_fit import PatchFit
from tests.support.choice_tasks import check_chance, check_form, shown, task_of
from tests.support.models import example


def test_squares_by_hand():
    """A square beside its crop, or out of the image."""
    assert centred(example((100, 80), (40, 30, 50, 40)), 20) == (35, 25, 55, 45)
    assert centred(example((100, 80), (0, 70, 10, 80)), 20) == (0, 60, 20, 80)
    assert centred(example((100, 80), (0, 0, 100, 80)), 20) == (40, 30, 60, 50)


def test_the_lattice_by_hand():
    """Squares that overlap, leave the image or lack the one they are laid by."""
    assert lattice((35, 25, 55, 45), 100, 80) == [(x, y, x + 20, y + 20) for y in (5, 25, 45) for x in (15, 35, 55, 75)]
    for left in range(81):
        squares = lattice((left, 0, left + 20, 20), 100, 80)
        lefts = [square[0] for square in squares if square[1] == 0]
        assert left in lefts and all(b - a == 20 for a, b in pairwise(lefts)) and len(squares) >= 4 * 4


@pytest.mark.parametrize(
    ("kind", "settings"), [(PatchFit, {}), (PatchFit, {"distractors": "same_image"}), (OddOneOut, {})]
)
def test_form_and_chance(kind, settings):
    """One in four, whatever is answered always; candidates of one size and mode; also of a third of the side."""
    task = task_of(kind, 60, **settings)
    check_form(task, task.examples("train")[:4])
    assert task.chance([]) == 0.25
    check_chance(task)
    for one in task.examples("validation"):
        crops = shown(task_of(kind, candidates=4, side=0.33, **settings), one)[1:]
        assert [(crop.size, crop.mode) for crop in crops] == [((16, 16), "RGB")] * 4


def test_a_smaller_image_gives_squares_of_the_same_size():
    """Candidates that are told by their size where images differ in size."""
    task = task_of(OddOneOut, sizes=[(200, 200), (20, 30)])
    for one in task.examples("train"):
        side = min(one.width, one.height) // 4
        assert {crop.size for crop in shown(task, one)[1:]} == {(side, side)}


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"side": 0.4}, r"task\.side=0\.4: .* at most 0\.33"),
        ({"candidates": 1}, "at least 2 candidates"),
        ({"candidates": 5, "side": 0.3}, r"at most 0\.25"),
        ({"train": 1}, "all train examples are of one image"),
    ],
)
def test_wrong_settings(wrong, says):
    """Fewer places than candidates, no choice, or an endless search for another image."""
    with pytest.raises(LocusError, match=says):
        task_of(OddOneOut, **wrong)
