"""What benchmarks of yes-or-no questions share."""

from __future__ import annotations

from dataclasses import dataclass

from locus.evaluation.benchmark import Item, Verdict
from locus.evaluation.benchmarks.file_benchmark import FileBenchmark
from locus.evaluation.reading.extractors import Extractor
from locus.types import Response, View


@dataclass(frozen=True)
class YesNoBenchmark(FileBenchmark):
    """A benchmark whose answers are ``yes`` and ``no``."""

    suffix: str = ""
    """Behind every question; none in the original."""

    def judge(self, item: Item, response: Response, view: View, extractor: Extractor) -> Verdict:
        """An unread answer is wrong, and never taken for either; columns ``truth`` and ``said`` (or ``unread``)."""
        read = extractor.yes_no(response)
        said = read.answer or "unread"
        columns = {**item.groups, "truth": str(item.answer), "said": said}
        return Verdict(item.item_id, read, float(said == item.answer), columns)
