"""What a prompt shows of its crop: the picture (the cue), also augmented; expressions are in `text_cues`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from PIL import Image

from locus.data.cue_augmentation import CueAugmentation
from locus.data.cue_rendering import render_cue
from locus.types import CueExample


class Cue(Protocol):
    """Makes what stands for a crop in its prompt."""

    def __call__(self, example: CueExample, image: Image.Image) -> Image.Image | str:
        """The picture of the crop, or an expression; a function of its arguments and the settings alone."""

    def audit(self, examples: Sequence[CueExample]) -> dict[str, Any]:
        """Counts for ``run.json``; raises LocusError unless every example can be served."""


@dataclass(frozen=True)
class VisualCue:
    """The crop's picture, changed by ``augment`` where that is given."""

    augment: CueAugmentation | None = None

    def __call__(self, example: CueExample, image: Image.Image) -> Image.Image:
        """The cue; raises LocusError when the box has no pixel in the image."""
        cue = render_cue(image, example.box, example.cue_scale)
        return cue if self.augment is None else self.augment(cue, example.example_id)

    def audit(self, examples: Sequence[CueExample]) -> dict[str, Any]:
        """Nothing to count: any crop can be shown."""
        return {}


PLAIN = VisualCue()
"""The crop as it is: the paper's cue."""
