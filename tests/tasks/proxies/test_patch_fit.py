"""PatchFit: the right crop fills the hole, pixel by pixel; the wrong ones do not."""

from __future__ import annotations

import numpy as np
import pytest

from locus.errors import LocusError
from locus.tasks.proxies.patch_fit import GREY, PatchFit
from tests.support.choice_tasks import Noise, inside, pixels, shown, task_of


@pytest.mark.parametrize("distractors", ["elsewhere", "same_image"])
def test_the_right_crop_fills_the_hole(distractors):
    """A hole beside its crop, or a second candidate that fits."""
    task = task_of(PatchFit, 12, distractors=distractors)
    for example in task.examples("train"):
        whole = Noise().open(example.image_path)
        holed, *crops = shown(task, example)
        rows, columns = np.nonzero((pixels(holed) == GREY).all(axis=2))
        left, upper = int(columns.min()), int(rows.min())
        assert (columns.max() - left, rows.max() - upper, len(rows)) == (11, 11, 144)  # a quarter of 49, rounded down
        found = [inside(crop, whole) for crop in crops]
        for number, crop in enumerate(crops, 2):
            filled = holed.copy()
            filled.paste(crop, (left, upper))
            assert (filled.tobytes() == whole.tobytes()) == (str(number) == task.answer(example))
        if distractors == "elsewhere":
            x1, y1, x2, y2 = example.box
            assert left <= (x1 + x2) / 2 <= left + 12 and upper <= (y1 + y2) / 2 <= upper + 12
            assert sum(map(len, found)) == 1
        else:
            assert sorted(map(len, found)) == [1] * 4
            corners = [place[0] for place in found]
            apart = [max(abs(a - c), abs(b - d)) for a, b in corners for c, d in corners if (a, b) != (c, d)]
            assert min(apart) >= 12


def test_wrong_candidates_are_of_different_images():
    """Twice the same wrong crop, which is then known to be wrong; an endless search where there are too few images."""
    for images, different in ((4, 4), (3, 3), (2, 2)):
        task = task_of(PatchFit, images)
        for example in task.examples("train"):
            crops = shown(task, example)[1:]
            assert len(crops) == 4 and len({crop.tobytes() for crop in crops}) == different


def test_the_hole_may_be_at_any_candidate():
    """Always around the corpus' crop, so that the candidate with an object in its middle is known to be right."""
    task = task_of(PatchFit, 40, distractors="same_image")
    at_crop = 0
    for example in task.examples("train"):
        crop = shown(task, example)[int(task.answer(example)) - 1]
        ((left, upper),) = inside(crop, Noise().open(example.image_path))
        at_crop += left <= example.box[0] <= left + 4 and upper <= example.box[1] <= upper + 6
    assert at_crop < 20


def test_one_image_has_squares_enough_of_its_own():
    """An image that is refused for others that are not needed."""
    task = task_of(PatchFit, 1, distractors="same_image")
    assert len(shown(task, task.examples("train")[0])) == 5
    with pytest.raises(LocusError, match="all train examples are of one image"):
        task_of(PatchFit, 1)


def test_wrong_settings():
    """Distractors of a kind that there is not."""
    with pytest.raises(LocusError, match=r"task\.distractors=near: give elsewhere or same_image"):
        task_of(PatchFit, distractors="near")
