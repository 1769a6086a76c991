"""What tasks share that show the image and some crops to choose from: squares of one size, from here or elsewhere."""

from __future__ import annotations

from itertools import cycle, islice
from math import ceil
from typing import Any

import numpy as np
from PIL import Image

from locus.errors import LocusError
from locus.images.sources import ImageSource
from locus.tasks.choices import ChoiceTask
from locus.tasks.corpus_task import elsewhere
from locus.tasks.cue_search.corpus import Corpus
from locus.tasks.cue_search.cues import open_image
from locus.types import CueExample, Frame

Square = tuple[int, int, int, int]
"""Left, upper, right and lower edge in pixels of the image file."""


class CropChoice(ChoiceTask):
    """Image 1, and squares of it or of other images as Images 2, 3, ...; the answer is the number of one of them.

    Args:
        candidates: how many squares.
        side: of a square, as a share of the image's shorter side.
        shared: as of `ChoiceTask`.
    """

    def __init__(
        self, corpus: Corpus, source: ImageSource, candidates: int = 4, side: float = 0.25, **shared: Any
    ) -> None:
        super().__init__(corpus, source, **shared)
        if candidates < 2 or not 0 < side <= 1 or (int(1 / side) - 1) ** 2 < candidates:
            raise LocusError(
                f"task.candidates={candidates} task.side={side}: give at least 2 candidates, and a side that "
                f"leaves room for as many squares of an image, whatever its crop: at most "
                f"{1 / (1 + ceil(max(2, candidates) ** 0.5)):.2g}"
            )
        self.images = {split: len(examples.counts("image_id")) for split, examples in corpus.splits.items()}
        for split, images in self.images.items():
            if images == 1 and self.needs_others:
                raise LocusError(f"task {self.name}: all {split} examples are of one image; use data with more images")
        self.candidates, self.side = candidates, side
        self.options = tuple(str(number) for number in range(2, candidates + 2))

    @property
    def needs_others(self) -> bool:
        """Whether squares of other images are shown."""
        return True

    def outline(self, example: CueExample, frame: Frame) -> tuple[str, list[tuple[int, int]]]:
        """As `CorpusTask.outline`, without the other images."""
        text, side = self.text(), side_of(example, self.side)
        return text, [(example.width, example.height), *[(side, side)] * self.candidates]

    def places(self, example: CueExample, count: int, rng: np.random.Generator) -> list[Square]:
        """Different squares of the example's image, drawn evenly from those of `lattice`."""
        squares = lattice(centred(example, side_of(example, self.side)), example.width, example.height)
        return [squares[index] for index in rng.permutation(len(squares))[:count]]

    def foreign(self, example: CueExample, count: int, centre: bool, rng: np.random.Generator) -> list[Image.Image]:
        """Squares of other images, of this one's size: around their crops, or any of their `lattice`.

        No two are of one image, where there are enough: of two that are alike neither could be right. Where an image
        is smaller than the square, its middle is enlarged.
        """
        others: dict[str, CueExample] = {}
        while len(others) < min(count, self.images[example.split] - 1):
            other = elsewhere(self.corpus, example, rng)
            others.setdefault(other.image_id, other)
        side, crops = side_of(example, self.side), []
        for other in islice(cycle(others.values()), count):
            square = centred(other, min(side, other.width, other.height))
            squares = [square] if centre else lattice(square, other.width, other.height)
            crop = open_image(self.source, other).crop(squares[int(rng.integers(len(squares)))])
            crops.append(crop if crop.width == side else crop.resize((side, side), Image.Resampling.BICUBIC))
        return crops


def side_of(example: CueExample, share: float) -> int:
    """Pixels of a square's side: this share of the image's shorter side, rounded down."""
    return max(1, int(share * min(example.width, example.height)))


def centred(example: CueExample, side: int) -> Square:
    """The square around the middle of the example's crop, moved into the image."""
    x1, y1, x2, y2 = example.box
    left = min(max(round((x1 + x2 - side) / 2), 0), example.width - side)
    upper = min(max(round((y1 + y2 - side) / 2), 0), example.height - side)
    return left, upper, left + side, upper + side


def lattice(square: Square, width: int, height: int) -> list[Square]:
    """All squares that lie from this one by whole sides, in the image: none overlaps another, and it is one of them."""
    side = square[2] - square[0]
    lefts = range(square[0] % side, width - side + 1, side)
    uppers = range(square[1] % side, height - side + 1, side)
    return [(left, upper, left + side, upper + side) for upper in uppers for left in lefts]
