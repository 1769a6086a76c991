"""The folder that refer's tool reads for RefCOCO, RefCOCO+ and RefCOCOg: references and COCO's ``instances.json``.

References are ``refs*.json`` or, as refer publishes them, pickles ``refs*.p``: a list of objects, each with its split,
its ``ann_id`` and ``image_id`` in the instances and several sentences (github.com/lichengunc/refer).
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from locus.errors import LocusError
from locus.images.labels import MOST_WORDS, expression_fault
from locus.images.sources import ImageFiles
from locus.images.tables import image_table
from locus.types import ImageTable


@dataclass(frozen=True, slots=True)
class ReferredObject:
    """A row of the references and what the instances say of it."""

    file: Path
    number: int
    """Of the row in its file, from 1."""
    cells: Mapping[str, Any]
    """The row as it is in the file."""
    picture: str
    """File name."""
    size: tuple[int, int]
    """Width and height of the picture."""
    xywh: Any
    """The instance's ``bbox`` as it is in the file, in its pixels."""

    def error(self, message: str) -> LocusError:
        """The error to raise about this row."""
        return _error(self.file, self.number, message)


def references_file(folder: Path) -> Path | None:
    """The references to read in a folder; None where there are none.

    JSON before pickles; Google's splits, which lie beside UNC's or UMD's, have the same names and other sentences.
    """
    files = [*folder.glob("refs*.json")] or [*folder.glob("refs*.p")]
    return min(files, key=lambda file: ("google" in file.name, file.name), default=None)


def referred_objects(folder: Path, splits: Sequence[str]) -> Iterator[ReferredObject]:
    """The references of these splits in the order of their file; raises LocusError that names file and row."""
    refs, instances = references_file(folder), folder / "instances.json"
    if refs is None:
        raise LocusError(
            f"{folder}: no refs*.json and no refs*.p there; pass the folder of one benchmark of refer, with its "
            "references and instances.json"
        )
    try:
        found = json.loads(instances.read_text(encoding="utf-8"))
        pictures = {one["id"]: (one["file_name"], (one["width"], one["height"])) for one in found["images"]}
        boxes = {one["id"]: one["bbox"] for one in found["annotations"]}
        listed = json.loads(refs.read_text(encoding="utf-8")) if refs.suffix == ".json" else _unpickled(refs)
        rows = [dict(one) for one in listed]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise LocusError(
            f"{folder}: {refs.name} and instances.json cannot be read ({error!r}); write them again"
        ) from None
    for number, cells in enumerate(rows, 1):
        if not cells.get("split"):
            raise _error(refs, number, "split is empty; fetch the file again, or correct the row")
        if cells["split"] not in splits:
            continue
        picture, xywh = pictures.get(cells.get("image_id")), boxes.get(cells.get("ann_id"))
        if picture is None or xywh is None:
            raise _error(refs, number, "its image_id or ann_id is not in instances.json; take both files of one source")
        yield ReferredObject(refs, number, cells, *picture, xywh)


class _PlainUnpickler(pickle.Unpickler):
    """Reads lists, dicts, texts and numbers; a pickle that names anything to be called is refused: it would run."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"it names {module}.{name}, which references have no need of")


def _unpickled(file: Path) -> Any:
    """Raises ValueError for a broken pickle or one of more than plain data, OSError as open does."""
    with file.open("rb") as data:
        try:
            return _PlainUnpickler(data, encoding="utf-8", errors="replace").load()  # refer's are of Python 2
        except Exception as error:  # broken pickles end in errors of many kinds
            raise ValueError(f"{file.name}: {error}") from None


def _error(file: Path, number: int, message: str) -> LocusError:
    return LocusError(f"{file}, row {number}: {message}")


class RefcocoSource(ImageFiles):
    """The referred objects of some splits of a folder that refer's tool reads, and the folder of their images.

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
        if lacking := sorted(set(self.splits) - {one.cells["split"] for one in found}):
            raise LocusError(
                f"{self.path}: has no references of the splits {', '.join(lacking)}; pass data.splits=[<name>,...]"
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
        raise one.error("sentences is not a list; fetch the file again")
    texts = ((row.get("sent") or row.get("raw")) if isinstance(row, dict) else row for row in sentences)
    return next((text.strip() for text in texts if isinstance(text, str) and not expression_fault(text)), "")


def _size(one: ReferredObject) -> tuple[int, int]:
    try:
        width, height = (int(side) for side in one.size)
    except (TypeError, ValueError):
        raise one.error(f"the size {one.size} of its image in instances.json must be two numbers; correct it") from None
    return width, height


def _corners(one: ReferredObject) -> tuple[float, float, float, float]:
    """xyxy, in the file frame."""
    try:
        x, y, width, height = (float(value) for value in one.xywh)
    except (TypeError, ValueError):
        raise one.error(f"the box {one.xywh} in instances.json must be four numbers; correct it") from None
    return x, y, x + width, y + height
