"""Jigsaw: pieces, orders and the published partial credit, by hand."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest

from locus.errors import LocusError
from locus.tasks.proxies.jigsaw import Jigsaw, Orders
from tests.support.choice_tasks import SIZE, Noise, check_chance, check_form, earned, pixels, shown, task_of


@pytest.mark.parametrize("grid", [(2, 2), (3, 3), (1, 3)])
def test_the_right_order_puts_the_image_together(grid):
    """Transposed grids, inverted orders, pieces of different sizes."""
    task, (rows, columns) = task_of(Jigsaw, 6, grid=grid), grid
    for example in task.examples("train"):
        pieces = [pixels(piece) for piece in shown(task, example)]
        order = [int(number) - 1 for number in task.answer(example).split(", ")]
        lines = [np.hstack([pieces[n] for n in order[row * columns : (row + 1) * columns]]) for row in range(rows)]
        width, height = SIZE[0] // columns * columns, SIZE[1] // rows * rows
        assert np.array_equal(np.vstack(lines), pixels(Noise().open(example.image_path))[:height, :width])
        assert {piece.shape for piece in pieces} == {(height // rows, width // columns, 3)}


def test_orders_are_counted():
    """An order that never comes, comes twice, or whose number is another's; 9! texts in memory."""
    orders = Orders(4)
    expected = [", ".join(map(str, order)) for order in permutations(range(1, 5))]
    assert list(orders) == expected and orders[22:] == expected[22:]
    assert [orders.index(text) for text in expected] == list(range(24))
    nine = Orders(9)
    assert len(nine) == 362880 and nine[len(nine) - 1] == "9, 8, 7, 6, 5, 4, 3, 2, 1"
    assert nine.index(nine[123456]) == 123456


def test_partial_credit_by_hand():
    """arXiv 2509.25190, section 3: 1; 0.2 times the share of right places of a permutation; else 0."""
    task = task_of(Jigsaw, grid=(3, 3))
    right = "3, 1, 2, 9, 8, 7, 4, 5, 6"
    values = {
        right: (1.0, 1.0, 1.0),
        "3,1,2,9,8,7,4,5,6": (1.0, 1.0, 1.0),
        "1, 3, 2, 9, 8, 7, 4, 5, 6": (0.2 * 7 / 9, 0.0, 7 / 9),
        "1, 2, 3, 4, 5, 6, 7, 8, 9": (0.0, 0.0, 0.0),
        "9, 1, 2, 3, 8, 6, 7, 4, 5": (0.2 * 3 / 9, 0.0, 3 / 9),
        "3, 1, 2, 9, 8, 7, 4, 5, 5": (0.0, 0.0, 0.0),
        "3, 1, 2": (0.0, 0.0, 0.0),
        right + ", 1": (0.0, 0.0, 0.0),
        "three": (0.0, 0.0, 0.0),
        "": (0.0, 0.0, 0.0),
    }
    for said, parts in values.items():
        assert tuple(task.credit(said, right).values()) == pytest.approx(parts), said
    assert list(task.credit(right, right)) == ["order", "accuracy", "places"]
    whole = task_of(Jigsaw, partial=0.0)
    assert whole.credit("2, 1, 3, 4", "1, 2, 3, 4") == {"order": 0.0, "accuracy": 0.0, "places": 0.5}


def test_the_reward_counts_partial_credit():
    """A reward of the exact order alone: (1 - 0.1) * 0.2 * 2/4 + 0.1 for two places of four."""
    task = task_of(Jigsaw)
    example = task.examples("train")[0]
    a, b, c, d = task.answer(example).split(", ")
    assert earned(task, example, ", ".join((b, a, c, d))).total == pytest.approx(0.9 * 0.2 * 0.5 + 0.1)


def test_form_and_chance():
    """Gold, foil and access; one in 24, or in 362 880; every order comes about as often."""
    check_form(task_of(Jigsaw), task_of(Jigsaw).examples("train"))
    check_form(task_of(Jigsaw, grid=(3, 3)), task_of(Jigsaw).examples("validation"))
    task = task_of(Jigsaw, 240)
    assert (task.chance([]), task_of(Jigsaw, grid=(3, 3)).chance([])) == (1 / 24, 1 / 362880)
    check_chance(task)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [({"grid": (1, 1)}, "2 to 20 pieces"), ({"grid": (5, 5)}, "2 to 20"), ({"partial": 1.0}, "less than 1")],
)
def test_wrong_settings(wrong, says):
    """A puzzle of one piece, of too many, or a wrong order that earns 1."""
    with pytest.raises(LocusError, match=says):
        task_of(Jigsaw, **wrong)
