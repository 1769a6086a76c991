"""What a benchmark hands out and takes back: items with their pictures, and judged responses."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
from PIL import Image

from locus.boxes import file_box, parse_frame
from locus.errors import LocusError
from locus.evaluation.reading.extractors import Extractor
from locus.evaluation.reading.responses import Extracted, Reading
from locus.evaluation.statistics import Statistic, accuracy, by_column
from locus.images.fingerprints import fingerprint
from locus.images.sources import rgb
from locus.tasks.answers import answer_block
from locus.tasks.task import Task
from locus.types import Box, Frame, Grade, Response, Status, View

Got = TypeVar("Got")

SENT_AS_IT_IS = ("JPEG", "PNG", "WEBP")
"""Kinds of picture files that everybody reads alike, if they are plain ones."""
ORIENTATION = 0x0112
"""EXIF's tag."""


@dataclass(frozen=True, eq=False)
class Picture:
    """A picture of a benchmark, decoded only when it is shown. Raises LocusError that names it when it cannot be."""

    key: str
    """Equal keys, equal pictures: a path, or a digest of the bytes."""
    source: Path | bytes

    def open(self) -> Image.Image:
        """The decoded picture in RGB."""
        return self._get(rgb)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height, from the header."""
        return self._get(lambda image: image.size)

    def file(self) -> tuple[str, bytes]:
        """Kind and bytes of a file that holds the pixels of `open`, whoever decodes it.

        The original's, where it is one of `SENT_AS_IT_IS`; else a PNG: readers differ in what they make of
        transparency (some put white below), of an orientation in EXIF and of 16 bits a colour.
        """
        kind = self._get(_plain_kind)
        if kind:
            return kind, self.source if isinstance(self.source, bytes) else self.source.read_bytes()
        return "PNG", _png(self.open())

    @property
    def fingerprint(self) -> np.ndarray:
        """`fingerprints.fingerprint` of the picture."""
        return self._get(fingerprint)

    def _get(self, part: Callable[[Image.Image], Got]) -> Got:
        try:
            with Image.open(io.BytesIO(self.source) if isinstance(self.source, bytes) else self.source) as image:
                return part(image)
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise LocusError(
                f"picture {self.key} cannot be decoded ({error}): fetch or convert the file again"
            ) from error


def _plain_kind(image: Image.Image) -> str:
    """The kind of a file whose pixels are RGB or grey, of 8 bits a colour, one frame, as stored; else nothing."""
    deep = any(";16" in str(part[3]) for part in getattr(image, "tile", ()))  # which Pillow reads as RGB of 8 bits
    plain = image.mode in ("RGB", "L") and "transparency" not in image.info and getattr(image, "n_frames", 1) == 1
    upright = image.getexif().get(ORIENTATION, 1) == 1
    return image.format or "" if plain and upright and not deep and image.format in SENT_AS_IT_IS else ""


@dataclass(frozen=True, eq=False)
class Item:
    """One question of a benchmark, as a policy is asked it, and its right answer."""

    item_id: str
    prompt: str
    """The whole text beside the pictures, the benchmark's own instruction in it."""
    answer: str | tuple[str, ...] | Box
    """A letter, word or number; several accepted texts; the box to be found (file frame); empty where a task grades."""
    pictures: tuple[Picture, ...] = ()
    options: Mapping[str, str] = field(default_factory=dict)
    """Letter -> text, in the order shown; empty where nothing is to be chosen or the picture holds the options."""
    groups: Mapping[str, str] = field(default_factory=dict)
    """What scores are split by, such as ``{"category": "direct_attributes"}``."""
    evidence: tuple[Box, ...] = ()
    """Where the answer is visible, file frame; empty where the benchmark does not say."""
    names: tuple[str, ...] = ()
    """What lies in each evidence box, where the benchmark says."""
    example: Any = None
    """Of a benchmark that is a task's: what the task grades."""

    def asked(self, instruction: str) -> str:
        """The text that a policy gets: the prompt, and on a line of its own the instruction where there is one.

        A prompt that has the instruction already stays as it is, and so does a task's: it names a form of the answer.
        """
        whole = instruction in self.prompt or self.example is not None
        return self.prompt if whole else f"{self.prompt}\n{instruction}"


@dataclass(frozen=True)
class Verdict:
    """An item's response, judged."""

    item_id: str
    extracted: Extracted
    correct: float
    """1 or 0; unread responses are 0."""
    columns: Mapping[str, str | float]
    """Of the table that statistics read: the item's groups and what else the benchmark's scores need."""


class Questions(Protocol):
    """What a policy is asked of a benchmark."""

    @property
    def name(self) -> str:
        """As scores and files call it."""

    def items(self) -> Iterator[Item]:
        """In the file's order, row by row. Raises LocusError that names the file, the row and how to fix it."""


class Benchmark(Questions, Protocol):
    """A benchmark on disk. Built by Hydra from ``conf/benchmark/<name>.yaml``."""

    @property
    def rows(self) -> int | None:
        """How many items the whole benchmark has; None where any number is right."""

    @property
    def headline(self) -> str:
        """The name of the one score that stands in a table."""

    def judge(self, item: Item, response: Response, view: View, extractor: Extractor) -> Verdict:
        """Reads the response with the extractor and compares; ``view`` is how the policy saw the item."""

    def statistics(self) -> Mapping[str, Statistic]:
        """Every score under its own name; over a table with one row per verdict and the columns of `Verdict`."""

    def unit(self) -> Sequence[str]:
        """Columns whose rows are drawn together in a bootstrap (the rotations of one question); empty: each row."""


READINGS = {Status.OK: Reading.OK, Status.TRUNCATED: Reading.TRUNCATED, Status.INVALID_BOX: Reading.OUT_OF_RANGE}
"""Of a task's answer block; the other statuses are none."""
BOX_IS_RIGHT = "acc@0.5"
"""The scalar of tasks whose answer is a box."""
ROUNDING = 1e-6
"""By which a sum of parts that are all 1 may fall short of 1."""


@dataclass(frozen=True)
class TaskBenchmark:
    """The held-out examples of a task, asked and graded as in training, whatever the extractor.

    ``frame`` is the one in which the policy writes boxes (``backbone.frame``).
    """

    task: Task
    frame: str
    rows: int | None = None
    max_new_tokens: int = 48
    """Enough for a short thought and an answer; an evaluation's default."""

    def __post_init__(self) -> None:
        parse_frame(self.frame)

    @property
    def name(self) -> str:
        return self.task.name

    @property
    def headline(self) -> str:
        return self.task.headline

    def items(self) -> Iterator[Item]:
        """In the task's order. Raises LocusError when they are not ``rows``."""
        examples, frame = self.task.examples("validation"), parse_frame(self.frame)
        check_rows(self.name, self.rows, len(examples))
        for example in examples:
            query, row = self.task.prompt(example, frame), self.task.row(example)
            pictures = tuple(stored(_png(image)) for image in query.images)
            evidence = (file_box(row["target"], *query.images[0].size),) if "target" in row else ()
            groups = {"bin": self.task.group(example), "image": str(row.get("image_id", example.example_id))}
            yield Item(example.example_id, query.text, "", pictures, groups=groups, evidence=evidence, example=example)

    def judge(self, item: Item, response: Response, view: View, extractor: Extractor) -> Verdict:
        """By the task's own rule."""
        return self.verdict(item, self.task.grade(item.example, response, view), answer_block(response.text))

    def verdict(self, item: Item, grade: Grade, said: str | None) -> Verdict:
        """A grade with its scalars of validation as columns: right where the headline is 1, a box from IoU 0.5 on."""
        scalars = self.task.summary([grade])
        columns: dict[str, str | float] = {**item.groups, **scalars}
        correct = float(scalars.get(BOX_IS_RIGHT, scalars[self.task.headline]) >= 1 - ROUNDING)
        read = Extracted(said if grade.status is Status.OK else None, READINGS.get(grade.status, Reading.NONE))
        return Verdict(item.item_id, read, correct, columns)

    def statistics(self) -> Mapping[str, Statistic]:
        """Means of the scalars of validation, which the gold answer has, too; the headline is one of them."""
        example, view = self.task.examples("validation")[0], View(Frame.FILE)
        grade = self.task.grade(example, Response(self.task.gold(example, view)), view)
        return {name: by_column(name, accuracy()) for name in self.task.summary([grade])}

    def unit(self) -> Sequence[str]:
        """An image: several examples may be of one."""
        return ("image",)


def check_rows(name: str, rows: int | None, found: int) -> None:
    """Raises LocusError unless a benchmark that is drawn has as many items as it was asked to have; None for any."""
    if rows is not None and found != rows:
        raise LocusError(
            f"{name} has {rows} examples, found {found}: give another number of benchmark.rows, or null for any"
        )


def stored(data: bytes) -> Picture:
    """A picture file in memory, told from others by its content."""
    return Picture(hashlib.blake2b(data, digest_size=16).hexdigest(), data)


def picture_of(key: str, image: Image.Image) -> Picture:
    """An image as a benchmark's picture."""
    return Picture(key, _png(image))


def _png(image: Image.Image) -> bytes:
    image.save(file := io.BytesIO(), "PNG", compress_level=1)  # it stays in memory: fast, not small
    return file.getvalue()
