"""Words for a box among the boxes of its image: its label, then its place, then its rank there.

Only as much is said as tells it from the others of its label (Dale and Reiter, "Computational Interpretations of the
Gricean Maxims in the Generation of Referring Expressions", 1995): "the cup", "the cup in the upper left", "the cup in
the upper left, the larger of two".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from locus.boxes import area

PLACES = (
    ("in the upper left", "at the top", "in the upper right"),
    ("at the left", "in the centre", "at the right"),
    ("in the lower left", "at the bottom", "in the lower right"),
)
"""Thirds of the height, then of the width, by the box's centre."""
CLEAR_SHIFT = 0.02
"""Share of the image's side by which centres must differ for an order that one can see."""
CLEAR_RATIO = 1.2
"""... and the ratio of areas."""
COUNTS = ("none", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
ORDINALS = ("second", "third", "fourth", "fifth", "sixth")
ENDS = (("smallest", "largest"), ("left-most", "right-most"), ("top-most", "bottom-most"))
"""By area, across and down: the first and the last in that order."""
ENDS_OF_TWO = (("smaller", "larger"), ("left one", "right one"), ("upper one", "lower one"))
INNER = (
    ("{} smallest", "{} largest"),
    ("{} from the left", "{} from the right"),
    ("{} from the top", "{} from the bottom"),
)


@dataclass(frozen=True, slots=True)
class Expression:
    """Words for a box. Example: ``Expression("the cup in the upper left, the larger of two", unique=True)``."""

    text: str
    unique: bool
    """False: they suit another box of the image, too."""


def referring_expressions(labels: Sequence[str], boxes: np.ndarray, size: tuple[float, float]) -> list[Expression]:
    """Words for every box of one image.

    Args:
        labels: N names.
        boxes: [N, 4] xyxy, file frame.
        size: width and height of the image.
    """
    texts = [f"the {label}" for label in labels]
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2 / np.array(size)  # [N, 2] shares of the image
    cells = np.clip((centres * 3).astype(int), 0, 2)
    for alike in _groups(texts):
        for index in alike:
            texts[index] += " " + PLACES[cells[index, 1]][cells[index, 0]]
    unique = [True] * len(texts)
    for alike in _groups(texts):
        count = COUNTS[len(alike)] if len(alike) < len(COUNTS) else len(alike)
        for index, rank in zip(alike, _ranks(centres[alike], area(boxes[alike])), strict=True):
            texts[index] += f", {rank or 'one'} of {count}"
            unique[index] = bool(rank)
    return [Expression(*words) for words in zip(texts, unique, strict=True)]


def _groups(texts: Sequence[str]) -> list[list[int]]:
    """Indices of the texts that occur more than once, together."""
    places: dict[str, list[int]] = {}
    for index, text in enumerate(texts):
        places.setdefault(text, []).append(index)
    return [group for group in places.values() if len(group) > 1]


def _ranks(centres: np.ndarray, areas: np.ndarray) -> list[str]:
    """A rank for each of n boxes, centres [n, 2] and areas [n], in the order where it is nearest to an end.

    Empty where it is clear in no order, or too far inside.
    """
    orders = ((np.log(areas), np.log(CLEAR_RATIO)), (centres[:, 0], CLEAR_SHIFT), (centres[:, 1], CLEAR_SHIFT))
    ends = ENDS_OF_TWO if len(areas) == 2 else ENDS
    words, nearest = [""] * len(areas), [len(ORDINALS) + 1] * len(areas)
    for (values, clear), end, inner in zip(orders, ends, INNER, strict=True):
        order = np.argsort(values, kind="stable")
        gaps = np.diff(values[order], prepend=-np.inf, append=np.inf)  # to the one before, and after the last
        for before, index in enumerate(order):
            after = len(order) - 1 - before
            steps, side = min(before, after), int(after < before)
            if steps < nearest[index] and min(gaps[before], gaps[before + 1]) >= clear:
                nearest[index] = steps
                words[index] = "the " + (inner[side].format(ORDINALS[steps - 1]) if steps else end[side])
    return words
