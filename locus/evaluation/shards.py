"""Shards of a benchmark: its items in n runs of neighbours, answered apart, and put together again."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from locus.errors import LocusError
from locus.evaluation.predictions import Prediction, check_manifest, read_predictions

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


def merged(place: Path, settings: dict[str, Any], ids: list[str]) -> list[Prediction]:
    """The predictions of all shards in a benchmark's folder, in the items' order and without numbers of batches.

    These are of the shards; without them the file is the same whatever the number of shards. Shards are only read, for
    one may still be at work. Raises LocusError when they are not all there, not done, or made with other settings.
    """
    numbers = [re.fullmatch(r"shard-(\d+)-of-(\d+)", folder.name) for folder in place.glob("shard-*-of-*")]
    counts = {int(number[2]) for number in numbers if number}
    if len(counts) != 1:
        found = f"shards of {' and of '.join(map(str, sorted(counts)))}" if counts else "no shards"
        raise LocusError(f"{place}: holds {found}: evaluate with shard=1/n to n/n of one n into this folder first")
    count = counts.pop()
    predictions: list[Prediction] = []
    for shard in (Shard(number, count) for number in range(1, count + 1)):
        folder = place / shard.folder
        start, end = shard.bounds(len(ids))
        path = folder / "predictions.jsonl"
        answered: dict[str, Prediction] = {}
        if path.exists():
            check_manifest(folder, {"rows": end - start, **settings})
            answered = read_predictions(path)
        if list(answered) != ids[start:end]:
            raise LocusError(
                f"{folder}: {len(answered)} of {end - start} items are answered: finish it with "
                f"shard={shard.number}/{count} and the same folder"
            )
        predictions += (replace(one, batch=None) for one in answered.values())
    return predictions
