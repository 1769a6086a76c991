"""What benchmarks that are read from files share: their path, one item per row, ids and the number of rows.

Three kinds build on it: yes or no (below), letters (`choice`), and answers that a model judges (`free_answers`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

from locus.errors import LocusError
from locus.evaluation.benchmark import Item, Verdict
from locus.evaluation.benchmarks.formats import files_of
from locus.evaluation.benchmarks.readers import Row, read_rows
from locus.evaluation.judge import Judge
from locus.evaluation.reading.extractors import Extractor
from locus.evaluation.reading.responses import Extracted, Reading, final_span
from locus.evaluation.statistics import Statistic, accuracy
from locus.types import Response, View

YES_NO = {"A": "yes", "B": "no"}
"""As a judge is asked."""
Columns = Sequence[str | tuple[str, ...]]


@dataclass(frozen=True)
class FileBenchmark(ABC):
    """A benchmark on disk, one item per row.

    A new one says what a row asks (`_item`), what a verdict is (`judge`), and what else differs.
    """

    path: str
    """Its file, folder or pattern (`formats.files_of`)."""
    name: str
    rows: int | None
    """How many items the whole benchmark has; None accepts any number."""
    images: str = ""
    """Folder of the pictures where the file only names them; by default the file's own."""
    judge_model: Judge | None = None
    """Asked what a response chooses that no rule reads, by either extractor; nobody is by default."""

    columns: ClassVar[Columns] = ()
    """That a file must have; of a tuple one."""
    tsv_columns: ClassVar[Columns] = ()
    """That a TSV must have, where they differ from other files'."""

    def items(self) -> Iterator[Item]:
        """As of `selection`; raises LocusError, after the last item, when their number is not ``rows``."""
        found = 0
        for item in self.selection():
            found += 1
            yield item
        if self.rows is not None and found != self.rows:
            raise LocusError(
                f"{self.path}: {self.name} has {self.rows} items, found {found}; fetch the file again, pass "
                "benchmark.path= of the one file if there are others beside it, or benchmark.rows=null to score "
                "another selection"
            )

    def selection(self) -> Iterator[Item]:
        """What the file has, all of the benchmark or a part, in its order; ids that come again end in "#2", "#3"."""
        seen: Counter[str] = Counter()
        for item in self._items():
            seen[item.item_id] += 1
            again = seen[item.item_id]
            yield item if again == 1 else replace(item, item_id=f"{item.item_id}#{again}")

    @abstractmethod
    def judge(self, item: Item, response: Response, view: View, extractor: Extractor) -> Verdict:
        """As in `Benchmark`."""

    def statistics(self) -> Mapping[str, Statistic]:
        """The accuracy over all rows."""
        return {"accuracy": accuracy()}

    def unit(self) -> Sequence[str]:
        """Each row by itself."""
        return ()

    def _choose(
        self, item: Item, response: Response, options: Mapping[str, str], read: Extracted
    ) -> tuple[Extracted, float]:
        """What the judge takes a finished response for that was not read, and whether (1 or 0) it was asked."""
        unread, said = read.reading in (Reading.NONE, Reading.AMBIGUOUS), final_span(response)
        if self.judge_model is None or not unread or not response.finished or not said.strip():
            return read, 0.0
        letter = self.judge_model.choose(item.prompt, options, said)
        return (Extracted(letter, Reading.JUDGED) if letter else read), 1.0

    def _items(self) -> Iterator[Item]:
        return map(self._item, self._rows())

    def _item(self, row: Row) -> Item:
        """One row as a policy is asked it; a benchmark without it has `_items`."""
        raise TypeError(f"{type(self).__name__} says neither `_item` nor `_items`")

    def _rows(self) -> Iterator[Row]:
        file = self._file()
        tsv = files_of(file)[0].suffix == ".tsv"
        return read_rows(file, self.tsv_columns if tsv and self.tsv_columns else self.columns, self.images)

    def _file(self) -> Path:
        return Path(self.path)


@dataclass(frozen=True)
class YesNoBenchmark(FileBenchmark):
    """A benchmark whose answers are ``yes`` and ``no``."""

    suffix: str = ""
    """Behind every question; none in the original."""

    def judge(self, item: Item, response: Response, view: View, extractor: Extractor) -> Verdict:
        """An unread answer is wrong, and never taken for either; columns ``truth`` and ``said`` (or ``unread``)."""
        read, asked = self._choose(item, response, YES_NO, extractor.yes_no(response, item.prompt))
        if read.reading is Reading.JUDGED:
            read = replace(read, answer=YES_NO[str(read.answer)])
        said = read.answer or "unread"
        columns: dict[str, str | float] = {**item.groups, "truth": str(item.answer), "said": said, "judged": asked}
        return Verdict(item.item_id, read, float(said == item.answer), columns)
