"""Where images and object boxes come from: COCO instances, a box list, a folder of images.

A source gives all its images and boxes as one columnar `ImageTable` and opens an image by the table's path. Boxes
are xyxy, float, half-open, in pixels of the image as stored; EXIF orientation is therefore not applied on open. What
a source leaves out is counted in its ``audit``. Generated scenes (`locus.scenes.source`) satisfy the same protocol.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from pycocotools.coco import COCO

from locus.errors import LocusError
from locus.images.fingerprints import fingerprint
from locus.images.tables import image_table
from locus.types import ImageTable

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
# Scans and satellite pictures are beyond Pillow's guard against decompression bombs (179 million pixels).
Image.MAX_IMAGE_PIXELS = 1_000_000_000
LISTED = 20
"""How many names an audit lists; the rest is only counted."""


class ImageSource(Protocol):
    """Images with, or without, object boxes."""

    def table(self) -> ImageTable:
        """All images and boxes, in an order that does not depend on the order in the files."""

    def open(self, path: str) -> Image.Image:
        """The RGB image at a path of the table, as stored; raises LocusError when it cannot be read."""


class ImageFiles:
    """Image files under one folder; what the three file sources share."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.audit: dict[str, Any] = {}
        """What the last `table` left out: counts by reason, and names of unreadable images."""

    def open(self, path: str) -> Image.Image:
        """The RGB image at ``path``, relative to the folder, wholly decoded, EXIF orientation not applied.

        Raises LocusError naming the file when it is missing, cannot be decoded, or has more than 256 levels a pixel.
        """
        return self._read(path, rgb)

    def size(self, path: str) -> tuple[int, int]:
        """Width and height in pixels from the file's header; raises LocusError as `open` does."""
        return self._read(path, lambda image: image.size)

    def fingerprint(self, path: str) -> np.ndarray:
        """`fingerprints.fingerprint` of the image, sooner than `open` decodes it; raises LocusError as `open` does."""
        return self._read(path, fingerprint)

    def _read(self, path: str, read: Any) -> Any:
        file = self.folder / path
        try:
            with Image.open(file) as image:
                return read(image)
        except FileNotFoundError:
            raise LocusError(f"image {file}: no such file; check the image folder (data.images) or add it") from None
        # PIL's decoders raise many kinds (OSError, SyntaxError, struct.error, DecompressionBombError, ...).
        except Exception as error:
            raise LocusError(
                f"image {file}: cannot be read ({error}); replace the file, or leave it out of the data"
            ) from error

    def _measure(self, paths: Sequence[str]) -> list[tuple[str, int, int]]:
        """(path, width, height) of the readable ones; the others are counted and listed in the audit."""
        rows, unreadable = [], []
        for path in paths:
            try:
                path.encode()  # tables hold no other names
                rows.append((path, *self.size(path)))
            except UnicodeEncodeError:
                unreadable.append(f"image {ascii(path)}: its name is no UTF-8; rename it")
            except LocusError as error:
                unreadable.append(str(error))
        self.audit |= {"images_unreadable": len(unreadable), "images_unreadable_first": unreadable[:LISTED]}
        if not rows:
            reason = f"; the first: {unreadable[0]}" if unreadable else ""
            raise LocusError(f"{self.folder}: none of {len(paths)} images can be read{reason}")
        return rows


def file_of(folder: str | Path, path: str) -> str:
    """Where an image lies, the same for all spellings of its path: ``a.jpg``, ``./a.jpg``, or from the root on."""
    return os.path.abspath(os.path.join(folder, path))


def rgb(image: Image.Image) -> Image.Image:
    """In the mode that policies are shown; raises ValueError for one of more than 256 levels."""
    if image.mode.startswith(("I", "F")):  # converted, all from level 255 on would be white, or all of 0 to 1 black
        raise ValueError(f"its pixels are of mode {image.mode}, with more than 256 levels: scale them to 8 bits")
    return image.convert("RGB")


class CocoSource(ImageFiles):
    """COCO instances JSON and its image folder.

    Crowd regions (``iscrowd``) are dropped; xywh becomes xyxy; the category name is the label. Images are in the
    order of their ids, an image's boxes in the order of the annotation ids. Entries of one file are one image, of the
    first id: it cannot be in training and in validation.
    """

    def __init__(self, annotations: str, images: str) -> None:
        super().__init__(images)
        self.annotations = Path(annotations)

    def table(self) -> ImageTable:
        """Raises LocusError naming the JSON file when it is missing, broken, no COCO instances, or without images."""
        coco = self._load()
        try:
            listed = [coco.imgs[key] for key in sorted(coco.imgs)]
            files: dict[str, int] = {}
            row = {i["id"]: files.setdefault(file_of(self.folder, i["file_name"]), len(files)) for i in listed}
            first = {row[image["id"]]: image for image in reversed(listed)}
            images = [first[index] for index in range(len(files))]
            known = [a for a in coco.dataset["annotations"] if a["image_id"] in row]
            single = sorted((a for a in known if not a.get("iscrowd", 0)), key=lambda a: a["id"])
            labels = [coco.cats[a["category_id"]]["name"] for a in single]
            boxes = np.array([a["bbox"] for a in single], dtype=np.float64).reshape(len(single), 4)
            boxes[:, 2:] += boxes[:, :2]
            box_image = np.array([row[a["image_id"]] for a in single], dtype=np.int64)
            columns = [(f"coco-{i['id']}", i["file_name"], int(i["width"]), int(i["height"])) for i in images]
        except (KeyError, TypeError, ValueError) as error:
            raise LocusError(
                f"{self.annotations}: not COCO instances JSON ({type(error).__name__}: {error}); it needs images (id, "
                "file_name, width, height), annotations (id, image_id, category_id, bbox [x, y, w, h]) and categories"
            ) from error
        if not columns:
            raise LocusError(f"{self.annotations}: lists no images; pass an instances file that has some")
        self.audit = {
            "images_listed_again": len(listed) - len(images),
            "boxes_of_unknown_image": len(coco.dataset["annotations"]) - len(known),
            "boxes_crowd": len(known) - len(single),
        }
        table, counts = image_table(columns, box_image, boxes, labels)
        self.audit |= counts
        return table

    def _load(self) -> COCO:
        try:
            with redirect_stdout(io.StringIO()):  # pycocotools prints its progress
                return COCO(str(self.annotations))
        except OSError as error:
            raise LocusError(
                f"{self.annotations}: cannot be read ({error.strerror}); pass data.annotations=<instances JSON>"
            ) from None
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise LocusError(f"{self.annotations}: not valid JSON ({error}); fetch the file again") from None
        except (KeyError, TypeError, AssertionError) as error:
            raise LocusError(
                f"{self.annotations}: not COCO instances JSON ({type(error).__name__}: {error}); pass an instances file"
            ) from None


class BoxesSource(ImageFiles):
    """A list of boxes, JSONL or parquet, with columns image, box and, if known, label.

    Example of a line: ``{"image": "street/1.jpg", "box": [10, 20, 42, 60], "label": "sign"}``. The image is a path
    relative to ``images`` or, without that, to the list's folder; several spellings of it are one image, by the
    shortest. Sizes are read from the image headers; an image that cannot be read is left out with its boxes and
    counted.
    """

    def __init__(self, path: str, images: str = "") -> None:
        self.path = Path(path)
        super().__init__(images or self.path.parent)

    def table(self) -> ImageTable:
        """Raises LocusError naming the file and line for a row that is not as above, and when there are no rows."""
        rows = [self._checked(where, row) for where, row in self._rows()]
        if not rows:
            raise LocusError(f"{self.path}: has no boxes; write one row per box with image and box")
        self.audit = {}
        files: dict[str, str] = {}
        spellings = sorted({path for path, _, _ in rows}, key=lambda path: (len(path), path))
        of = {path: files.setdefault(file_of(self.folder, path), path) for path in spellings}
        columns = [(path, path, w, h) for path, w, h in self._measure(sorted(files.values()))]
        index = {path: number for number, (path, *_) in enumerate(columns)}
        kept = [(of[path], box, label) for path, box, label in rows if of[path] in index]
        self.audit["boxes_of_unreadable_image"] = len(rows) - len(kept)
        box_image = np.array([index[path] for path, _, _ in kept], dtype=np.int64)
        boxes = np.array([box for _, box, _ in kept], dtype=np.float64)
        table, counts = image_table(columns, box_image, boxes, [label for _, _, label in kept])
        self.audit |= counts
        return table

    def _rows(self) -> Iterator[tuple[str, Any]]:
        """(where, row as read) for each row of the list."""
        try:
            if self.path.suffix == ".parquet":
                yield from ((f"row {n}", row) for n, row in enumerate(pq.read_table(self.path).to_pylist(), 1))
                return
            with self.path.open(encoding="utf-8") as lines:
                for number, line in enumerate(lines, 1):
                    if line.strip():
                        yield f"line {number}", _parse_json(self.path, number, line)
        except (OSError, pa.ArrowInvalid, UnicodeDecodeError) as error:
            raise LocusError(f"{self.path}: cannot be read ({error}); pass data.path=<JSONL or parquet>") from None

    def _checked(self, where: str, row: Any) -> tuple[str, list[float], str]:
        try:
            path, box, label = row["image"], [float(value) for value in row["box"]], row.get("label") or ""
        except (KeyError, TypeError, ValueError, AttributeError):
            path, box, label = None, [], ""
        if not isinstance(path, str) or not path or not isinstance(label, str) or len(box) != 4:
            raise LocusError(
                f'{self.path}, {where}: not a box row; write {{"image": "1.jpg", "box": [x1, y1, x2, y2], "label": ""}}'
            )
        return path, box, label


def _parse_json(path: Path, number: int, line: str) -> Any:
    try:
        return json.loads(line)
    except json.JSONDecodeError as error:
        raise LocusError(f"{path}, line {number}: not valid JSON ({error}); write one JSON object a line") from None


class FolderSource(ImageFiles):
    """Images without boxes: every jpg, jpeg, png and webp under a folder, sorted by path; links are followed."""

    def __init__(self, path: str) -> None:
        super().__init__(path)

    def table(self) -> ImageTable:
        """Raises LocusError when the folder is missing or has no readable image; unreadable ones are counted."""
        closed: list[str] = []
        paths = sorted(self._paths(lambda error: closed.append(f"folder {error.filename!a}: {error.strerror}")))
        if not paths:
            why = f" ({closed[0]})" if closed else ""
            kinds = ", ".join(IMAGE_SUFFIXES)
            raise LocusError(f"{self.folder}: no images ({kinds}) there{why}; pass data.path=<folder>")
        self.audit = {"folders_unreadable": len(closed), "folders_unreadable_first": closed[:LISTED]}
        columns = [(path, path, width, height) for path, width, height in self._measure(paths)]
        return image_table(columns, np.empty(0, np.int64), np.empty((0, 4)), [])[0]

    def _paths(self, refused: Callable[[OSError], None]) -> Iterator[str]:
        """Paths of the images, relative to the folder; each folder is read once, wherever links lead."""
        seen: set[str] = set()
        tops = [str(self.folder)]
        for top in tops:  # which grows: a folder that is also linked to is read under its own name
            for place, folders, names in os.walk(top, onerror=refused):
                folders.sort()
                real = os.path.realpath(place)
                if real in seen:
                    folders.clear()
                    continue
                seen.add(real)
                tops += [folder for name in folders if os.path.islink(folder := os.path.join(place, name))]
                for file in (Path(place, name) for name in names):
                    if file.suffix.lower() in IMAGE_SUFFIXES and file.is_file():
                        yield file.relative_to(self.folder).as_posix()
