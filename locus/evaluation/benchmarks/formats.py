"""Files of benchmarks as they lie on disk: VLMEvalKit's TSV, parquet, JSON lines, JSON and CSV, read cell by cell.

A folder, or a name with ``*``, stands for all files of one kind in it.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from locus.errors import LocusError

SUFFIXES = (".parquet", ".tsv", ".jsonl", ".json", ".csv")
"""In the order in which a folder is searched."""
BATCH = 8
"""Rows of a parquet file at a time: 8K pictures are some 10 MB each."""


def files_of(path: Path) -> list[Path]:
    """What a benchmark's path stands for, of one kind; raises LocusError where that is nothing that can be read."""
    known = ", ".join(SUFFIXES)
    if path.is_dir():
        kinds = ([file for file in path.rglob(f"*{suffix}") if file.is_file()] for suffix in SUFFIXES)
        files = sorted(next((kind for kind in kinds if kind), []))
    else:
        files = sorted(path.parent.glob(path.name)) if "*" in path.name else [path]
    if not files or not all(file.is_file() for file in files):
        raise LocusError(
            f"{path}: no such file, or a folder without {known}; put the benchmark's files there, or say where they "
            "are: benchmark.path=<file or folder>, or benchmarks=<folder of all benchmarks>"
        )
    if any(file.suffix not in SUFFIXES for file in files):
        raise LocusError(f"{path}: not one of {known}; pass benchmark.path=<the benchmark's file>")
    return files


class References:
    """The image cells of a TSV by the row's index, read again from where they lie in the file.

    The places are found in one more pass, which only a file with references costs.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self._places: dict[str, int] | None = None
        self._columns: list[str] = []

    def image(self, index: str) -> str | None:
        """The image cell of the row with this index; None where there is none."""
        if self._places is None:
            records = _records(self.file)
            self._columns = next(records)[1]
            where = self._columns.index("index") if "index" in self._columns else 0
            self._places = {cells[where]: place for place, cells in records if len(cells) > where}
        if index not in self._places:
            return None
        cells = dict(zip(self._columns, next(_records(self.file, self._places[index]))[1], strict=False))
        return cells.get("image")


def cells_of(file: Path) -> Iterator[Mapping[str, Any]]:
    """The rows of one file, by its kind."""
    match file.suffix:
        case ".tsv":
            return _separated(file, "\t")
        case ".csv":
            return _separated(file, ",")
        case ".parquet":
            return _parquet(file)
        case ".jsonl":
            return _json_lines(file)
        case _:
            return _json(file)


def _separated(file: Path, mark: str) -> Iterator[Mapping[str, str]]:
    records = _records(file, mark=mark)
    header = next(records, (0, []))[1]
    for number, (_, cells) in enumerate(records, 1):
        if len(cells) != len(header):
            raise LocusError(
                f"{file}, row {number}: has {len(cells)} cells, the first line {len(header)}; fetch the file again"
            )
        yield dict(zip(header, cells, strict=True))


def _records(file: Path, place: int = 0, mark: str = "\t") -> Iterator[tuple[int, list[str]]]:
    """(place in bytes, cells) of a table's records from a place on; those without any cell are left out."""
    csv.field_size_limit(2**31 - 1)  # the process's: a picture is one cell, and the default is 128 KB
    with file.open("rb") as lines:
        lines.seek(place)
        # readline keeps tell() true, and csv takes no line more than its record has.
        reader = csv.reader((line.decode() for line in iter(lines.readline, b"")), delimiter=mark)
        while True:
            place = lines.tell()
            cells = next(reader, None)
            if cells is None:
                return
            if cells:
                yield place, [cells[0].removeprefix("\ufeff"), *cells[1:]] if place == 0 else cells


def _parquet(file: Path) -> Iterator[Mapping[str, Any]]:
    # Parquet is unpacked by row groups, so some 2.5 times the largest lies in memory; without a buffer it is 3.5 times.
    with pq.ParquetFile(file, pre_buffer=False, buffer_size=1 << 20) as table:
        for batch in table.iter_batches(BATCH):
            yield from batch.to_pylist()


def _json_lines(file: Path) -> Iterator[Mapping[str, Any]]:
    with file.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                yield _object(json.loads(line), f"{file}, line {number}")


def _json(file: Path) -> Iterator[Mapping[str, Any]]:
    rows = json.loads(file.read_bytes())
    if not isinstance(rows, list):
        raise LocusError(f"{file}: not a list of questions; pass this benchmark's own file")
    for number, row in enumerate(rows, 1):
        yield _object(row, f"{file}, row {number}")


def _object(row: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(row, dict):
        raise LocusError(f"{where}: not a question with named columns; pass this benchmark's own file")
    return row
