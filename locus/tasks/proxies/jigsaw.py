"""Jigsaw: in which order do the pieces of an image lie? (Visual Jigsaw, arXiv 2509.25190.)

Of the published task: pieces as images of their own, in mixed order; the answer lists, place by place from the upper
left one, the number of the piece that belongs there; the reward is 1 for the right order, for any other permutation γ
times the share of places that are right (γ = 0.2), and 0 for what is no permutation (section 3.1.1). The authors' code
gives a part of it from five pieces on only. They train on 3 x 3.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import factorial
from typing import Any, overload

import numpy as np
from PIL import Image

from locus.errors import LocusError
from locus.images.sources import ImageSource
from locus.tasks.choices import ChoiceTask
from locus.tasks.cue_search.corpus import Corpus
from locus.types import CueExample

MOST_PIECES = 20
"""Whose orders have numbers of 64 bits."""


class Orders(Sequence[str]):
    """All orders of ``pieces`` numbers from 1 on, as text, the ascending one first: counted, not stored."""

    def __init__(self, pieces: int) -> None:
        self.pieces = pieces

    def __len__(self) -> int:
        return factorial(self.pieces)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[str]: ...
    def __getitem__(self, index: int | slice) -> str | Sequence[str]:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        if not 0 <= index < len(self):
            raise IndexError(f"order {index} of {len(self)}")
        left, order = list(range(1, self.pieces + 1)), []
        while left:
            first, index = divmod(index, factorial(len(left) - 1))
            order.append(left.pop(first))
        return ", ".join(map(str, order))

    def index(self, value: Any, start: int = 0, stop: int | None = None) -> int:
        """The number of an order; the bounds of `Sequence.index` are not needed."""
        order = [int(number) for number in value.split(",")]
        behind = (sum(later < number for later in order[place + 1 :]) for place, number in enumerate(order))
        return sum(count * factorial(self.pieces - 1 - place) for place, count in enumerate(behind))


class Jigsaw(ChoiceTask):
    """The pieces of the image; the answer is their order.

    Args:
        grid: rows and columns of pieces; all are of one size, so a few pixels at the right and lower edge may be
            left out.
        partial: γ, what a wrong order earns times its share of right places; 0 rewards the whole order alone.
        shared: as of `ChoiceTask`.
    """

    name = "jigsaw"
    labels = {**ChoiceTask.labels, "places": "right places", "order": "order, also in part"}

    def __init__(
        self, corpus: Corpus, source: ImageSource, grid: Sequence[int] = (2, 2), partial: float = 0.2, **shared: Any
    ) -> None:
        super().__init__(corpus, source, **shared)
        rows, columns = grid
        if min(rows, columns) < 1 or not 2 <= rows * columns <= MOST_PIECES:
            raise LocusError(f"task.grid={list(grid)}: give rows and columns of 2 to {MOST_PIECES} pieces")
        if not 0 <= partial < 1:
            raise LocusError(f"task.partial={partial}: give 0 to less than 1, which the right order earns")
        self.grid, self.pieces, self.partial = (rows, columns), rows * columns, partial
        self.options = Orders(self.pieces)
        self.question = (
            f"Images 1 to {self.pieces} are the parts of one image, cut into {rows} x {columns} places. "
            "In which order are they in the image? Answer with their numbers, row by row from the top left."
        )

    def pictures(
        self, example: CueExample, image: Image.Image, right: int, rng: np.random.Generator
    ) -> tuple[Image.Image, ...]:
        """The pieces, so that the right order puts each in its place."""
        rows, columns = self.grid
        width, height = image.width // columns, image.height // rows
        shown: list[Any] = [None] * self.pieces
        for place, number in enumerate(self.options[right].split(", ")):
            x, y = place % columns * width, place // columns * height
            shown[int(number) - 1] = image.crop((x, y, x + width, y + height))
        return tuple(shown)

    def credit(self, said: str, right: str) -> dict[str, float]:
        """``order``: 1, or γ times ``places``; ``accuracy``: the whole order; ``places``: share of right ones."""
        order = [int(number) for number in right.split(",")]
        try:
            answered = [int(number) for number in said.split(",")]
        except ValueError:
            answered = []
        valid = sorted(answered) == sorted(order)
        places = sum(a == b for a, b in zip(answered, order, strict=True)) / self.pieces if valid else 0.0
        exact = float(places == 1)
        return {"order": exact or self.partial * places, "accuracy": exact, "places": places}
