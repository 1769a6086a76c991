"""Predictions and a benchmark -> every score with its interval, by both extractors."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import logging
import math
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from operator import itemgetter
from pathlib import Path
from typing import Any

import pandas as pd

from locus.errors import LocusError
from locus.evaluation.benchmark import Benchmark, Item, Verdict
from locus.evaluation.judge import Judge
from locus.evaluation.predictions import Prediction
from locus.evaluation.reading.extractors import EXTRACTORS, Extractor
from locus.evaluation.reading.responses import ANSWERED, Reading
from locus.evaluation.statistics import RESAMPLES, Score, intervals, intervals_of_each, mcnemar
from locus.files.run_files import write_json, write_text
from locus.types import Frame

log = logging.getLogger("locus")
COLUMNS = ("id", "answer", "reading", "correct")
"""Of a table of verdicts, before the benchmark's own."""
SHOWN = 3
"""Ids that an error shows."""
MISSING = "missing"
"""The reading of an item without a prediction."""


@dataclass(frozen=True, eq=False)
class Judged:
    """All verdicts on one policy's responses, and how many there were of each kind."""

    tables: Mapping[str, pd.DataFrame]
    """By extractor: one row per item, in the benchmark's order; `COLUMNS` and the benchmark's own."""
    n: int
    n_missing: int
    """Items without a prediction; they are judged wrong."""
    n_truncated: int
    """Responses that were cut at the token limit."""
    n_unparsed: Mapping[str, int]
    """By extractor: given responses in which no answer was found; they are judged wrong."""


def judged(
    benchmark: Benchmark,
    items: Iterable[Item],
    predictions: Mapping[str, Prediction],
    extractors: Sequence[Extractor] = EXTRACTORS,
) -> Judged:
    """Judges items as they are read, so that the pictures of no more than a few lie in memory.

    An item without a prediction counts as an empty response that was cut off. Raises LocusError for predictions of
    items that are not among these: they are of another benchmark, or of another form of its file.
    """
    rows: dict[str, list[dict[str, Any]]] = {extractor.name: [] for extractor in extractors}
    known: list[str] = []
    left = dict(predictions)
    missing, truncated = 0, 0
    unparsed = dict.fromkeys(rows, 0)
    for item_id, verdicts in _verdicts(benchmark, items, predictions, extractors):
        given = left.pop(item_id, None)
        known += [item_id] if len(known) < SHOWN else []
        missing += given is None
        truncated += given is not None and not given.finished
        for extractor, verdict in zip(extractors, verdicts, strict=True):
            unparsed[extractor.name] += given is not None and verdict.extracted.reading not in ANSWERED
            rows[extractor.name].append(_row(verdict) | ({} if given else {"reading": MISSING}))
    number = len(rows[extractors[0].name])
    if left:
        raise LocusError(
            f"{len(left)} of {len(predictions)} predictions are of no item of {benchmark.name}, such as id "
            f"{next(iter(left))}; its ids are {', '.join(known)}, ...: give those of this benchmark, made from this "
            f"form of its file (python -m locus.prompts writes all ids)"
        )
    if not number:
        raise LocusError(f"{benchmark.name} has no items: give its file (benchmark.path)")
    tables = {extractor: pd.DataFrame(found) for extractor, found in rows.items()}
    return Judged(tables, number, missing, truncated, unparsed)


def _verdicts(
    benchmark: Benchmark, items: Iterable[Item], predictions: Mapping[str, Prediction], extractors: Sequence[Extractor]
) -> Iterator[tuple[str, list[Verdict]]]:
    """Each item's id and its verdict by each extractor, in the items' order; a judge is asked of several at a time."""

    def verdicts(item: Item) -> tuple[str, list[Verdict]]:
        prediction = predictions.get(item.item_id) or Prediction(item.item_id, "", finished=False)
        return item.item_id, [verdict_of(benchmark, item, prediction, extractor) for extractor in extractors]

    judge = getattr(benchmark, "judge_model", None)
    if judge is None:
        yield from map(verdicts, items)
        return
    rest = iter(items)
    with ThreadPoolExecutor(judge.requests) as pool:
        while batch := list(islice(rest, 4 * judge.requests)):
            yield from pool.map(verdicts, batch)


def verdict_of(benchmark: Benchmark, item: Item, prediction: Prediction, extractor: Extractor) -> Verdict:
    """The benchmark's verdict. Boxes are read in the frame that the prediction names, else in the one asked for."""
    asked = getattr(benchmark, "frame", Frame.FILE)  # benchmarks without boxes ask for none, and never look at it
    return benchmark.judge(item, prediction.as_response, prediction.view(asked), extractor)


def _row(verdict: Verdict) -> dict[str, Any]:
    found = verdict.extracted
    values = verdict.item_id, found.answer, str(found.reading), verdict.correct
    return {**dict(zip(COLUMNS, values, strict=True)), **verdict.columns}


def scores(benchmark: Benchmark, found: Judged, resamples: int = RESAMPLES, seed: int = 0) -> dict[str, Any]:
    """What ``scores.json`` holds: every statistic of every extractor with its 95 % interval, and the counts."""
    by_extractor = intervals_of_each(found.tables, benchmark.statistics(), benchmark.unit(), resamples, seed)
    first = next(iter(by_extractor))
    return {
        "benchmark": benchmark.name,
        "headline": {"name": benchmark.headline, "extractor": first, **_plain(by_extractor[first][benchmark.headline])},
        "extractor_version": extractor_version(),
        "judge_model": judge_of(benchmark),
        "n": found.n,
        "n_unparsed": dict(found.n_unparsed),
        "n_truncated": found.n_truncated,
        "n_missing": found.n_missing,
        "judged": {name: _share(table, "judged") for name, table in found.tables.items()},
        "contradictory": {name: _contradictory(table) for name, table in found.tables.items()},
        "readings": {name: dict(Counter(table["reading"])) for name, table in found.tables.items()},
        "scores": {
            extractor: {name: _plain(value) for name, value in named.items()}
            for extractor, named in by_extractor.items()
        },
    }


def _share(table: pd.DataFrame, column: str) -> float:
    """Of the rows, in percent, in which the column is 1; 0 without the column."""
    return round(100 * float(table[column].mean()), 2) if column in table else 0.0


def _contradictory(table: pd.DataFrame) -> dict[str, int]:
    """How many choices name a letter and another option's text, and how many are right by each."""
    rows = table[table["reading"] == str(Reading.CONTRADICTORY)]
    by_text = rows["right_by_text"].sum() if "right_by_text" in rows else 0
    return {"n": len(rows), "right_by_letter": int(rows["correct"].sum()), "right_by_text": int(by_text)}


def comparison(
    benchmark: Benchmark, before: Judged, after: Judged, resamples: int = RESAMPLES, seed: int = 0
) -> dict[str, Any]:
    """Two policies on the same items: by extractor the change of every statistic, and McNemar's test of the verdicts.

    ``lost`` and ``won`` count the items that only the first and only the second policy is right on. Raises LocusError
    when the items are not the same, or the two have not answered the same ones.
    """
    result: dict[str, Any] = {}
    for extractor, table in after.tables.items():
        other = before.tables[extractor]
        if list(other["id"]) != list(table["id"]):
            raise LocusError(
                f"the two policies answered other items of {benchmark.name}: compare them on the same ones"
            )
        lacks = [set(one.loc[one["reading"] == MISSING, "id"]) for one in (other, table)]
        if lacks[0] != lacks[1]:
            raise LocusError(
                f"{len(lacks[0])} and {len(lacks[1])} of the {len(table)} items of {benchmark.name} are unanswered, "
                "not the same ones: complete the predictions, or compare the first N of both (limit=N)"
            )
        was, now = other["correct"].to_numpy(), table["correct"].to_numpy()
        grown = intervals(table, benchmark.statistics(), benchmark.unit(), other, resamples, seed)
        changes = {name: _plain(change) for name, change in grown.items()}
        lost, won = int((was > now).sum()), int((now > was).sum())
        result[extractor] = {"mcnemar_p": mcnemar(was, now), "lost": lost, "won": won, "changes": changes}
    return result


def extractor_version() -> str:
    """Digest of the source that reads answers and compares values: the same for as long as verdicts are alike."""
    return hashlib.sha256(b"".join(file.read_bytes() for file in rule_files())).hexdigest()[:16]


def rule_files() -> list[Path]:
    """The source on which verdicts depend: also of benchmarks, which find options in questions and letters in golds,
    of what a judge is told, and of a training's answers and boxes."""
    here, places = Path(__file__).parent, ("reading/*.py", "maths/*.py", "benchmarks/*.py", "benchmark.py", "judge.py")
    beside = (here.parent / name for name in ("boxes.py", "tasks/answers.py", "tasks/cue_search/reward.py"))
    return sorted([*beside, *(file for place in places for file in here.glob(place))])


def judge_of(benchmark: Benchmark) -> str | None:
    """The model that judges what no rule reads; None where none is asked."""
    judge: Judge | None = getattr(benchmark, "judge_model", None)
    return None if judge is None else judge.model


def _plain(one: Score) -> dict[str, float | int | None]:
    """For JSON, which has no NaN: a score without any item is null."""
    values = {"value": one.value, "low": one.low, "high": one.high}
    return {**{name: value if math.isfinite(value) else None for name, value in values.items()}, "n": one.n}


def write_scores(folder: Path, benchmark: Benchmark, found: Judged, resamples: int, **facts: Any) -> dict[str, Any]:
    """``scores.json`` and ``verdicts.parquet`` (one row per item and extractor); returns the first.

    Warns of a headline without a value.
    """
    made = {**scores(benchmark, found, resamples), **facts}
    headline = made["headline"]
    if headline["value"] is None:
        named = made["scores"][headline["extractor"]].items()
        lacking = [name for name, one in named if one["value"] is None and name != headline["name"]]
        log.warning("%s: its score %s is null: %s have no items", benchmark.name, headline["name"], ", ".join(lacking))
    table = pd.concat([table.assign(extractor=name) for name, table in found.tables.items()])
    partial = folder / ".verdicts.parquet.partial"
    table.to_parquet(partial, index=False)
    os.replace(partial, folder / "verdicts.parquet")
    write_json(folder / "scores.json", made)  # last: where it is, the verdicts are
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
    """Adds a row to a CSV, in the place of the one with the same keys.

    Rows with a ``job`` (its launch, a space, its number) are in the order of each launch's jobs, whichever ended first.
    """
    replace_rows(file, [row], {key: str(row[key]) for key in keys})


def replace_rows(file: Path, ours: Sequence[Mapping[str, Any]], values: Mapping[str, str]) -> None:
    """Writes rows to a CSV in the place of those that have these values; there is no file without rows."""
    rows = read_rows(file)
    old = [n for n, one in enumerate(rows) if all(one.get(name) == value for name, value in values.items())]
    place = min(old, default=len(rows))
    texts = [{name: "" if value is None else str(value) for name, value in row.items()} for row in ours]
    rows = _by_job([*rows[:place], *texts, *(one for n, one in enumerate(rows) if n > place and n not in old)])
    names = dict.fromkeys(name for one in (*texts, *rows) for name in one)
    writer = csv.DictWriter(text := io.StringIO(), list(names), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    if rows:
        write_text(file, text.getvalue())
    else:
        file.unlink(missing_ok=True)


def _by_job(rows: Sequence[dict[str, str]]) -> list[dict[str, str]]:
    """The rows; those of one launch in the order of its jobs, in the places that they have."""
    launches: dict[str, list[int]] = {}
    for place, row in enumerate(rows):
        if row.get("job"):
            launches.setdefault(row["job"].rpartition(" ")[0], []).append(place)
    ordered = list(rows)
    for places in launches.values():
        for place, row in zip(places, sorted((rows[n] for n in places), key=itemgetter("job")), strict=True):
            ordered[place] = row
    return ordered


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
