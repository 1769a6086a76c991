"""Position: cells by hand, and the chance of crops that do not lie evenly."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from locus.errors import LocusError
from locus.tasks.proxies.position import Position
from tests.support.choice_tasks import check_form, earned, inside, shown, task_of


@pytest.mark.parametrize(
    ("box", "three", "two_by_three"),
    [
        ((0, 0, 8, 6), "1", "1"),
        ((28, 0, 36, 6), "2", "2"),  # centre 32 of 65: the middle third
        ((57, 43, 65, 49), "9", "6"),
        ((0, 21, 8, 28), "4", "4"),  # centre 24.5 of 49: on the border of two rows, the lower one's
        ((40, 30, 48, 36), "9", "6"),  # centre (44, 33): past 2/3 of 65 and of 49, 43.3 and 32.7
        ((39, 29, 47, 35), "5", "5"),  # centre (43, 32): before both
    ],
)
def test_cells_by_hand(box, three, two_by_three):
    """Columns taken for rows, counting from 0, a corner in place of the centre."""
    example = replace(task_of(Position).examples("train")[0], box=tuple(map(float, box)))
    assert task_of(Position).answer(example) == three
    assert task_of(Position, grid=(2, 3)).answer(example) == two_by_three


def test_the_crop_is_shown_as_cue_search_shows_it():
    """Another crop, or a frame around it that tells the place."""
    task = task_of(Position)
    for example in task.examples("train"):
        image, crop = shown(task, example)
        assert inside(crop, image) == [tuple(map(int, example.box[:2]))] and crop.size == (8, 6)


def test_form_and_chance():
    """The commonest cell's share, counted; no constant answer is right more often."""
    task = task_of(Position, 120)
    examples = list(task.examples("train"))
    check_form(task, examples[:4])
    right = [sum(earned(task, one, option).parts["accuracy"] for one in examples) for option in task.options]
    assert task.chance(examples) == max(right) / 120 and sum(right) == 120
    assert task.chance(examples) > 1 / 9
    assert task.chance([one for one in examples if task.answer(one) == "3"]) == 1
    blind = {task.blind(examples[0], None, np.random.default_rng(seed)) for seed in range(60)}
    assert len(blind) == 9


def test_chance_of_large_crops():
    """Blind answers that tell a large crop's cell by its size alone, and are taken for ones that saw the picture."""
    task = task_of(Position)
    boxes = [(0, 0, 8, 6)] * 4 + [(2, 3, 60, 46)] * 3 + [(40, 1, 48, 43), (1, 2, 9, 44)]  # two oblong ones: 6 and 4
    examples = [replace(task.examples("train")[0], box=tuple(map(float, box))) for box in boxes]
    assert [task.answer(one) for one in examples] == ["1"] * 4 + ["5"] * 3 + ["6", "4"]
    assert task.chance(examples) == pytest.approx(8 / 9)


def test_wrong_settings():
    """A grid of one cell."""
    with pytest.raises(LocusError, match=r"task\.grid=\[1, 1\]: give rows and columns of at least 2 cells"):
        task_of(Position, grid=(1, 1))
