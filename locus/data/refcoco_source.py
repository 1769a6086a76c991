"""Objects of RefCOCO-style files, each with a sentence for its label: what ``cue=text_label`` puts into the prompt."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from locus.data.refcoco_files import ReferredObject, referred_objects
from locus.data.referring_expressions import MOST_WORDS, expression_fault
from locus.data.sources import ImageFiles, image_table
from locus.errors import LocusError
from locus.types import ImageTable


class RefcocoSource(ImageFiles):
    """The referred objects of some splits of a folder as in `refcoco_files`, and the folder of their images.

    A label is the object's first sentence that can be an expression (`expression_fault`); objects without one are left
    out and counted. Images are in the order of their ids, an image's boxes in that of annotation and reference ids. An
    object that is referred to twice is two boxes; the corpus leaves out the second as a duplicate.
    """

    def __init__(self, path: str, images: str, splits: Sequence[str] = ("train",)) -> None:
        super().__init__(images)
        self.path = Path(path)
        self.splits = (splits,) if isinstance(splits, str) else tuple(splits)

    def table(self) -> ImageTable:
        """Raises LocusError naming the file, and the row, that is missing, broken or of no use."""
        found = sorted(referred_objects(self.path, self.splits), key=_order)
        if not found:
            raise LocusError(
                f"{self.path}: has no references of the splits {', '.join(self.splits)}; pass data.splits=[<name>,...]"
            )
        labelled = [(one, expression) for one in found if (expression := _expression(one))]
        if not labelled:
            raise LocusError(
                f"{self.path}: none of {len(found)} references has a sentence that can be an expression, of one line "
                f"and at most {MOST_WORDS} words; pass references with such sentences"
            )
        images = {one.cells["image_id"]: one for one, _ in labelled}
        columns = [(f"coco-{key}", one.picture, *_size(one)) for key, one in images.items()]
        row = {key: index for index, key in enumerate(images)}
        box_image = np.array([row[one.cells["image_id"]] for one, _ in labelled], dtype=np.int64)
        boxes = np.array([_corners(one) for one, _ in labelled])
        table, counts = image_table(columns, box_image, boxes, [expression for _, expression in labelled])
        self.audit = {"references_without_expression": len(found) - len(labelled)} | counts
        return table


def _order(one: ReferredObject) -> tuple[Any, ...]:
    return one.cells["image_id"], one.cells["ann_id"], one.cells.get("ref_id", one.number)


def _expression(one: ReferredObject) -> str:
    """The first sentence that can be an expression; empty where none can."""
    sentences = one.cells.get("sentences")
    if not isinstance(sentences, list):
        raise one.error("sentences is no list; fetch the file again")
    texts = ((row.get("sent") or row.get("raw")) if isinstance(row, dict) else row for row in sentences)
    return next((text.strip() for text in texts if not expression_fault(text)), "")


def _size(one: ReferredObject) -> tuple[int, int]:
    try:
        width, height = (int(side) for side in one.size)
    except (TypeError, ValueError):
        raise one.error(f"the size {one.size} of its image in instances.json is no two numbers; mend it") from None
    return width, height


def _corners(one: ReferredObject) -> tuple[float, float, float, float]:
    """xyxy, in the file frame."""
    try:
        x, y, width, height = (float(value) for value in one.xywh)
    except (TypeError, ValueError):
        raise one.error(f"the box {one.xywh} in instances.json is no four numbers; mend it") from None
    return x, y, x + width, y + height
