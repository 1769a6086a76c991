"""Odd one out: which of four crops is not from the picture?"""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image

from locus.images.sources import ImageSource
from locus.tasks.cue_search.corpus import Corpus
from locus.tasks.proxies.crop_choice import CropChoice
from locus.types import CueExample


class OddOneOut(CropChoice):
    """The image, squares of it, and one of another image: all drawn evenly from those of their image.

    Args:
        shared: as of `CropChoice`.
    """

    name = "odd_one_out"

    def __init__(self, corpus: Corpus, source: ImageSource, **shared: Any) -> None:
        super().__init__(corpus, source, **shared)
        self.question = f"Which of Images 2 to {self.options[-1]} is not a part of Image 1? Answer with its number."

    def pictures(
        self, example: CueExample, image: Image.Image, right: int, rng: np.random.Generator
    ) -> tuple[Image.Image, ...]:
        """The image, then the candidates."""
        crops = [image.crop(place) for place in self.places(example, self.candidates - 1, rng)]
        crops[right:right] = self.foreign(example, 1, centre=False, rng=rng)
        return image, *crops
