"""Position: in which cell of the image does the crop lie? (SSL4RL, arXiv 2510.16416.)

Cue search with a coarser answer: the same crop is shown in the same way, but a cell is asked for in place of a box.
SSL4RL asks for one of four quarters, by name, and its crops lie in one quarter each; here they lie where they lie, and
the cell of the centre counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from locus.errors import LocusError
from locus.images.sources import ImageSource
from locus.tasks.choices import ChoiceTask
from locus.tasks.cue_search.corpus import Corpus
from locus.tasks.cue_search.cues import render_cue
from locus.tasks.questions import best_constants
from locus.types import CueExample


class Position(ChoiceTask):
    """The image and its crop; the answer is the number of the cell that the crop's centre lies in.

    Args:
        grid: rows and columns of cells, which are numbered row by row from 1.
        shared: as of `ChoiceTask`.
    """

    name = "position"

    def __init__(self, corpus: Corpus, source: ImageSource, grid: Sequence[int] = (3, 3), **shared: Any) -> None:
        super().__init__(corpus, source, **shared)
        rows, columns = grid
        if min(rows, columns) < 1 or rows * columns < 2:
            raise LocusError(f"task.grid={list(grid)}: give rows and columns of at least 2 cells")
        self.grid = (rows, columns)
        self.options = tuple(str(number) for number in range(1, rows * columns + 1))
        self.question = (
            f"Image 1 has {rows} x {columns} places, with numbers from 1 to {rows * columns}, row by row from the top "
            "left. In which of them is the center of Image 2? Answer with one number."
        )

    def pictures(
        self, example: CueExample, image: Image.Image, right: int, rng: np.random.Generator
    ) -> tuple[Image.Image, ...]:
        """The image, and the crop as cue search shows it."""
        return image, render_cue(image, example.box, example.cue_scale)

    def right(self, example: CueExample, rng: np.random.Generator) -> int:
        """The cell of the centre; on a border the one below it, or to its right."""
        (rows, columns), (x1, y1, x2, y2) = self.grid, example.box
        row = min(int((y1 + y2) / 2 / example.height * rows), rows - 1)
        column = min(int((x1 + x2) / 2 / example.width * columns), columns - 1)
        return row * columns + column

    def chance(self, examples: Sequence[CueExample]) -> float:
        """As `best_constants`, of crops whose size leaves the same cells: a large one has its centre in the middle."""
        return best_constants((self._possible(example), self.answer(example)) for example in examples)

    def _possible(self, example: CueExample) -> tuple[tuple[int, int], ...]:
        """The first and the last row, and column, that the centre of a crop of this size can lie in."""
        x1, y1, x2, y2 = example.box
        halves = (y2 - y1) / 2 / example.height, (x2 - x1) / 2 / example.width
        return tuple(
            (int(half * cells), min(int((1 - half) * cells), cells - 1))
            for half, cells in zip(halves, self.grid, strict=True)
        )
