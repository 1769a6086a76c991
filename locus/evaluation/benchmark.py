"""What a benchmark hands out and takes back: items with their pictures, and judged responses."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TypeVar

from PIL import Image

from locus.errors import LocusError
from locus.evaluation.reading.extractors import Extractor
from locus.evaluation.reading.responses import Extracted
from locus.evaluation.statistics import Statistic
from locus.types import Box, Response, View

Got = TypeVar("Got")


@dataclass(frozen=True, eq=False)
class Picture:
    """A picture of a benchmark, decoded only when it is shown. Raises LocusError that names it when it cannot be."""

    key: str
    """Equal keys, equal pictures: a path, or a digest of the bytes."""
    source: Path | bytes

    def open(self) -> Image.Image:
        """The decoded picture in RGB."""
        return self._get(lambda image: image.convert("RGB"))

    @property
    def size(self) -> tuple[int, int]:
        """Width and height, from the header."""
        return self._get(lambda image: image.size)

    def _get(self, part: Callable[[Image.Image], Got]) -> Got:
        try:
            with Image.open(io.BytesIO(self.source) if isinstance(self.source, bytes) else self.source) as image:
                return part(image)
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise LocusError(f"picture {self.key} cannot be decoded ({error}): fetch the file again") from error


@dataclass(frozen=True, eq=False)
class Item:
    """One question of a benchmark, as a policy is asked it, and its right answer."""

    item_id: str
    prompt: str
    """The whole text beside the pictures, the benchmark's own instruction in it."""
    answer: str | tuple[str, ...] | Box
    """A letter, word or number; several accepted texts; or the box to be found (file frame)."""
    pictures: tuple[Picture, ...] = ()
    options: Mapping[str, str] = field(default_factory=dict)
    """Letter -> text, in the order shown; empty where nothing is to be chosen or the picture holds the options."""
    groups: Mapping[str, str] = field(default_factory=dict)
    """What scores are split by, such as ``{"category": "direct_attributes"}``."""
    evidence: tuple[Box, ...] = ()
    """Where the answer is visible, file frame; empty where the benchmark does not say."""
    names: tuple[str, ...] = ()
    """What lies in each evidence box, where the benchmark says."""


@dataclass(frozen=True)
class Verdict:
    """An item's response, judged."""

    item_id: str
    extracted: Extracted
    correct: float
    """1 or 0; unread responses are 0."""
    columns: Mapping[str, str | float]
    """Of the table that statistics read: the item's groups and what else the benchmark's scores need."""


class Benchmark(Protocol):
    """A benchmark on disk. Built by Hydra from ``conf/benchmark/<name>.yaml``."""

    @property
    def name(self) -> str:
        """As scores and files call it."""

    @property
    def rows(self) -> int | None:
        """How many items the whole benchmark has; None where any number is right."""

    @property
    def headline(self) -> str:
        """The name of the one score that stands in a table."""

    def items(self) -> Iterator[Item]:
        """In the file's order, row by row. Raises LocusError that names the file, the row and how to fix it."""

    def judge(self, item: Item, response: Response, view: View, extractor: Extractor) -> Verdict:
        """Reads the response with the extractor and compares; ``view`` is how the policy saw the item."""

    def statistics(self) -> Mapping[str, Statistic]:
        """Every score under its own name; over a table with one row per verdict and the columns of `Verdict`."""

    def unit(self) -> Sequence[str]:
        """Columns whose rows are drawn together in a bootstrap (the rotations of one question); empty: each row."""
