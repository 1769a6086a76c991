"""The one home of boxes: frames, conversion, IoU. Pure functions.

A box is xyxy, float, half-open: width = x2 - x1, no "+1". Boxes that only touch have IoU 0.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from locus.errors import LocusError
from locus.types import XYXY, Box, Frame, View

UNIT = 1000.0


def parse_frame(name: str | None) -> Frame:
    """Returns the frame of that name; raises LocusError for an unknown one."""
    try:
        return Frame(str(name))
    except ValueError:
        known = ", ".join(Frame)
        raise LocusError(
            f"unknown frame {name!r}: a backbone declares one of {known} (backbone.frame), the one it writes boxes in"
        ) from None


def file_box(xyxy: Iterable[float], width: float, height: float) -> Box:
    """Corners in pixels of an image of this size on disk."""
    x1, y1, x2, y2 = xyxy
    return Box(x1, y1, x2, y2, Frame.FILE, width, height)


def frame_size(
    frame: Frame, file_size: tuple[float, float], processed_size: tuple[float, float]
) -> tuple[float, float]:
    """Width and height of ``frame`` for an image of this size on disk and this size as processed."""
    relative = {Frame.UNIT1000: (UNIT, UNIT), Frame.UNIT: (1.0, 1.0)}
    return {Frame.FILE: file_size, Frame.PROCESSED: processed_size, **relative}[frame]


def convert(box: Box, frame: Frame, width: float, height: float) -> Box:
    """The same region in another frame of the given size."""
    sx, sy = width / box.width, height / box.height
    return Box(box.x1 * sx, box.y1 * sy, box.x2 * sx, box.y2 * sy, frame, width, height)


def view_size(view: View, width: float, height: float) -> tuple[float, float]:
    """Width and height of the frame that a policy writes boxes in, for an image of this size on disk.

    Raises LocusError where that is the processed frame and nobody says its size.
    """
    if view.frame is Frame.PROCESSED and view.processed is None:
        raise LocusError(
            "boxes are written in the processed frame, whose size the predictions do not give: predict again, or pass "
            "backbone.frame=file or backbone.frame=unit1000 if the policy writes one of them"
        )
    return frame_size(view.frame, (width, height), view.processed or (UNIT, UNIT))


def written_box(xyxy: XYXY, view: View, width: float, height: float) -> Box:
    """What a policy wrote -> the box in the file frame of an image of this size: the one way from answer to box."""
    return convert(Box(*xyxy, view.frame, *view_size(view, width, height)), Frame.FILE, width, height)


def to_view(box: Box, view: View) -> Box:
    """A box of the file frame as a policy writes it."""
    return convert(box, view.frame, *view_size(view, box.width, box.height))


def edges(numbers: Iterable[float]) -> XYXY:
    """Four numbers as xyxy; raises ValueError for more or fewer."""
    x1, y1, x2, y2 = numbers
    return x1, y1, x2, y2


def ordered(xyxy: XYXY) -> XYXY:
    """The same corners, the upper left one first."""
    x1, y1, x2, y2 = xyxy
    return min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)


def visible(box: Box) -> Box | None:
    """The part of a box that lies in its frame; None where nothing does."""
    x1, y1, x2, y2 = (float(value) for value in np.clip(box.xyxy, 0, (box.width, box.height) * 2))
    return replace(box, x1=x1, y1=y1, x2=x2, y2=y2) if is_valid((x1, y1, x2, y2)) else None


def is_valid(xyxy: XYXY) -> bool:
    """Finite and of positive area."""
    x1, y1, x2, y2 = xyxy
    return bool(np.isfinite(xyxy).all()) and x2 > x1 and y2 > y1


def area(boxes: np.ndarray) -> np.ndarray:
    """[..., 4] xyxy -> [...] areas; inverted boxes count 0."""
    return np.clip(boxes[..., 2] - boxes[..., 0], 0, None) * np.clip(boxes[..., 3] - boxes[..., 1], 0, None)


def iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Intersection over union of [..., 4] xyxy boxes in one frame, broadcast; 0 where the union is empty."""
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    low, high = np.maximum(a[..., :2], b[..., :2]), np.minimum(a[..., 2:], b[..., 2:])
    with np.errstate(over="ignore", invalid="ignore"):  # a policy may write 1e308
        inter = np.prod(np.clip(high - low, 0, None), axis=-1)
        union = area(a) + area(b) - inter
    return np.divide(inter, union, out=np.zeros_like(inter), where=union > 0)


def giou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Generalised IoU (arXiv 1902.09630) of [..., 4] xyxy boxes in one frame, broadcast: from -1, far apart, to 1.

    IoU less the share of the smallest box around both that neither covers; -1 where that box is infinite.
    """
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    around = np.concatenate([np.minimum(a[..., :2], b[..., :2]), np.maximum(a[..., 2:], b[..., 2:])], axis=-1)
    overlap = iou(a, b)
    with np.errstate(all="ignore"):  # as above; infinity by infinity
        hull = area(around)
        union = (area(a) + area(b)) / (1 + overlap)  # a + b = union + intersection, and that is IoU times union
        value = overlap - (hull - union) / hull
    return np.where(np.isfinite(value), value, -1.0)


def same_frame(a: Box, b: Box) -> None:
    """Raises LocusError unless both boxes are in one frame of one size."""
    if (a.frame, a.width, a.height) != (b.frame, b.width, b.height):
        raise LocusError(
            f"boxes in different frames ({a.frame} {a.width}x{a.height}, {b.frame} {b.width}x{b.height}): "
            "convert one before comparing"
        )


def box_iou(a: Box, b: Box) -> float:
    """IoU of two boxes of one frame; raises LocusError when the frames differ."""
    same_frame(a, b)
    return float(iou(np.array(a.xyxy), np.array(b.xyxy)))


def box_giou(a: Box, b: Box) -> float:
    """Generalised IoU of two boxes of one frame; raises LocusError when the frames differ."""
    same_frame(a, b)
    return float(giou(np.array(a.xyxy), np.array(b.xyxy)))
