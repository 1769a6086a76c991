"""Words for boxes: right, few, and counted where they suit another box as well."""

from __future__ import annotations

import numpy as np
import pytest

from locus.images.labels import MOST_WORDS, expression_fault
from locus.scenes.source import SceneSource
from locus.tasks.cue_search.expressions import Expression, referring_expressions

SIZE = (300, 150)


def box(x: float, y: float, side: float = 10) -> tuple[float, ...]:
    """A square around a centre."""
    return (x - side / 2, y - side / 2, x + side / 2, y + side / 2)


def texts(labels: str | list[str], *boxes: tuple[float, ...]) -> list[str]:
    """Of boxes of one label, or of these."""
    labels = [labels] * len(boxes) if isinstance(labels, str) else labels
    return [found.text for found in referring_expressions(labels, np.array(boxes), SIZE)]


def test_a_label_alone_where_it_is_enough():
    """Places and ranks that nobody needs."""
    assert texts(["cup", "red bowl"], box(10, 10), box(12, 12)) == ["the cup", "the red bowl"]


def test_places_by_hand():
    """Left and right swapped, thirds of the wrong side, or an edge that falls off the grid."""
    centres = [(x, y) for y in (10, 75, 145) for x in (10, 150, 295)]
    assert texts("cup", *(box(*centre) for centre in centres)) == [
        "the cup in the upper left", "the cup at the top", "the cup in the upper right",
        "the cup at the left", "the cup in the centre", "the cup at the right",
        "the cup in the lower left", "the cup at the bottom", "the cup in the lower right",
    ]  # fmt: skip
    assert texts("cup", (299, 149, 300, 150), box(150, 75)) == ["the cup in the lower right", "the cup in the centre"]


@pytest.mark.parametrize(
    ("boxes", "ranks"),
    [
        ((box(20, 20, 10), box(50, 20, 20)), ("smaller", "larger")),
        ((box(20, 20), box(50, 20)), ("left one", "right one")),
        ((box(20, 40), box(20, 10)), ("lower one", "upper one")),
        ((box(20, 20, 10), box(50, 20, 10.5)), ("left one", "right one")),  # 10 % of area: nobody sees it
    ],
)
def test_two_in_a_place(boxes, ranks):
    """Larger called smaller, or an order that is too close to be seen preferred to a clear one."""
    assert texts("cup", *boxes) == [f"the cup in the upper left, the {rank} of two" for rank in ranks]


def test_ranks_among_many():
    """Counting from the farther end, off by one, or by the order of the list."""
    row = [box(x, 20) for x in (50, 10, 90, 30, 70)]
    ranks = ["third from the left", "left-most", "right-most", "second from the left", "second from the right"]
    assert texts("cup", *row) == [f"the cup in the upper left, the {rank} of five" for rank in ranks]
    # The middle one of the row is the largest: the end of an order comes before its middle.
    row[0] = box(50, 20, 14)
    assert texts("cup", *row)[0] == "the cup in the upper left, the largest of five"


def test_what_stays_ambiguous_is_marked():
    """Two boxes that no rank tells apart: words that pretend to, or a count that leaves them out."""
    found = referring_expressions(["cup"] * 3, np.array([box(20, 20), box(22, 21), box(60, 20)]), SIZE)
    same = Expression("the cup in the upper left, one of three", unique=False)
    assert found == [same, same, Expression("the cup in the upper left, the right-most of three", unique=True)]


@pytest.mark.parametrize("number", [2, 5, 14, 60])
def test_unique_expressions_differ(number):
    """Random boxes, many in one place: two that are called unique must not share their words; all stay short."""
    rng = np.random.default_rng(number)
    for _ in range(20):
        corner = rng.uniform(0, 100, (number, 2))
        boxes = np.concatenate([corner, corner + rng.uniform(4, 50, (number, 2))], axis=1)
        found = referring_expressions(["traffic light"] * number, boxes, SIZE)
        unique = [one.text for one in found if one.unique]
        assert len(set(unique)) == len(unique) and not {one.text for one in found if not one.unique} & set(unique)
        assert not any(expression_fault(one.text) for one in found)


def test_scenes_need_their_label_only():
    """A scene's object is the only one of its label."""
    source = SceneSource(50, 128, 128, objects=(4, 7), object_side=(10, 26))
    for index in range(50):
        items = source.scene(index).objects
        found = referring_expressions([item.label for item in items], np.array([i.box.xyxy for i in items]), (128, 128))
        assert [one.text for one in found] == [f"the {item.label}" for item in items]
        assert len({one.text for one in found}) == len(items) and all(one.unique for one in found)


@pytest.mark.parametrize(
    ("expression", "says"),
    [("a " * MOST_WORDS, ""), ("a " * (MOST_WORDS + 1), "25 words"), (" ", "is empty"), (None, "is empty"),
     ("the cup\non the table", "one line"), ("the cup <|image_pad|>", "tags")],
)  # fmt: skip
def test_faults(expression, says):
    """An expression of 25 words, none at all, or one that puts an image token into the prompt."""
    assert says in expression_fault(expression) and bool(expression_fault(expression)) == bool(says)
