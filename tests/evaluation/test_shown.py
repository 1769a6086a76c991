"""Pictures on their way to a policy: what is shown again soonest is kept, within the limit; order, errors, no waste."""

from __future__ import annotations

import threading

import pytest

from locus.errors import LocusError
from locus.evaluation.benchmark import Item, Picture
from locus.evaluation.shown import AHEAD, Remembered, keys_of, processed


def item(number: int, key: str) -> Item:
    return Item(str(number), "What?", "A", (Picture(key, b""),))


def asked(order: str, limit: int, known: bool) -> int:
    """How often something is made for pictures that are shown in this order."""
    items = [item(number, key) for number, key in enumerate(order)]
    made: list[str] = []
    shown = [keys_of(one) for one in items] if known else []
    kept = Remembered[str](limit, lambda _: 1, shown)
    for place, one in enumerate(items):
        found = kept.get(keys_of(one))
        if found is None:
            made.append(found := one.pictures[0].key)
        assert found == one.pictures[0].key
        kept.put(keys_of(one), found, place)
        assert len(kept.kept) <= limit
    return len(made)


def test_what_is_shown_again_soonest_is_kept():
    """Three rounds of six pictures, three of them held: by last use nothing would ever be kept long enough; by next use
    (Belady, by hand) the first three are made once, the others in every round."""
    assert asked("abcdef" * 3, 3, known=False) == 18
    assert asked("abcdef" * 3, 3, known=True) == 3 + 3 * 3
    assert asked("aabbccab", 2, known=True) == 4 and asked("aabbccab", 3, known=True) == 3
    assert asked("aabb", 1, known=False) == 2


def test_items_keep_their_order_and_equal_pictures_are_made_once():
    """A slow picture overtaken by a fast one; a picture processed by two workers at a time; one too far ahead."""
    order = "aabacdbefghijk" * 2
    items = [item(number, key) for number, key in enumerate(order)]
    made, lock, first = list[str](), threading.Lock(), threading.Event()

    def make(one: Item) -> str:
        key = one.pictures[0].key
        first.wait(0.05) if key == "a" else first.set()
        with lock:
            made.append(key)
        return key

    drawn = iter(items)
    stream = processed(drawn, make, Remembered(100, lambda _: 1))
    assert next(stream)[0].item_id == "0"
    assert len(items) - len(list(drawn)) <= 4 * AHEAD + 1
    stream.close()
    made.clear()
    found = list(processed(iter(items), make, Remembered(100, lambda _: 1)))
    assert [(one.item_id, key) for one, key in found] == [(str(number), key) for number, key in enumerate(order)]
    assert sorted(made) == sorted(set(order))


@pytest.mark.parametrize("known", [True, False])
def test_pictures_that_had_to_go_are_made_again(known: bool):
    """An item drawn while its pictures were kept, which others displace before its turn: it ended in a KeyError."""
    items = [item(number, key) for number, key in enumerate("ABCDE" * 3)]
    kept = Remembered[str](4, lambda _: 1, [keys_of(one) for one in items] if known else [])
    found = list(processed(iter(items), lambda one: one.pictures[0].key, kept))
    assert [key for _, key in found] == list("ABCDE" * 3)


def test_the_item_of_a_broken_picture_is_named():
    """The items before it are handed out, then the error names it, not the one that was processed last."""

    def make(one: Item) -> str:
        if one.pictures[0].key == "c":
            raise LocusError("picture c cannot be decoded")
        return ""

    stream = processed([item(number, key) for number, key in enumerate("abcd")], make, Remembered(9, len))
    assert [next(stream)[0].item_id for _ in range(2)] == ["0", "1"]
    with pytest.raises(LocusError, match="item 2: picture c cannot be decoded"):
        next(stream)
