"""RefCOCO, RefCOCO+, RefCOCOg: the box that a sentence means. Layer 2."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from locus.boxes import box_iou, convert, is_valid, parse_frame
from locus.errors import LocusError
from locus.evaluation.benchmark import Extracted, Item, Reading, Verdict
from locus.evaluation.benchmarks.refcoco_forms import Reference, references
from locus.evaluation.benchmarks.shared import by_column, counted, read_by, written_size
from locus.evaluation.reading import vlmevalkit
from locus.evaluation.reading.short import extract_box
from locus.evaluation.statistics import Statistic, accuracy, mean_of
from locus.tasks.answers import COORDINATE_WORDS
from locus.types import Box, Frame

PROMPT = (
    'Please find the region that this sentence describes: "{phrase}". Output its bounding box as [x1, y1, x2, y2] '
    "{coordinates}."
)
THRESHOLD = 0.5


@dataclass(frozen=True)
class RefCOCO:
    """One of the three benchmarks: a box to be found for every sentence, right from an IoU of 0.5 on.

    ``path`` is one of the four forms of `refcoco_files`. ``frame`` is the one in which the policy writes boxes
    (``backbone.frame``): the prompt asks for it, and `judge` reads the numbers in it.
    """

    path: str
    name: str
    frame: str
    splits: Sequence[str]
    rows: int | None = None
    """Sentences of all these splits."""
    images: str = ""
    """Folder of COCO train2014, where the files only name pictures."""

    headline: ClassVar[str] = "mean"

    def __post_init__(self) -> None:
        parse_frame(self.frame)

    def items(self) -> Iterator[Item]:
        """One item a sentence of the benchmark's splits; sentences of other splits in the files are left out."""
        found = references(Path(self.path), self.name, self.splits, self.images)
        return counted((self._item(one) for one in found), self.path, self.name, self.rows)

    def _item(self, one: Reference) -> Item:
        coordinates = COORDINATE_WORDS[Frame(self.frame)]
        prompt = PROMPT.format(phrase=one.phrase, coordinates=coordinates)
        groups = {"split": one.split, "picture": one.picture.key}
        return Item(one.reference_id, prompt, one.box, (one.picture,), groups=groups, evidence=(one.box,))

    def judge(self, item: Item, response: str, finished: bool, extractor: str) -> Verdict:
        """Compares in the file frame; ``vlmevalkit`` guesses the response's frame by its largest number.

        Needs ``item.processed_size``, which the evaluator sets, where the policy's frame is ``processed``.
        """
        truth = item.answer
        if not isinstance(truth, Box):
            raise LocusError(f"item {item.item_id} has no box for an answer: it is not one of {self.name}")
        read = read_by(
            extractor,
            lambda: extract_box(response, finished),
            lambda: vlmevalkit.extract_box(response, finished),
        )
        if read.xyxy is None:
            return self._verdict(item, Extracted(None, read.reading), 0.0)
        if extractor == "locus":
            found = in_file(read.xyxy, written_size(item, Frame(self.frame), truth), truth)
        else:
            found = in_file(vlmevalkit.guessed_fractions(read.xyxy, truth.width, truth.height), (1.0, 1.0), truth)
        if found is None:
            return self._verdict(item, Extracted(None, Reading.OUT_OF_RANGE), 0.0)
        written = ", ".join(f"{number:g}" for number in read.xyxy)
        return self._verdict(item, Extracted(written, Reading.OK), box_iou(found, truth))

    def _verdict(self, item: Item, extracted: Extracted, iou: float) -> Verdict:
        return Verdict(item.item_id, extracted, float(iou >= THRESHOLD), {**item.groups, "iou": iou})

    def statistics(self) -> Mapping[str, Statistic]:
        """Accuracy at IoU 0.5: the unweighted mean over the splits, and each of them; their mean IoU too."""
        each = {split: accuracy(split=split) for split in self.splits}
        ious = {f"iou_{split}": by_column("iou", statistic) for split, statistic in each.items()}
        return {"mean": mean_of(*each.values()), **each, "iou_mean": mean_of(*ious.values()), **ious}

    def unit(self) -> Sequence[str]:
        """A picture: its sentences, two or three to an object, are not independent."""
        return ("picture",)


def in_file(numbers: Sequence[float], size: tuple[float, float], truth: Box) -> Box | None:
    """The box in the truth's frame, corners in order, clipped to the picture; None where nothing is left of it."""
    x1, y1, x2, y2 = numbers
    corners = (min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2))
    if not is_valid(corners):
        return None
    box = convert(Box(*corners, Frame.FILE, *size), truth.frame, truth.width, truth.height)
    high = np.array([truth.width, truth.height] * 2)
    clipped = tuple(float(value) for value in np.clip(box.xyxy, 0, high))
    return Box(*clipped, truth.frame, truth.width, truth.height) if is_valid(clipped) else None
