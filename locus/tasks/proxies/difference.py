"""Spot the difference: two pictures of one image, in one of them a region is changed; the answer is its box."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageOps
from torchvision.transforms.v2 import functional

from locus.boxes import file_box, iou
from locus.errors import by_name
from locus.images.sources import ImageSource
from locus.tasks.answers import COORDINATE_WORDS, THINK_ANSWER
from locus.tasks.box_task import BoxTask
from locus.tasks.corpus_task import SftTargets, elsewhere
from locus.tasks.cue_search.corpus import Corpus
from locus.tasks.cue_search.cues import generator, open_image, whole_pixels
from locus.tasks.cue_search.reward import BoxReward
from locus.tasks.order import Order
from locus.types import Box, CueExample, Frame, Query

QUESTION = (
    "Image 1 and Image 2 are the same picture, but for one region. Please find where they differ, and output the "
    "bounding box of that region in Image 1 as [x1, y1, x2, y2] {coordinates}."
)
LEVEL = 8
"""Grey levels by which a pixel must differ, in some colour, to look changed."""
LEAST_IOU = 0.5
"""... and the least IoU of the box around the pixels that do with the changed region."""


class Difference(BoxTask):
    """The image twice, in one of the two with a change in the crop's box; which of them is drawn evenly.

    Args:
        corpus, source, reward, order, sft_targets: as of `BoxTask`.
        change: what is done to the region: ``replace``, by what is around a crop of another image; ``remove``, filled
            from its surroundings; ``recolour``, its hues turned by half; ``mirror``, left to right. Where that hardly
            shows, the next one is done.
        seed: of what is drawn for each example.
    """

    name = "difference"

    def __init__(
        self,
        corpus: Corpus,
        source: ImageSource,
        change: str = "replace",
        reward: BoxReward | None = None,
        seed: int = 0,
        order: Order | None = None,
        sft_targets: SftTargets = "gold",
    ) -> None:
        super().__init__(corpus, source, reward, order, sft_targets)
        self.changes = {
            "recolour": recoloured,
            "mirror": mirrored,
            "remove": removed,
            "replace": self._replaced,
        }
        by_name("task.change", change, self.changes)
        self.change, self.seed = change, seed

    def box(self, example: CueExample) -> Box:
        """The pixels that are changed: the target box, rounded outward."""
        return file_box(_whole(example), example.width, example.height)

    def query(self, example: CueExample, frame: Frame, image: Image.Image) -> Query:
        """The two pictures."""
        rng = generator(self.seed, f"{self.name}/{example.example_id}")
        pictures = (image, self.changed(example, image, rng))
        first = int(rng.integers(2))
        return Query(self._text(frame), (pictures[first], pictures[1 - first]))

    def outline(self, example: CueExample, frame: Frame) -> tuple[str, list[tuple[int, int]]]:
        """As `Task.outline`; opens no image."""
        return self._text(frame), [(example.width, example.height)] * 2

    def changed(self, example: CueExample, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        """The image with a change that shows: the one asked for, or the next that does."""
        region = _whole(example)
        names = list(self.changes)
        start = names.index(self.change)
        for name in names[start:] + names[:start]:
            picture = image.copy()
            picture.paste(self.changes[name](example, image, rng), region)
            if shows(image, picture, region):
                return picture
        picture.paste(image.crop(region).point(lambda level: (level + 128) % 256), region)  # shows anywhere
        return picture

    def _replaced(self, example: CueExample, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        """As large a region around the centre of another image's crop; a smaller image is enlarged first."""
        x1, y1, x2, y2 = _whole(example)
        other = elsewhere(self.corpus, example, rng)
        picture = open_image(self.source, other)
        least = max((x2 - x1) / picture.width, (y2 - y1) / picture.height, 1)
        picture = ImageOps.scale(picture, least) if least > 1 else picture
        middle = least * (other.target.x1 + other.target.x2) / 2, least * (other.target.y1 + other.target.y2) / 2
        left = min(max(round(middle[0] - (x2 - x1) / 2), 0), picture.width - (x2 - x1))
        top = min(max(round(middle[1] - (y2 - y1) / 2), 0), picture.height - (y2 - y1))
        return picture.crop((left, top, left + x2 - x1, top + y2 - y1))

    def _text(self, frame: Frame) -> str:
        return QUESTION.format(coordinates=COORDINATE_WORDS[frame]) + "\n" + THINK_ANSWER


def recoloured(example: CueExample, image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """The crop with its hues turned by half."""
    return functional.adjust_hue(image.crop(_whole(example)), 0.5)


def mirrored(example: CueExample, image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """The crop, left to right."""
    return ImageOps.mirror(image.crop(_whole(example)))


def removed(example: CueExample, image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """The crop's place without it."""
    return Image.fromarray(filled(np.asarray(image), _whole(example)))


def filled(pixels: np.ndarray, region: tuple[int, int, int, int]) -> np.ndarray:
    """What may be in a region: of each pixel the mean of the four beside the region, in its row and column.

    Each weighs by the inverse of its distance; one that is outside the image does not count.

    Args:
        pixels: [height, width, 3] uint8.
        region: xyxy, whole, in the image.

    Returns:
        [y2 - y1, x2 - x1, 3] uint8; that of the region as it is where it is the whole image.
    """
    x1, y1, x2, y2 = region
    height, width = pixels.shape[:2]
    columns, rows = np.arange(x1, x2)[None, :, None], np.arange(y1, y2)[:, None, None]
    beside = []
    if x1 > 0:
        beside.append((pixels[y1:y2, x1 - 1][:, None], columns - (x1 - 1)))
    if x2 < width:
        beside.append((pixels[y1:y2, x2][:, None], x2 - columns))
    if y1 > 0:
        beside.append((pixels[y1 - 1, x1:x2][None], rows - (y1 - 1)))
    if y2 < height:
        beside.append((pixels[y2, x1:x2][None], y2 - rows))
    if not beside:
        return pixels
    total = sum(line / distance for line, distance in beside)
    weight = sum(1 / distance for _, distance in beside)
    return np.round(total / weight).astype(np.uint8)


def shows(image: Image.Image, changed: Image.Image, region: tuple[int, int, int, int]) -> bool:
    """Whether the box around the pixels that look changed has an IoU of at least `LEAST_IOU` with the region."""
    difference = np.abs(np.asarray(image, dtype=np.int16) - np.asarray(changed, dtype=np.int16)).max(axis=2)
    rows, columns = np.nonzero(difference >= LEVEL)
    if not len(rows):
        return False
    around = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
    return bool(iou(around, np.array(region)) >= LEAST_IOU)


def _whole(example: CueExample) -> tuple[int, int, int, int]:
    """The target box, rounded outward to pixels."""
    x1, y1, x2, y2 = (int(side) for side in whole_pixels(np.array(example.box), example.width, example.height))
    return x1, y1, x2, y2
