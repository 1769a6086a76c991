"""Rows of benchmarks and their pictures, one at a time, so that 4.6 GB of pictures do not lie in memory at once.

Pictures are decoded when they are shown (`Picture.open`); a broken base64 text is found when it is read.
"""

from __future__ import annotations

import ast
import binascii
import csv
import json
import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from locus.errors import LocusError
from locus.evaluation.benchmark import Picture, stored
from locus.evaluation.benchmarks.formats import References, cells_of, files_of

REFERENCE = 64
"""An image cell of a TSV up to this long is the index of the row that holds the picture (VLMEvalKit's rule)."""
LETTERS = "ABCDEFGHIJ"
ARCHIVES = (
    *("", "images", "imgs", "val2014", "train2014", "train2017", "val2017", "trainval2017"),
    *("MMVP Images", "SEED-Bench-image"),
)
"""Where pictures lie that a file only names: beside it, or in a folder of this name there, as archives have it."""


@dataclass(frozen=True, eq=False)
class Row:
    """One row of a benchmark's file. Empty cells are absent; the words "None" and "NA" are words."""

    file: Path
    number: int
    """In its file, from 1."""
    position: int
    """Over all files of the benchmark, from 0."""
    cells: Mapping[str, Any]
    folder: Path
    """Picture paths are relative to it, or to one of `ARCHIVES` in it."""
    references: References | None = None

    def error(self, message: str) -> LocusError:
        """The error to raise about this row."""
        return LocusError(f"{self.file}, row {self.number}: {message}")

    def text(self, *columns: str) -> str:
        """The cell of the first of these columns that is not empty, as text; raises LocusError when all are."""
        for column in columns:
            if not _absent(value := self.cells.get(column)):
                return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
        raise self.error(f"{' and '.join(columns)} is empty; fetch the file again, or fill the cell")

    def optional(self, column: str, default: str = "") -> str:
        """The cell as text, or the default where it is empty."""
        return default if _absent(self.cells.get(column)) else self.text(column)

    def item_id(self, column: str) -> str:
        """The cell as text; where a file has no such column, the row's position."""
        return self.optional(column, str(self.position))

    def options(self) -> dict[str, str]:
        """The columns A, B, ... that are not empty."""
        return {letter: self.text(letter) for letter in LETTERS if not _absent(self.cells.get(letter))}

    def listed(self, column: str) -> list[Any]:
        """A list, stored as one or as the text of one (Python or JSON); empty where the cell is."""
        value: Any = self.cells.get(column)
        if _absent(value):
            return []
        try:
            value = ast.literal_eval(value) if isinstance(value, str) else list(value)
        except (ValueError, SyntaxError, TypeError):
            value = None
        if not isinstance(value, list | tuple):
            raise self.error(f"{column} is not a list; fetch the file again")
        return list(value)

    def known(self, what: str, value: str, choices: Iterable[str]) -> str:
        """The value, which must be one of these; raises LocusError otherwise."""
        if value not in choices:
            raise self.error(f"{what} is {value!r}, must be one of {', '.join(choices)}; fetch the file again")
        return value

    def numbers(self, what: str, values: Any, also: str = "") -> tuple[float, float, float, float]:
        """Four numbers; raises LocusError for anything else, with what else can be done about it."""
        try:
            a, b, c, d = map(float, values)
        except (TypeError, ValueError):
            raise self.error(f"{what} {values} is not four numbers; fetch the file again{also}") from None
        return a, b, c, d

    def indexed(self, column: str, options: Collection[str]) -> str:
        """The letter of the option whose number is in the cell, from 0; raises LocusError for another number."""
        number = self.text(column)
        if not number.isdecimal() or int(number) >= len(options):
            raise self.error(f"{column} {number!r} is not an index of its {len(options)} options; fetch the file again")
        return LETTERS[int(number)]

    def pictures(self, *columns: str) -> tuple[Picture, ...]:
        """The picture or pictures in the first of these columns that is not empty; LocusError for a broken one."""
        column = next((name for name in columns if not _absent(self.cells.get(name))), None)
        if column is None:
            raise self.error(f"no picture in {' or '.join(columns)}; fetch the file again")
        value = self.cells[column]
        several = isinstance(value, list) or (isinstance(value, str) and value[:1] == "[" and value[-1:] == "]")
        return tuple(self._picture(one) for one in (self.listed(column) if several else [value]))

    def picture_file(self, name: str) -> Picture:
        """The picture of that file name, in the folder or one of `ARCHIVES` in it; LocusError where there is none."""
        paths = (_in_either_case(self.folder / archive / name) for archive in ARCHIVES)
        path = next((one for one in paths if one.is_file()), None)
        if path is None:
            missing = self.folder / name
            raise self.error(f"picture {missing} does not exist; pass images=<folder of the pictures>")
        return Picture(str(path), path)

    def _picture(self, value: Any) -> Picture:
        if isinstance(value, dict):  # Hugging Face's image type: the bytes, or the path of a file beside the table
            value = value.get("bytes") or value.get("path")
        if isinstance(value, bytes):
            return stored(value)
        if not isinstance(value, str) or not value:
            raise self.error("the picture is empty; fetch the file again")
        if "." in value[-6:]:  # base64 has no dot, a file name has one
            return self.picture_file(value)
        if self.references and len(value) <= REFERENCE:
            value = self._referred(value)
        try:
            encoded = value.partition(",")[2] if value.startswith("data:") else value
            return stored(binascii.a2b_base64("".join(encoded.split()), strict_mode=True))
        except ValueError as error:
            raise self.error(f"the picture's base64 is broken ({error}); fetch the file again") from None

    def _referred(self, index: str) -> str:
        cell = self.references.image(index) if self.references else None
        if cell is None or len(cell) <= REFERENCE:
            raise self.error(f"its picture is that of row index {index}, which has none; fetch the file again")
        return cell


def read_rows(path: Path, columns: Sequence[str | tuple[str, ...]], images: str = "") -> Iterator[Row]:
    """The rows of a file, or of all files of a folder or pattern in the order of their names.

    Args:
        path: ``.tsv``, ``.parquet``, ``.jsonl``, ``.json``; a folder; or a name with ``*``.
        columns: that must be there; of a tuple one is enough.
        images: folder of the pictures; by default the file's.

    Raises LocusError that names the file, the row or the columns, and how to fix it.
    """
    position = 0
    for file in files_of(path):
        references = References(file) if file.suffix == ".tsv" else None
        try:
            for number, cells in enumerate(cells_of(file), 1):
                if number == 1:
                    _check_columns(file, cells, columns)
                yield Row(file, number, position, cells, Path(images or file.parent), references)
                position += 1
        except (OSError, UnicodeDecodeError, csv.Error, json.JSONDecodeError, pa.ArrowException) as error:
            raise LocusError(f"{file}: cannot be read ({error}); fetch the file again") from None


def _in_either_case(path: Path) -> Path:
    """The path, or that of a file whose ending differs only in its case: HallusionBench names 0_1.png, and has .PNG."""
    if path.is_file():
        return path
    endings = (path.suffix.upper(), path.suffix.lower())
    return next((one for ending in endings if (one := path.with_suffix(ending)).is_file()), path)


def _absent(value: Any) -> bool:
    return value is None or value == "" or (isinstance(value, float) and math.isnan(value))


def _check_columns(file: Path, cells: Mapping[str, Any], columns: Sequence[str | tuple[str, ...]]) -> None:
    choices = [(column,) if isinstance(column, str) else column for column in columns]
    lacking = [" or ".join(names) for names in choices if not any(name in cells for name in names)]
    if lacking:
        raise LocusError(
            f"{file}: has no column {', '.join(lacking)} (it has {', '.join(cells)}); pass this benchmark's own file"
        )
