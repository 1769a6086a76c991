"""Shards of a benchmark: its items in n runs of neighbours, answered apart, and put together again."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from locus.errors import LocusError
from locus.evaluation.predictions import (
    COMPUTING,
    Prediction,
    PredictionFile,
    check_manifest,
    read_manifest,
    read_predictions,
)

MERGE = "merge"
"""The value of ``shard=`` that puts the shards together."""


@dataclass(frozen=True)
class Shard:
    """The ``number``-th of ``count`` parts, from 1; neighbours stay together, for they often share a picture."""

    number: int
    count: int

    @classmethod
    def parse(cls, text: object) -> Shard:
        """Of ``k/n``; raises LocusError for anything else."""
        match = re.fullmatch(r"([1-9]\d*)/([1-9]\d*)", str(text))
        shard = cls(int(match[1]), int(match[2])) if match else None
        if shard is None or shard.number > shard.count:
            raise LocusError(f"shard={text}: give k/n with k from 1 to n, such as 1/4, or merge")
        return shard

    @property
    def folder(self) -> str:
        """Where it lies in the benchmark's folder."""
        return f"shard-{self.number}-of-{self.count}"

    def bounds(self, items: int) -> tuple[int, int]:
        """The first of its items, and the one behind its last."""
        return (self.number - 1) * items // self.count, self.number * items // self.count


def merge(place: Path, settings: Mapping[str, Any], ids: Sequence[str]) -> PredictionFile:
    """Puts the predictions of all shards in a benchmark's folder together: the file that one process writes.

    Its manifest has what the shards' own say: once where they agree, else under ``shards``. Shards are only read, for
    one may still be at work. Raises LocusError when they are not all there, not done, or made with other settings.
    """
    predictions: list[Prediction] = []
    manifests: list[dict[str, Any]] = []
    for shard in _shards(place):
        folder = place / shard.folder
        start, end = shard.bounds(len(ids))
        path = folder / "predictions.jsonl"
        answered: dict[str, Prediction] = {}
        number = 0
        if path.exists():
            first = manifests[0]["settings"] if manifests else read_manifest(folder)["settings"]
            computing = {name: first[name] for name in COMPUTING if name in first}
            settings = {name: value for name, value in settings.items() if name not in COMPUTING} | computing
            manifests.append(check_manifest(folder, {"rows": end - start, **settings}))
            data = path.read_bytes()
            number = data.count(b"\n")
            if data.endswith(b"\n"):  # else it is being written, or a kill cut its last line
                answered = read_predictions(path)
        if list(answered) != ids[start:end]:
            raise LocusError(
                f"{folder}: {number} of {end - start} items are answered: finish it with "
                f"shard={shard.number}/{shard.count} and the same folder"
            )
        predictions += answered.values()
    record = _together([{name: one[name] for name in one if name not in ("rows", "settings")} for one in manifests])
    file = PredictionFile(place, settings, ids, record)
    file.put(predictions, **record)
    return file


def _shards(place: Path) -> list[Shard]:
    """The shards whose folders are there; raises LocusError unless they are of one number."""
    numbers = [re.fullmatch(r"shard-(\d+)-of-(\d+)", folder.name) for folder in place.glob("shard-*-of-*")]
    counts = sorted({int(number[2]) for number in numbers if number})
    if not counts:
        raise LocusError(f"{place}: holds no shards: evaluate with shard=1/n to n/n of one n into this folder first")
    if len(counts) > 1:
        others = " or ".join(f"shard-*-of-{count}" for count in counts)
        raise LocusError(
            f"{place}: holds shards of {' and of '.join(map(str, counts))}: remove the folders of all numbers but one "
            f"({others})"
        )
    return [Shard(number, counts[0]) for number in range(1, counts[0] + 1)]


def _together(facts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What all say alike, and under ``shards`` what each says otherwise."""
    common = {name: value for name, value in facts[0].items() if all(one.get(name) == value for one in facts)}
    own = [{name: value for name, value in one.items() if name not in common} for one in facts]
    return common | ({"shards": own} if any(own) else {})
