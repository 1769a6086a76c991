"""Pictures of a benchmark on their way to a policy: processed ahead by workers, and kept for later questions."""

from __future__ import annotations

import os
from bisect import bisect_right
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

from locus.errors import LocusError
from locus.evaluation.benchmark import Item

T = TypeVar("T")
Keys = tuple[str, ...]
"""Of an item's pictures, in their order."""
WORKERS = max(1, min(8, (os.cpu_count() or 2) // 2))
"""Threads that decode and process: both are done outside Python's lock."""
AHEAD = 2 * WORKERS
"""Sets of pictures that are processed before they are asked for."""


def keys_of(item: Item) -> Keys:
    """What its pictures are remembered by."""
    return tuple(picture.key for picture in item.pictures)


class Remembered(Generic[T]):
    """What was made of pictures, within a limit: what is shown again last goes first (Belady 1966).

    Args:
        limit: of the sum of sizes; one is kept in any case.
        size: of what is kept.
        shown: the pictures of all items, in order; without it, what was not used for longest goes first.
    """

    def __init__(self, limit: int, size: Callable[[T], int], shown: Sequence[Keys] = ()) -> None:
        self.limit, self.size = limit, size
        self.kept: dict[Keys, T] = {}
        self._places: dict[Keys, list[int]] = defaultdict(list)
        for place, keys in enumerate(shown):
            self._places[keys].append(place)

    def get(self, keys: Keys) -> T | None:
        """What is kept, if it is; it is the last to have been used."""
        found = self.kept.pop(keys, None)
        if found is not None:
            self.kept[keys] = found
        return found

    def put(self, keys: Keys, made: T, place: int) -> None:
        """Keeps what was made of the pictures of the item at this place, as far as the limit allows."""
        self.kept.pop(keys, None)
        self.kept[keys] = made
        while len(self.kept) > 1 and sum(map(self.size, self.kept.values())) > self.limit:
            del self.kept[max(self.kept, key=lambda one: self._next(one, place))]

    def _next(self, keys: Keys, place: int) -> float:
        """The place at which they are shown next; infinite where they are not."""
        places = self._places.get(keys, ())
        following = bisect_right(places, place)
        return places[following] if following < len(places) else float("inf")


def processed(items: Iterable[Item], make: Callable[[Item], T], remembered: Remembered[T]) -> Iterator[tuple[Item, T]]:
    """Each item with what ``make`` makes of its pictures, some items ahead; of equal pictures once at a time.

    Raises LocusError that names the item whose pictures cannot be shown.
    """
    coming: dict[Keys, Future[T]] = {}
    window: deque[tuple[int, Item]] = deque()

    def first() -> tuple[Item, T]:
        place, item = window.popleft()
        keys = keys_of(item)
        made = remembered.get(keys)
        if made is None:
            try:
                # What was kept when the item was drawn may have had to go since.
                made = (coming.pop(keys, None) or pool.submit(make, item)).result()
            except LocusError as error:
                raise LocusError(f"item {item.item_id}: {error}") from error
        remembered.put(keys, made, place)
        return item, made

    pool = ThreadPoolExecutor(WORKERS)
    try:
        for place, item in enumerate(items):
            window.append((place, item))
            keys = keys_of(item)
            if keys not in coming and keys not in remembered.kept:
                coming[keys] = pool.submit(make, item)
            while len(coming) > AHEAD or len(window) > 4 * AHEAD:
                yield first()
        while window:
            yield first()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
