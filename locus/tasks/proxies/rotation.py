"""Rotation: by which of four turns does the picture differ? (RotNet, arXiv 1803.07728; SSL4RL, arXiv 2510.16416)."""

from __future__ import annotations

import numpy as np
from PIL import Image

from locus.tasks.choices import ChoiceTask
from locus.types import CueExample

TURNS = (None, Image.Transpose.ROTATE_270, Image.Transpose.ROTATE_180, Image.Transpose.ROTATE_90)
"""Clockwise by 0, 90, 180 and 270 degrees; PIL's are counter-clockwise."""


class Rotation(ChoiceTask):
    """The image's middle square and a turned copy; the answer is the turn.

    A square, because the shape of an oblong picture tells a quarter turn from a half one.
    """

    name = "rotation"
    question = (
        "Image 2 is Image 1 turned clockwise. How many degrees is it turned? Answer with one number: 0, 90, 180 or 270."
    )
    options = ("0", "90", "180", "270")

    def pictures(
        self, example: CueExample, image: Image.Image, right: int, rng: np.random.Generator
    ) -> tuple[Image.Image, ...]:
        """The square, and the square turned."""
        side, turn = min(image.size), TURNS[right]
        left, upper = (image.width - side) // 2, (image.height - side) // 2
        square = image.crop((left, upper, left + side, upper + side))
        return square, square if turn is None else square.transpose(turn)
