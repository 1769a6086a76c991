"""The one error a user's input may cause: it names what is wrong and how to fix it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

T = TypeVar("T")


class LocusError(ValueError):
    """Wrong input, seen before or during a run; the message says which file or key, and what to do.

    Entry points print it as one line, without a traceback, and exit with status 2.
    """


def whole(name: str, value: object, least: int = 1) -> None:
    """Raises LocusError unless the value is a whole number from ``least`` on."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise LocusError(f"{name}={value}: give a whole number from {least} on")


def number(name: str, value: object, low: float, high: float = float("inf"), above: bool = False) -> None:
    """Raises LocusError unless the value is a number in [low, high], or in (low, high] for ``above``."""
    plain = value if isinstance(value, int | float) and not isinstance(value, bool) else None
    if plain is None or not low <= plain <= high or (above and plain == low):
        least = f"above {low:g}" if above else f"from {low:g} on"
        raise LocusError(f"{name}={value}: give a number {least}{f', up to {high:g}' if high < float('inf') else ''}")


def by_name(key: str, name: object, known: Mapping[str, T]) -> T:
    """What a setting means by this name; raises LocusError, with the names that it may have, for another one."""
    if not isinstance(name, str) or name not in known:
        raise LocusError(f"{key}={name}: give one of {', '.join(known)}")
    return known[name]
