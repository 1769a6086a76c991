"""What a prompt shows of its crop: the picture (the cue), also augmented; expressions are in `text_cues`."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from PIL import Image, ImageFilter
from torchvision.transforms.v2 import functional

from locus.errors import LocusError
from locus.images.sources import ImageSource
from locus.tasks.cue_search.corpus import CueTable
from locus.types import CueExample


class Cue(Protocol):
    """What stands for a crop in its prompt: a picture or words; a function of its arguments and the settings alone."""

    def picture(self, example: CueExample, image: Image.Image) -> Image.Image | None:
        """The picture of the crop; None where words stand for it."""

    def expression(self, example: CueExample) -> str:
        """Words in place of the picture; empty where the picture is shown."""

    def over(self, source: ImageSource, examples: CueTable) -> Cue:
        """The same for these examples of this source, which may tell more of them than their pictures."""

    def audit(self, examples: Sequence[CueExample]) -> dict[str, Any]:
        """Counts for ``run.json``; raises LocusError unless every example can be served."""


@dataclass(frozen=True)
class VisualCue:
    """The crop's picture, changed by ``augment`` where that is given."""

    augment: CueAugmentation | None = None

    def picture(self, example: CueExample, image: Image.Image) -> Image.Image:
        """The cue; raises LocusError when the box has no pixel in the image."""
        cue = render_cue(image, example.box, example.cue_scale)
        return cue if self.augment is None else self.augment(cue, example.example_id)

    def expression(self, example: CueExample) -> str:
        """None: the picture is shown."""
        return ""

    def over(self, source: ImageSource, examples: CueTable) -> VisualCue:
        """Itself: a crop's picture is all it needs."""
        return self

    def audit(self, examples: Sequence[CueExample]) -> dict[str, Any]:
        """Nothing to count: any crop can be shown."""
        return {}


PLAIN = VisualCue()
"""The crop as it is: the paper's cue."""


@dataclass(frozen=True)
class ShuffledCue:
    """A control: the crop of another example from another image, so that nothing in the image is the cue's place.

    Which one depends on (seed, example id) alone. The target stays, and so do all sizes, colours and rewards.
    """

    seed: int
    source: ImageSource | None = None
    """Of the corpus; given by `over`, as the examples."""
    examples: CueTable | None = None

    def picture(self, example: CueExample, image: Image.Image) -> Image.Image:
        """The other example's cue; raises LocusError for an image that cannot be read."""
        assert self.source is not None, "`over` gives it"
        other = self.other(example)
        return PLAIN.picture(other, open_image(self.source, other))

    def other(self, example: CueExample) -> CueExample:
        """The example whose crop is shown."""
        assert self.examples is not None, "`over` gives them"
        rng = generator(self.seed, example.example_id)
        return self.examples[int(rng.choice(np.flatnonzero(self._images != example.image_id)))]

    def expression(self, example: CueExample) -> str:
        """None: a picture is shown."""
        return ""

    def over(self, source: ImageSource, examples: CueTable) -> ShuffledCue:
        """The same, shuffled among these examples."""
        return replace(self, source=source, examples=examples)

    def audit(self, examples: Sequence[CueExample]) -> dict[str, Any]:
        """How many are shuffled; raises LocusError when all are of one image."""
        if len(set(self._images)) < 2:
            raise LocusError("cue=shuffled: all examples are of one image; use data with more images")
        return {"shuffled": len(examples)}

    @cached_property
    def _images(self) -> np.ndarray:
        """[N] image of each example."""
        assert self.examples is not None, "`over` gives them"
        return np.array(self.examples.columns["image_id"].to_pylist())


def generator(seed: int, name: str) -> np.random.Generator:
    """Random numbers of an example's own, the same at every access, whatever was drawn before."""
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:8], "little"))


_ROUNDING = 1e-6  # a side that is whole but for float rounding stays whole


def whole_pixels(boxes: np.ndarray, width: np.ndarray | int, height: np.ndarray | int) -> np.ndarray:
    """[..., 4] xyxy boxes in the file frame, rounded outward to whole pixels and clipped to the image.

    A cue is made of whole pixels, so this is the smallest region that shows all of the box.
    """
    low, high = np.floor(boxes[..., :2] + _ROUNDING), np.ceil(boxes[..., 2:] - _ROUNDING)
    size = np.stack(np.broadcast_arrays(width, height), axis=-1)
    return np.concatenate([np.clip(low, 0, size), np.clip(high, 0, size)], axis=-1)


def open_image(source: ImageSource, example: CueExample) -> Image.Image:
    """The full image of an example.

    Raises LocusError for one that is missing, unreadable, or of another size than the corpus says.
    """
    image = source.open(example.image_path)
    if image.size != (example.width, example.height):
        raise LocusError(
            f"image {example.image_path}: is {image.width}x{image.height}, the corpus says "
            f"{example.width}x{example.height}; use the images that the boxes were drawn on"
        )
    return image


def render_cue(image: Image.Image, box: tuple[float, float, float, float], scale: float = 1.0) -> Image.Image:
    """The cue of a box.

    Args:
        image: the full image as stored.
        box: xyxy, file frame; fractional sides are rounded outward.
        scale: the cue's size is this multiple of the crop's (bicubic, aspect kept to the pixel), at least 1 px.

    Raises:
        LocusError: the box has no pixel in the image.
    """
    x1, y1, x2, y2 = (int(value) for value in whole_pixels(np.array(box), *image.size))
    if x2 <= x1 or y2 <= y1:
        raise LocusError(f"box {list(box)} has no pixel in an image of {image.width}x{image.height}; fix the corpus")
    crop = image.crop((x1, y1, x2, y2))
    size = (max(1, round(crop.width * scale)), max(1, round(crop.height * scale)))
    return crop if size == crop.size else crop.resize(size, Image.Resampling.BICUBIC)


Range = Sequence[float]
"""[low, high]."""
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
        rng = generator(self.seed, example_id)
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
