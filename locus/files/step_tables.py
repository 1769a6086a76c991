"""The two tables of a run that grow by steps, whole at any moment."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from locus.errors import LocusError
from locus.files.run_files import remove

XYXY = pa.list_(pa.float64())
ROLLOUTS = pa.schema(
    {
        "step": pa.int64(),
        "prompt_id": pa.string(),
        "rollout": pa.int64(),
        "image_path": pa.string(),
        "bin": pa.string(),
        "expression": pa.string(),
        "text": pa.string(),
        "status": pa.string(),
        "target": XYXY,
        "box": XYXY,
        "written": XYXY,
        "iou": pa.float64(),
        "format": pa.float64(),
        "reward": pa.float64(),
        "advantage": pa.float64(),
        "logprob_sum": pa.float64(),
        "length": pa.int64(),
        "finished": pa.bool_(),
        "question": pa.string(),
        "expected": pa.string(),
        "correct": pa.float64(),
    }
)
"""One row per rollout. target and box: file frame; written: as in the text, in the frame the policy speaks; expression:
what stands for the cue in the prompt, empty where the cue is shown. Of tasks that are answered by a box, question,
expected (the right answer) and correct are empty; of others expression, target, box, written and iou. question is of
those that ask each example its own, bin of those over a corpus."""
VALIDATION = pa.schema(
    {
        "step": pa.int64(),
        "example_id": pa.string(),
        "image_id": pa.string(),
        "image_path": pa.string(),
        "bin": pa.string(),
        "area_ratio": pa.float64(),
        "text": pa.string(),
        "status": pa.string(),
        "target": XYXY,
        "box": XYXY,
        "iou": pa.float64(),
        "format": pa.float64(),
        "reward": pa.float64(),
    }
)
"""One row per validation sample and step."""


def with_columns(schema: pa.Schema, columns: Mapping[str, type]) -> pa.Schema:
    """The schema with a task's own columns, texts or numbers, behind it.

    A column that the schema has already is that one; raises LocusError where it is of another type.
    """
    for name, kind in columns.items():
        wanted = pa.string() if kind is str else pa.float64()
        if name not in schema.names:
            schema = schema.append(pa.field(name, wanted))
        elif schema.field(name).type != wanted:
            raise LocusError(f"the task's column {name} is {schema.field(name).type} in every run's tables: rename it")
    return schema


def read_rows(path: Path, schema: pa.Schema) -> pd.DataFrame:
    """The rows of a `StepTable`; of a run that has written none yet, none, with their columns.

    Raises OSError or ValueError when what is there cannot be read.
    """
    if path.is_dir() and not any(path.glob("*.parquet")):
        return schema.empty_table().to_pandas()
    return pd.read_parquet(path)


class StepTable:
    """A Parquet table that grows by steps: a folder of parts while the run goes on, one file once it is closed.

    ``pandas.read_parquet(path)`` reads both. Reopening it drops the rows of steps after ``last_step``, those that a
    resumed run will write again. Raises LocusError when what is there cannot be read.
    """

    def __init__(self, path: Path, schema: pa.Schema, last_step: int):
        self.path, self.schema = path, schema
        self._partial, self._old = (path.with_name(f".{path.name}.{end}") for end in ("partial", "old"))
        if self._partial.exists() and not path.exists():  # a kill between the two halves of `_swap`
            os.replace(self._partial, path)
        remove(self._partial)
        remove(self._old)
        if path.exists():
            kept = self._read().filter(pa.compute.field("step") <= last_step)
            self._partial.mkdir()
            pq.write_table(kept, self._partial / _part(0, 0))
            self._swap()
        path.mkdir(parents=True, exist_ok=True)

    def append(self, step: int, rows: Iterable[dict[str, Any]]) -> None:
        """Writes rows of ``step`` as the next part."""
        number = len(list(self.path.glob(f"{step:08d}-*.parquet")))
        partial = self.path / ".next.partial"
        pq.write_table(pa.Table.from_pylist(list(rows), schema=self.schema), partial)
        os.replace(partial, self.path / _part(step, number))

    def close(self) -> None:
        """Merges the parts into one file."""
        pq.write_table(self._read(), self._partial)
        self._swap()

    def _read(self) -> pa.Table:
        try:
            if self.path.is_dir() and not any(self.path.glob("*.parquet")):
                return self.schema.empty_table()
            return pq.read_table(self.path, schema=self.schema)
        except (OSError, pa.ArrowInvalid) as error:
            raise LocusError(f"{self.path} cannot be read ({error}): move it away to resume without it") from error

    def _swap(self) -> None:
        """Puts the partial table, which is whole by now, in the table's place."""
        os.replace(self.path, self._old)
        os.replace(self._partial, self.path)
        remove(self._old)


def _part(step: int, number: int) -> str:
    return f"{step:08d}-{number:04d}.parquet"
