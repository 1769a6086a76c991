"""Tables of images and boxes: made of rows, and made smaller."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from locus.boxes import area
from locus.types import ImageTable


def image_table(
    images: Sequence[tuple[str, str, int, int]], box_image: np.ndarray, boxes: np.ndarray, labels: Sequence[str]
) -> tuple[ImageTable, dict[str, int]]:
    """Columns from rows: boxes clipped to their image and sorted by it; those that keep no area are dropped.

    Args:
        images: M rows of (id, path, width, height).
        box_image: [N] row of each box's image.
        boxes: [N, 4] xyxy, file frame.
        labels: N names.

    Returns:
        The table, and how many boxes were clipped (and kept) and how many dropped, not finite ones included.
    """
    ids, paths, width, height = zip(*images, strict=True)
    size = np.array([width, height], dtype=np.int64).T  # [M, 2]
    order = np.argsort(box_image, kind="stable")
    box_image, boxes = box_image[order], boxes[order]
    inside = np.clip(boxes, 0, np.tile(size[box_image], 2))
    keep = np.isfinite(boxes).all(axis=1) & (area(inside) > 0)
    clipped = keep & (np.abs(inside - boxes) > 1e-6).any(axis=1)  # x + w of float text is off by less
    counts = {"boxes_clipped": int(clipped.sum()), "boxes_without_area": int((~keep).sum())}
    kept_labels = tuple(labels[index] for index in order[keep])
    return ImageTable(ids, paths, size[:, 0], size[:, 1], box_image[keep], inside[keep], kept_labels), counts


def keep_boxes(table: ImageTable, keep: np.ndarray) -> ImageTable:
    """The table with only the boxes where ``keep`` [N] is true; all its images stay."""
    labels = tuple(label for label, kept in zip(table.labels, keep, strict=True) if kept)
    images = (table.image_id, table.path, table.width, table.height)
    return ImageTable(*images, table.box_image[keep], table.boxes[keep], labels)


def drop_images(table: ImageTable, drop: set[str]) -> ImageTable:
    """The table without the images of these ids and without their boxes."""
    keep = np.array([image_id not in drop for image_id in table.image_id], dtype=bool)
    table = keep_boxes(table, keep[table.box_image])
    rows = np.flatnonzero(keep)
    ids, paths = tuple(table.image_id[r] for r in rows), tuple(table.path[r] for r in rows)
    new_row = np.cumsum(keep) - 1
    return ImageTable(
        ids, paths, table.width[rows], table.height[rows], new_row[table.box_image], table.boxes, table.labels
    )
