"""VLMEvalKit's files of predictions: one row per row of the benchmark's TSV, with its cells and ``prediction``."""

from __future__ import annotations

import csv
import re
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from locus.errors import LocusError
from locus.evaluation.benchmarks.formats import cells_of

if TYPE_CHECKING:
    from locus.evaluation.predictions import Prediction

TABLES = (".xlsx", ".tsv")
COLUMNS = "index", "prediction"
LONGEST = 32_767
"""Characters of an Excel cell; a longer text is cut there when the file is written."""
CONTROL = re.compile(r"_x00([01][0-9A-F])_")
"""A control character, such as a carriage return, as Excel's XML holds it."""


def table_lines(path: Path) -> Iterator[dict[str, Any]]:
    """``id`` and ``response`` of each row; ``finished`` is false where an Excel cell was too short for the response.

    Raises LocusError that names the file, and the columns that it lacks.
    """
    for row in _rows(path):
        response = row["prediction"]
        cut = path.suffix == ".xlsx" and len(response) >= LONGEST
        yield {"id": row["index"], "response": response, "finished": not cut}


def placed(path: Path, predictions: Mapping[str, Prediction], ids: Iterable[str]) -> dict[str, Prediction]:
    """A table's predictions by item ids, which for some benchmarks are more than the row's index.

    Those are a word that stands in one of the row's cells, then the index: POPE's ``random_12`` and ``popular_12``
    are of row 12 with the category "random,popular". Rows that fit no item keep their index.
    """
    found = {}
    for row, fitting in _with_ids(path, ids):
        for item_id in fitting:
            found[item_id] = replace(predictions[row["index"]], id=item_id)
    return found


def questions_of(path: Path, ids: Iterable[str]) -> dict[str, str]:
    """By item id what a table's column ``question`` says; none where it has no such column."""
    ids = set(ids)
    found = {item_id: row for row, fitting in _with_ids(path, ids) for item_id in fitting}
    return {item_id: row["question"] for item_id, row in found.items() if item_id in ids and row.get("question")}


def _with_ids(path: Path, ids: Iterable[str]) -> Iterator[tuple[dict[str, str], list[str]]]:
    """A table's rows with the ids of their items, as `placed` tells."""
    by_index: dict[str, list[str]] = {}
    for item_id in ids:
        by_index.setdefault(re.split("[_-]", item_id)[-1], []).append(item_id)
    known = {one for several in by_index.values() for one in several}
    for row in _rows(path):
        index = row["index"]
        words = {word.strip().lower() for cell in row.values() for word in cell.split(",")}
        fitting = [one for one in by_index.get(index, ()) if one[: -len(index) - 1].lower() in words]
        yield row, [index] if index in known or not fitting else fitting


def _rows(path: Path) -> list[dict[str, str]]:
    """Cells as text; a table that stays as it is is read once, which may take a minute."""
    try:
        return _read(path, path.stat().st_mtime_ns)
    except (OSError, UnicodeDecodeError, KeyError, csv.Error, zipfile.BadZipFile) as error:
        raise LocusError(f"predictions={path}: cannot be read ({error}); give the file that VLMEvalKit wrote") from None


@lru_cache(maxsize=2)  # the predictions, and those that they are compared with
def _read(path: Path, changed: int) -> list[dict[str, str]]:
    rows = []
    for cells in _excel(path) if path.suffix == ".xlsx" else cells_of(path):
        lacking = [column for column in COLUMNS if column not in cells]
        if lacking:
            raise LocusError(
                f"{path}: has no column {', '.join(lacking)} (it has {', '.join(map(str, cells))}); give a file of "
                "predictions as VLMEvalKit writes it"
            )
        rows.append({str(name): _text(value) for name, value in cells.items()})
    return rows


def _excel(path: Path) -> Iterator[Mapping[str, Any]]:
    import openpyxl  # here, for few read a table, and it takes a quarter of a second

    book = openpyxl.load_workbook(path, read_only=True)
    try:
        rows = book.active.iter_rows(values_only=True)
        header = next(rows, ())
        yield from (dict(zip(header, row, strict=False)) for row in rows if any(cell is not None for cell in row))
    finally:
        book.close()


def _text(value: Any) -> str:
    """A cell as it was before Excel took it for a number, or kept a control character; an empty one is no text."""
    if value is None:
        return ""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return CONTROL.sub(lambda match: chr(int(match[1], 16)), str(value))
