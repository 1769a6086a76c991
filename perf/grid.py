"""The points that `perf.step_time`, `perf.limit` and `perf.memory` measure: sizes of a step, and lists of them."""

from __future__ import annotations

import argparse
from dataclasses import fields
from itertools import product

from perf.step_workload import PICTURES, Workload

LISTS = {"prompt_tokens": tuple(PICTURES)[:1], "group": (8,), "new_tokens": (64,), "train_vision": (1,)}
"""Options that take several values, with their defaults; every combination is a point."""


def add_grid(parser: argparse.ArgumentParser) -> None:
    """Options for the sizes of `Workload`; those of `LISTS` take several values."""
    for name, default in LISTS.items():
        choices = tuple(PICTURES) if name == "prompt_tokens" else None
        parser.add_argument(_option(name), type=int, nargs="+", default=default, choices=choices)
    for field in fields(Workload):
        if field.name not in LISTS:
            size = field.name in ("width", "height")  # by default the picture's of so many prompt tokens
            parser.add_argument(_option(field.name), type=int, default=None if size else field.default)


def points(options: dict[str, object]) -> list[Workload]:
    """Takes the options of `add_grid` out of ``options``."""
    lists = [options.pop(name) for name in LISTS]
    sizes = {field.name: options.pop(field.name) for field in fields(Workload) if field.name not in LISTS}
    found = []
    for tokens, *values in product(*lists):
        picture = dict(zip(("width", "height"), PICTURES[tokens], strict=True))
        picture |= {name: value for name in picture if (value := sizes[name]) is not None}
        found.append(Workload(**sizes | picture | dict(zip(list(LISTS)[1:], values, strict=True))))
    return found


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")
