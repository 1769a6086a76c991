"""Corpus rows -> pictures. Item i depends on row i alone: not on order of access, worker or epoch."""

from __future__ import annotations

from collections.abc import Sequence

from torch.utils.data import Dataset

from locus.errors import LocusError
from locus.images.sources import ImageSource
from locus.tasks.cue_search.cues import PLAIN, Cue
from locus.types import CueExample, CuePixels


class CueDataset(Dataset[CuePixels]):
    """Opens the image of each example and makes its cue.

    Args:
        examples: rows of the corpus.
        source: opens their images.
        cue: makes the picture of a crop, or the expression that stands for it.

    Raises (on access):
        LocusError: the image is missing, unreadable, or of another size than the corpus says.
    """

    def __init__(self, examples: Sequence[CueExample], source: ImageSource, cue: Cue = PLAIN) -> None:
        self.examples = examples
        self.source = source
        self.cue = cue

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> CuePixels:
        example = self.examples[index]
        image = self.source.open(example.image_path)
        if image.size != (example.width, example.height):
            raise LocusError(
                f"image {example.image_path}: is {image.width}x{image.height}, the corpus says "
                f"{example.width}x{example.height}; use the images that the boxes were drawn on"
            )
        return CuePixels(example, image, self.cue(example, image))
