"""RefCOCO, RefCOCO+, RefCOCOg: the box that a sentence means."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from locus.boxes import box_iou, parse_frame
from locus.errors import LocusError
from locus.evaluation.benchmark import Item, Verdict
from locus.evaluation.benchmarks.file_benchmark import FileBenchmark
from locus.evaluation.benchmarks.refcoco_forms import references
from locus.evaluation.reading.extractors import Extractor
from locus.evaluation.reading.responses import Extracted, Reading
from locus.evaluation.statistics import Statistic, accuracy, by_column, mean_of
from locus.tasks.answers import COORDINATE_WORDS
from locus.types import Box, Frame, Response, View

PROMPT = (
    'Please find the region that this sentence describes: "{phrase}". Output its bounding box as [x1, y1, x2, y2] '
    "{coordinates}."
)
THRESHOLD = 0.5


@dataclass(frozen=True)
class RefCOCO(FileBenchmark):
    """One of the three benchmarks: a box to be found for every sentence, right from an IoU of 0.5 on.

    ``path`` is one of the four forms of `refcoco_forms`. ``frame`` is the one in which the policy writes boxes
    (``backbone.frame``): the prompt asks for it.
    """

    rows: int | None = None
    """Sentences of all these splits."""
    frame: str = field(kw_only=True)
    splits: Sequence[str] = field(kw_only=True)
    """Names, or one of them."""

    headline: ClassVar[str] = "mean"

    def __post_init__(self) -> None:
        parse_frame(self.frame)
        if isinstance(self.splits, str):
            object.__setattr__(self, "splits", (self.splits,))

    def items(self) -> Iterator[Item]:
        """Raises LocusError, after the last item, for splits without a sentence: the headline would be of nothing."""
        lacking = dict.fromkeys(self.splits)
        for item in super().items():
            lacking.pop(item.groups["split"], None)
            yield item
        if lacking:
            raise LocusError(
                f"{self.path}: has no sentence of the splits {', '.join(lacking)}; pass benchmark.splits=[<name>,...] "
                "of those that it has, and benchmark.rows of their sentences or null"
            )

    def _items(self) -> Iterator[Item]:
        """One item per sentence of the benchmark's splits; sentences of other splits in the files are left out."""
        coordinates = COORDINATE_WORDS[Frame(self.frame)]
        for one in references(self._file(), self.name, self.splits, self.images):
            prompt = PROMPT.format(phrase=one.phrase, coordinates=coordinates)
            groups = {"split": one.split, "picture": one.picture.key}
            yield Item(one.reference_id, prompt, one.box, (one.picture,), groups=groups, evidence=(one.box,))

    def judge(self, item: Item, response: Response, view: View, extractor: Extractor) -> Verdict:
        """Compares in the file frame; ``vlmevalkit`` guesses the response's frame by its largest number."""
        truth = item.answer
        if not isinstance(truth, Box):
            raise LocusError(f"item {item.item_id} has no box for an answer: it is not one of {self.name}")
        read = extractor.box(response)
        if read.xyxy is None:
            return self._verdict(item, Extracted(None, read.reading), 0.0)
        box = extractor.place(read.xyxy, view, truth)
        if box is None:
            return self._verdict(item, Extracted(None, Reading.OUT_OF_RANGE), 0.0)
        written = ", ".join(f"{number:g}" for number in read.xyxy)
        return self._verdict(item, Extracted(written, Reading.OK), box_iou(box, truth))

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
