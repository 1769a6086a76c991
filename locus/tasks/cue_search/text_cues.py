"""Expressions in place of the crop's picture (the paper's Table 5); all else of the prompt is the same."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from locus.boxes import area
from locus.errors import LocusError
from locus.images.labels import expression_fault
from locus.images.sources import ImageFiles, ImageSource, file_of
from locus.images.tables import keep_boxes
from locus.tasks.cue_search.audits import duplicate_boxes
from locus.tasks.cue_search.corpus import CueTable
from locus.tasks.cue_search.expressions import Expression, referring_expressions
from locus.types import CueExample

SLACK = 1.0
"""Pixels by which an object's box may stick out of its crop, from rounding in a file."""
FROM_FILE = "cue=text_file cue.path=<JSONL> (task=text_cue: cue@task.cue=text_file task.cue.path=<JSONL>)"
"""How to take words of a file instead."""
SAME_AREA = 0.01
"""Relative difference of areas, from the same, up to which a box may be a crop's object."""


class TextCue:
    """A cue in words."""

    def picture(self, example: CueExample, image: Image.Image) -> None:
        """None: the words stand for it."""


@dataclass(frozen=True)
class AnnotatedTextCue(TextCue):
    """Expressions made of a source's labels and boxes by `referring_expressions`."""

    duplicate_iou: float
    """IoU from which two boxes of an image are one, as in the corpus: no words distinguish them."""
    source: ImageSource | None = None
    """Of the corpus; given by `over`."""

    def over(self, source: ImageSource, examples: CueTable) -> AnnotatedTextCue:
        """The same for crops of this source's boxes."""
        return replace(self, source=source)

    def expression(self, example: CueExample) -> str:
        """The expression of the crop's object. Raises LocusError for a crop without a label, or of another source."""
        return self._expression(example).text

    def audit(self, examples: Sequence[CueExample]) -> dict[str, Any]:
        """Checks the expressions; ambiguous are those that suit another box of the image, too."""
        ambiguous = 0
        for example in examples:
            expression = self._expression(example)
            ambiguous += not expression.unique
            if fault := expression_fault(expression.text):
                raise LocusError(
                    f"cue=text: the expression {expression.text!r} of example {example.example_id} {fault}: fix the "
                    f"label, or use {FROM_FILE}"
                )
        return {"expressions": len(examples), "ambiguous": ambiguous}

    def _expression(self, example: CueExample) -> Expression:
        labels, boxes, expressions = self._images.get(example.image_id, ((), np.empty((0, 4)), []))
        alike = [index for index, label in enumerate(labels) if label == example.label]
        place = object_of(example, boxes[alike]) if example.label.strip() else None
        if place is None:
            raise LocusError(
                f"cue=text: example {example.example_id} ({example.image_path}, label {example.label!r}) is no "
                "labelled box of the data: use data with labels, a crop= of objects and the data of the corpus, or "
                f"{FROM_FILE}"
            )
        return expressions[alike[place]]

    @cached_property
    def _images(self) -> dict[str, tuple[Sequence[str], np.ndarray, list[Expression]]]:
        """Image id -> labels, boxes and expressions of its objects."""
        assert self.source is not None, "`over` gives it"
        table = self.source.table()
        table = keep_boxes(table, ~duplicate_boxes(table, self.duplicate_iou))
        ends = np.searchsorted(table.box_image, np.arange(len(table.image_id) + 1))
        images: dict[str, tuple[Sequence[str], np.ndarray, list[Expression]]] = {}
        for row, image_id in enumerate(table.image_id):
            own = slice(ends[row], ends[row + 1])
            labels, boxes = table.labels[own], table.boxes[own]
            images[image_id] = (
                labels,
                boxes,
                referring_expressions(labels, boxes, (table.width[row], table.height[row])),
            )
        return images


@dataclass(frozen=True)
class FileTextCue(TextCue):
    """Expressions read from a JSONL file, its rows of either form.

    ``{"example_id": "coco-9-51", "expression": "the bowl with broccoli"}``, or, by image and object box in pixels of
    the file, ``{"image": "9.jpg", "box": [10, 20, 42, 60], "expression": "the bowl with broccoli"}``, which is a row of
    ``data=boxes``, too. Of several for one crop the first counts; a row without the key expression is skipped.
    """

    path: str
    folder: str = ""
    """Of the images; given by `over`."""

    def over(self, source: ImageSource, examples: CueTable) -> FileTextCue:
        """The same, whose rows may spell an image's path as they like."""
        return replace(self, folder=str(source.folder)) if isinstance(source, ImageFiles) else self

    def expression(self, example: CueExample) -> str:
        """The expression of the example; raises LocusError naming the file when it has none."""
        by_id, by_image = self._rows
        if example.example_id in by_id:
            return by_id[example.example_id]
        rows = by_image.get(file_of(self.folder, example.image_path), [])
        place = object_of(example, np.array([box for box, _ in rows]))
        if place is None:
            raise LocusError(
                f"{self.path}: no expression for example {example.example_id}, box {list(example.box)} of "
                f"{example.image_path}: add a row with its example_id, or its image and the box"
            )
        return rows[place][1]

    def audit(self, examples: Sequence[CueExample]) -> dict[str, Any]:
        """Checks that all are there; ambiguous are those that another example of the image has, too."""
        return _counts(self, examples)

    @cached_property
    def _rows(self) -> tuple[dict[str, str], dict[str, list[tuple[list[float], str]]]]:
        """Expressions by example id; boxes with their expressions by the image's file."""
        by_id: dict[str, str] = {}
        by_image: dict[str, list[tuple[list[float], str]]] = defaultdict(list)
        for where, row in self._read():
            if "expression" not in row:
                continue
            if fault := expression_fault(row["expression"]):
                raise LocusError(f"{where}: the expression {fault}; correct the row")
            expression = row["expression"].strip()
            if isinstance(row.get("example_id"), str):
                by_id.setdefault(row["example_id"], expression)
                continue
            try:
                image, box = str(row["image"]), [float(value) for value in row["box"]]
            except (KeyError, TypeError, ValueError):
                image, box = "", []
            if not image or len(box) != 4:
                raise LocusError(
                    f'{where}: names no crop; write {{"example_id": "", "expression": ""}} or '
                    '{"image": "1.jpg", "box": [x1, y1, x2, y2], "expression": ""}'
                )
            by_image[file_of(self.folder, image)].append((box, expression))
        return by_id, dict(by_image)

    def _read(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """(file and line, row) of every line that is not blank."""
        number = 0
        try:
            with Path(self.path).open(encoding="utf-8") as lines:
                for number, line in enumerate(lines, 1):
                    if line.strip():
                        row = json.loads(line)
                        if not isinstance(row, dict):
                            raise ValueError("it is not an object")
                        yield f"{self.path}, line {number}", row
        except OSError as error:
            raise LocusError(f"{self.path}: cannot be read ({error.strerror}); pass cue.path=<JSONL>") from None
        except ValueError as error:  # JSON's and UTF-8's are ValueErrors
            raise LocusError(f"{self.path}, line {number}: no JSON object ({error}); write one a line") from None


@dataclass(frozen=True)
class LabelTextCue(TextCue):
    """The label itself, of data whose labels are expressions."""

    def over(self, source: ImageSource, examples: CueTable) -> LabelTextCue:
        """Itself: an example knows its label."""
        return self

    def expression(self, example: CueExample) -> str:
        """The label; raises LocusError naming the example when it cannot be an expression."""
        if fault := expression_fault(example.label):
            raise LocusError(
                f"cue=text_label: the label {example.label!r} of example {example.example_id} {fault}: use data whose "
                "labels are expressions, as data=refcoco, and crops of its boxes, or another cue="
            )
        return example.label.strip()

    def audit(self, examples: Sequence[CueExample]) -> dict[str, Any]:
        """Checks all labels; ambiguous are those that another example of the image has, too."""
        return _counts(self, examples)


def _counts(cue: FileTextCue | LabelTextCue, examples: Sequence[CueExample]) -> dict[str, Any]:
    """How many expressions there are, and how many of them another example of the image has, too."""
    found = Counter((example.image_id, cue.expression(example)) for example in examples)
    return {"expressions": found.total(), "ambiguous": sum(count for count in found.values() if count > 1)}


def object_of(example: CueExample, boxes: np.ndarray) -> int | None:
    """Which of the boxes [N, 4] (xyxy, file frame) the crop was drawn around: in it or around it, of the area recorded.

    None when none is. A crop is an object's box with padding and scale, so that its own box does not say which.
    """
    if not len(boxes):
        return None
    x1, y1, x2, y2 = example.box
    boxes = np.clip(boxes, 0, (example.width, example.height) * 2)
    out = (boxes - np.array([x1, y1, x2, y2])) * np.array([-1, -1, 1, 1])  # by how much its sides are outside the crop
    around = (out <= SLACK).all(1) | (out >= -SLACK).all(1)
    ratio = area(boxes) / (example.width * example.height)
    difference = np.where(around, np.abs(ratio / example.area_ratio - 1), np.inf)
    place = int(difference.argmin())
    return place if difference[place] <= SAME_AREA else None
