"""Training images that also stand in a benchmark's files: by COCO's number, and by what they show.

RefCOCO's validation and test pictures, for one, are COCO train2014's, and VSR's are of train2017.
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np

from locus.errors import LocusError, whole
from locus.evaluation.benchmark import Item, Picture
from locus.evaluation.benchmarks.file_benchmark import FileBenchmark
from locus.files.progress import tracked
from locus.images.fingerprints import BITS, DISTANCE, coco_id, nearest
from locus.images.sources import ImageFiles, ImageSource
from locus.tasks.cue_search.corpus import Corpus
from locus.types import ImageTable

log = logging.getLogger("locus")

AT_A_TIME = 64
"""Pictures of a benchmark that lie in memory while they are decoded."""


@dataclass(frozen=True)
class LeakCheck:
    """Which benchmarks training images are looked for in, and what becomes of those that are found."""

    against: Sequence[str] = ()
    """Names of conf/benchmark; none: no check."""
    exclude: bool = False
    """Leave the images found out of the corpus, training and validation alike."""
    distance: int | None = DISTANCE
    """Bits of 256 by which fingerprints of one picture may differ; None compares COCO's numbers alone, which opens no
    picture, and refuses a benchmark whose files do not name any."""
    images: Mapping[str, str] | None = None
    """Benchmark -> folder of the pictures that its files only name, where they are not beside them."""

    def __post_init__(self) -> None:
        listed = isinstance(self.against, Sequence) and not isinstance(self.against, str)
        if not listed or not all(isinstance(name, str) for name in self.against):
            raise LocusError(f"leak.against={self.against}: give a list of benchmarks, such as [refcoco,pope]")
        folders = {} if self.images is None else self.images
        if not isinstance(folders, Mapping) or not set(folders) <= set(self.against):
            raise LocusError(
                f"leak.images={self.images}: give folders by names in leak.against, as {{refcoco: train2014}}"
            )
        if not isinstance(self.exclude, bool):
            raise LocusError(f"leak.exclude={self.exclude}: give true or false")
        if self.distance is not None:
            whole("leak.distance", self.distance, 0)
            if self.distance >= BITS // 2:
                raise LocusError(
                    f"leak.distance={self.distance}: different pictures differ in some {BITS // 2} bits; give less"
                )


@dataclass(frozen=True)
class Leak:
    """A training image and the benchmark's picture that it is."""

    image_id: str
    image_path: str
    benchmark: str
    item_id: str
    """The first item that shows the picture."""
    picture: str
    """Its file name, or the digest of its bytes."""
    by: str
    """``coco id``, ``fingerprint``, or ``both``."""
    distance: int | None
    """Bits in which its fingerprint differs from the nearest one; None where fingerprints were not compared."""


@dataclass(frozen=True, eq=False)
class _Pictures:
    """The M different pictures of a benchmark."""

    benchmark: str
    items: list[str]
    names: list[str]
    prints: np.ndarray
    """[M, 4] uint64; without rows where no picture was opened."""

    @property
    def by_coco_id(self) -> dict[int, int]:
        """COCO's number -> which picture."""
        return {number: place for place, name in enumerate(self.names) if (number := coco_id(name)) is not None}


def find_leaks(
    table: ImageTable, source: ImageSource, benchmarks: Sequence[FileBenchmark], check: LeakCheck
) -> list[Leak]:
    """The images of the table that stand in the benchmarks, benchmark by benchmark, in the table's order.

    A benchmark may be a part of the whole one. Images that cannot be read have no fingerprint. Raises LocusError for
    generated scenes, which are in no file, for a benchmark that cannot be read, and for one without COCO's numbers
    where nothing else is compared.
    """
    if not isinstance(source, ImageFiles):
        raise LocusError(
            "leak.against: generated scenes stand in no benchmark; give images (data=coco), or leave it out"
        )
    read = [_pictures(benchmark, check.distance is not None) for benchmark in benchmarks]
    for shown in read:
        if check.distance is None and not shown.by_coco_id:
            raise LocusError(
                f"leak.distance=null compares COCO's numbers alone, and none of {shown.benchmark}'s {len(shown.names)} "
                "pictures has one in its name: leave leak.distance out, or the benchmark"
            )
    prints = _prints(table.path, source) if check.distance is not None else None
    return [leak for shown in read for leak in _matches(table, prints, shown, check)]


def leak_summary(leaks: Sequence[Leak], corpus: Corpus, check: LeakCheck) -> dict[str, Any]:
    """What a corpus' record says: images found, also by benchmark, how many were left out, and the examples of others.

    Logs a warning where the corpus has examples of such images.
    """
    images = {leak.image_id for leak in leaks}
    drawn = {split: Counter(examples.columns["image_id"].to_pylist()) for split, examples in corpus.splits.items()}
    of_them = {f"{split}_examples": sum(counts[one] for one in images) for split, counts in drawn.items()}
    if any(of_them.values()):
        log.warning(
            "%d training and %d validation examples are of images that also stand in %s: leaks.jsonl names them, "
            "leak.exclude=true leaves them out",
            *(*of_them.values(), ", ".join(check.against)),
        )
    found = Counter(leak.benchmark for leak in leaks)
    return {"images": len(images), **found, "left_out": len(images) if check.exclude else 0, **of_them}


def _pictures(benchmark: FileBenchmark, opened: bool) -> _Pictures:
    """Reads a benchmark's items one by one, for its pictures may be gigabytes."""
    places: dict[str, str] = {}
    names: list[str] = []
    prints: list[np.ndarray] = []
    items = benchmark.selection()
    fresh = _fresh(tracked(items, f"pictures of {benchmark.name}", benchmark.rows or 0), places)
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # decoding leaves Python's lock
        while several := list(islice(fresh, AT_A_TIME)):
            names += [picture.key for picture in several]
            prints += pool.map(lambda picture: picture.fingerprint, several) if opened else []
    return _Pictures(
        benchmark.name, list(places.values()), names, np.array(prints, dtype=np.uint64).reshape(-1, BITS // 64)
    )


def _fresh(items: Iterable[Item], places: dict[str, str]) -> Iterator[Picture]:
    """Each different picture once; ``places`` learns the first item of each."""
    for item in items:
        for picture in item.pictures:
            if picture.key not in places:
                places[picture.key] = item.item_id
                yield picture


def _prints(paths: Sequence[str], source: ImageFiles) -> list[np.ndarray | None]:
    """The fingerprints of training images; None for those that cannot be read."""

    def of(path: str) -> np.ndarray | None:
        try:
            return source.fingerprint(path)
        except LocusError:
            return None  # the audit of the images drawn names it

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(tracked(pool.map(of, paths), "fingerprints of training images", len(paths), "images"))


def _matches(
    table: ImageTable, prints: Sequence[np.ndarray | None] | None, shown: _Pictures, check: LeakCheck
) -> Iterator[Leak]:
    """One leak for each image that the benchmark shows."""
    by_id = shown.by_coco_id
    near, distances = _nearest(prints, shown.prints)
    for row, path in enumerate(table.path):
        number = coco_id(path)
        place = by_id.get(number) if number is not None else None
        distance = int(distances[row]) if check.distance is not None and distances[row] <= BITS else None
        alike = distance is not None and check.distance is not None and distance <= check.distance
        if place is None and not alike:
            continue
        by = "fingerprint" if place is None else "both" if alike else "coco id"
        at = int(near[row]) if place is None else place
        yield Leak(table.image_id[row], path, shown.benchmark, shown.items[at], shown.names[at], by, distance)


def _nearest(prints: Sequence[np.ndarray | None] | None, shown: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`nearest` for images of which some have no fingerprint; those are far from everything."""
    if prints is None:
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
    known = np.array([one is not None for one in prints], dtype=bool)
    index, distance = np.zeros(len(prints), dtype=np.int64), np.full(len(prints), BITS + 1)
    if known.any():
        index[known], distance[known] = nearest(np.stack([one for one in prints if one is not None]), shown)
    return index, distance
