"""PatchFit: which of four crops fills the hole in the image?"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from PIL import Image

from locus.errors import LocusError
from locus.images.sources import ImageSource
from locus.tasks.cue_search.corpus import Corpus
from locus.tasks.proxies.crop_choice import CropChoice, centred, side_of
from locus.types import CueExample

GREY = (128, 128, 128)


class PatchFit(CropChoice):
    """The image with a grey square, and squares to fill it with.

    Seen by themselves the candidates do not tell which is right: with ``elsewhere`` each is around a crop of the
    corpus; with ``same_image`` the hole is at any of them.

    Args:
        distractors: where the wrong ones are from: ``elsewhere``, other images; ``same_image``, other places of this
            image, which is harder (where an image is flat, two may look alike).
        shared: as of `CropChoice`.
    """

    name = "patch_fit"

    def __init__(
        self,
        corpus: Corpus,
        source: ImageSource,
        distractors: Literal["elsewhere", "same_image"] = "elsewhere",
        **shared: Any,
    ) -> None:
        if distractors not in ("elsewhere", "same_image"):
            raise LocusError(f"task.distractors={distractors}: give elsewhere or same_image")
        self.distractors = distractors
        super().__init__(corpus, source, **shared)
        last = self.options[-1]
        self.question = (
            f"A part of Image 1 is hidden under a gray box. Which of Images 2 to {last} is the part? "
            "Answer with its number."
        )

    @property
    def needs_others(self) -> bool:
        """Not with ``same_image``."""
        return self.distractors == "elsewhere"

    def pictures(
        self, example: CueExample, image: Image.Image, right: int, rng: np.random.Generator
    ) -> tuple[Image.Image, ...]:
        """The image with the hole, then the candidates."""
        if self.distractors == "same_image":
            places = self.places(example, self.candidates, rng)
            hole, crops = places[right], [image.crop(place) for place in places]
        else:
            hole = centred(example, side_of(example, self.side))
            crops = self.foreign(example, self.candidates - 1, centre=True, rng=rng)
            crops.insert(right, image.crop(hole))
        holed = image.copy()
        holed.paste(GREY, hole)
        return holed, *crops
