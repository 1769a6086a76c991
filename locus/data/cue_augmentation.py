"""Changes of a cue after which it shows the same region, but not the same pixels."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFilter
from torchvision.transforms.v2 import functional

from locus.errors import LocusError

Range = Sequence[float]
LIMITS = {
    "scale": (1e-3, float("inf")),
    "brightness": (0.0, float("inf")),
    "contrast": (0.0, float("inf")),
    "saturation": (0.0, float("inf")),
    "hue": (-0.5, 0.5),
    "blur": (0.0, float("inf")),
}
"""What each range may hold."""


@dataclass(frozen=True)
class CueAugmentation:
    """One draw of size, mirror image, colours and sharpness for each example, uniform in its range.

    The draw depends on (seed, example id) alone, so that an example has the same cue in every epoch and after a resume.
    Raises LocusError for a range that cannot be meant.
    """

    scale: Range
    """Of the cue's size, at least 1 px."""
    flip: float
    """Probability of a mirror image, left to right."""
    brightness: Range
    """Factor; 1 leaves it. So with the next two (torchvision's ``adjust_…``)."""
    contrast: Range
    saturation: Range
    hue: Range
    """Turns of the colour wheel, -0.5 to 0.5."""
    blur: Range
    """Standard deviation of a Gaussian in pixels of the cue."""
    seed: int

    def __post_init__(self) -> None:
        for name, (least, most) in LIMITS.items():
            low, high = getattr(self, name)
            if not least <= low <= high <= most:
                raise LocusError(
                    f"cue.augment.{name}=[{low}, {high}]: give two ascending numbers from {least:g} to {most:g}"
                )
        if not 0 <= self.flip <= 1:
            raise LocusError(f"cue.augment.flip={self.flip}: give a probability, 0 to 1")

    def __call__(self, cue: Image.Image, example_id: str) -> Image.Image:
        """The example's cue, changed."""
        digest = hashlib.sha256(f"{self.seed}/{example_id}".encode()).digest()
        rng = np.random.default_rng(int.from_bytes(digest[:8], "little"))
        drawn = {name: float(rng.uniform(*getattr(self, name))) for name in LIMITS}
        size = [max(1, round(side * drawn["scale"])) for side in (cue.height, cue.width)]
        cue = functional.resize(cue, size, functional.InterpolationMode.BICUBIC)
        if rng.random() < self.flip:
            cue = functional.horizontal_flip(cue)
        cue = functional.adjust_brightness(cue, drawn["brightness"])
        cue = functional.adjust_contrast(cue, drawn["contrast"])
        cue = functional.adjust_saturation(cue, drawn["saturation"])
        cue = functional.adjust_hue(cue, drawn["hue"])
        # PIL's: torchvision's pads by reflection, which a cue of few pixels is too small for.
        return cue.filter(ImageFilter.GaussianBlur(drawn["blur"]))
