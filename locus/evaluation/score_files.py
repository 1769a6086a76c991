"""What an evaluation leaves: ``scores.json``, ``verdicts.parquet`` and the rows of ``scores.csv``."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from locus.errors import LocusError
from locus.evaluation.benchmark import Benchmark
from locus.evaluation.scores import Judged, scores
from locus.files.run_files import write_json, write_text


def write_scores(folder: Path, benchmark: Benchmark, found: Judged, resamples: int, **facts: Any) -> dict[str, Any]:
    """``scores.json`` and ``verdicts.parquet`` (one row per item and extractor); returns the first."""
    made = {**scores(benchmark, found, resamples), **facts}
    write_json(folder / "scores.json", made)
    table = pd.concat([table.assign(extractor=name) for name, table in found.tables.items()])
    table.to_parquet(folder / "verdicts.parquet", index=False)
    return made


def read_scores(folder: Path) -> tuple[dict[str, Any], Judged]:
    """What `write_scores` wrote; raises LocusError that names the folder where it cannot be read."""
    try:
        made = json.loads((folder / "scores.json").read_text(encoding="utf-8"))
        table = pd.read_parquet(folder / "verdicts.parquet")
        counts = (made[name] for name in ("n", "n_missing", "n_truncated", "n_unparsed"))
        tables = {name: table[table["extractor"] == name].drop(columns="extractor") for name in made["scores"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise LocusError(f"{folder}: its scores cannot be read ({error}): remove scores.json, score again") from error
    return made, Judged({name: table.reset_index(drop=True) for name, table in tables.items()}, *counts)


def read_rows(file: Path) -> list[dict[str, str]]:
    """The rows of a CSV; none where there is no file."""
    if not file.exists():
        return []
    with file.open(encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(lines))


def add_row(file: Path, row: Mapping[str, Any], keys: tuple[str, ...]) -> None:
    """Adds a row to a CSV, in the place of the one with the same keys."""
    rows, ours = read_rows(file), {name: "" if value is None else str(value) for name, value in row.items()}
    place = next((n for n, one in enumerate(rows) if all(one.get(key) == ours[key] for key in keys)), len(rows))
    rows[place : place + 1] = [ours]
    names = dict.fromkeys(name for one in (ours, *rows) for name in one)
    writer = csv.DictWriter(text := io.StringIO(), list(names), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(file, text.getvalue())


def describe(made: Mapping[str, Any]) -> str:
    """The scores as lines of a terminal."""
    lines = [
        f"{made['benchmark']}: {made['n']} items, {made['n_missing']} missing, {made['n_truncated']} truncated, unread "
        + ", ".join(f"{count} ({name})" for name, count in made["n_unparsed"].items())
    ]
    for extractor, named in made["scores"].items():
        for name, one in named.items():
            mark = " *" if name == made["headline"]["name"] else ""
            if one["value"] is not None:
                interval = f"[{one['low']:.1f}, {one['high']:.1f}]" if one["low"] is not None else ""
                lines.append(f"  {extractor:<12}{name:<24}{one['value']:6.1f} {interval}{mark}")
    return "\n".join(lines)
