"""A benchmark's items, read from its file once: they are checked, asked and scored as they were read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

from locus.evaluation.benchmark import Benchmark, Item, Picture
from locus.evaluation.evaluator import limited
from locus.evaluation.shown import Keys, keys_of

KEPT = 2**30
"""Bytes of pictures that are held in memory. Of a benchmark with more (HR-Bench, MME-RealWorld) none is held: its file
is read a second time while the policy is asked."""


class ItemsRead:
    """The first ``limit`` items of a benchmark, or all. Raises LocusError for a broken file, before any is asked."""

    def __init__(self, benchmark: Benchmark, limit: int | None = None, kept: int = KEPT) -> None:
        self.benchmark, self.limit = benchmark, limit
        self.items: list[Item] = []
        """Without the pictures' contents where these are not held."""
        self.held = True
        """The pictures are in memory, equal ones once."""
        pictures: dict[str, Picture] = {}
        size, asked = 0, hashlib.sha256()
        for item in limited(benchmark, limit):
            for picture in item.pictures if self.held else ():
                if picture.key not in pictures:
                    pictures[picture.key] = picture
                    size += len(picture.source) if isinstance(picture.source, bytes) else 0
            if self.held and size > kept:
                self.held = False
                self.items, pictures = [_bare(one) for one in self.items], {}
            self.items.append(
                replace(item, pictures=tuple(pictures[one.key] for one in item.pictures)) if self.held else _bare(item)
            )
            asked.update(json.dumps([item.item_id, item.prompt, *map(_name, item.pictures)]).encode())
        self.digest = f"sha256 {asked.hexdigest()}"
        """Of ids, prompts and pictures: as long as it is the same, responses are to these items."""

    def part(self, start: int, end: int) -> ItemsPart:
        """The items from ``start`` to before ``end``."""
        return ItemsPart(self, start, end)


@dataclass(frozen=True)
class ItemsPart:
    """Some of a benchmark's items, as a policy is asked them."""

    read: ItemsRead
    start: int
    end: int

    @property
    def name(self) -> str:
        """The benchmark's."""
        return self.read.benchmark.name

    @property
    def ids(self) -> list[str]:
        """In the benchmark's order."""
        return [item.item_id for item in self.read.items[self.start : self.end]]

    @property
    def shown(self) -> list[Keys]:
        """Keys of each item's pictures, in the benchmark's order."""
        return [keys_of(item) for item in self.read.items[self.start : self.end]]

    def items(self) -> Iterator[Item]:
        """With their pictures."""
        source = iter(self.read.items) if self.read.held else self.read.benchmark.items()
        return islice(source, self.start, self.end)


def _bare(item: Item) -> Item:
    return replace(item, pictures=tuple(replace(one, source=b"") for one in item.pictures))


def _name(picture: Picture) -> str:
    """The picture's key, where that is a path without its folder: a benchmark may be moved."""
    return Path(picture.key).name if isinstance(picture.source, Path) else picture.key
