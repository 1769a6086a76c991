"""A run's diagnoses as rows of one form: an item, asked of base and of trained policy, and what its answer earned."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq

from locus.analysis.claims import CROWDED, LARGE, SPARSE
from locus.analysis.diagnoses.context_suppression import FULL
from locus.errors import LocusError

ATTENTION, CROWDING, PROXIES = "attention", "crowding", "proxy tasks"
"""Blocks of rows beside the families of questions; a block's scenes are drawn together."""
IN_BOX = "attention in box"
MOST_OBJECTS, FEWEST_OBJECTS = "most objects", "fewest objects"
"""Parts of the blocks of attention and of crowding; those of questions are benchmarks, of proxy tasks the tasks."""
COLUMNS: Mapping[str, tuple[tuple[str, ...], str]] = {
    "questions": (("family", "benchmark", "item"), "score"),
    "attention": (("item",), "attention_in_box"),
    "crowding": (("question", "level", "image"), "correct"),
    "proxy_tasks": (("task", "item", "chance"), "score"),
}
"""Table -> its columns that are needed beside policy and unit, and the one that is compared."""


def rows_of(run: Path) -> tuple[dict[str, pd.DataFrame], pd.Series]:
    """Block -> rows with columns policy, unit, part, item, value; and of each proxy task its chance level.

    Tables that a run does not have, or that lack a column, are left out. Raises LocusError for one that cannot be
    read, or has an item twice.
    """
    tables = {name: table for name in COLUMNS if (table := _read(run / f"{name}.parquet", name)) is not None}
    blocks: dict[str, pd.DataFrame] = {}
    if "questions" in tables:
        rows = tables["questions"].rename(columns={"benchmark": "part"})
        blocks |= {name: rows[rows["family"] == name] for name in (CROWDED, SPARSE, LARGE)}
    if "attention" in tables:
        blocks[ATTENTION] = tables["attention"].assign(part=IN_BOX)
    if "crowding" in tables:
        full = (
            tables["crowding"].query("image == @FULL", local_dict={"FULL": FULL}).rename(columns={"question": "item"})
        )
        ends = {full["level"].max(): MOST_OBJECTS, full["level"].min(): FEWEST_OBJECTS}
        if len(ends) == 2:
            blocks[CROWDING] = full[full["level"].isin(ends)].assign(part=full["level"].map(ends))
    chance = pd.Series(dtype=float)
    if "proxy_tasks" in tables:
        blocks[PROXIES] = tables["proxy_tasks"].rename(columns={"task": "part"})
        chance = blocks[PROXIES]["chance"].astype(float).groupby(blocks[PROXIES]["part"]).mean()
    columns = ["policy", "unit", "part", "item", "value"]
    blocks = {name: rows[columns].astype({"unit": str}) for name, rows in blocks.items() if len(rows)}
    for name, rows in blocks.items():
        if rows.duplicated(["policy", "part", "item"]).any():
            raise LocusError(f"{run}: {name} has an item twice; leave the run out, or run its diagnoses again")
    return blocks, chance


def _read(file: Path, name: str) -> pd.DataFrame | None:
    """The columns that are needed, the one that is compared as ``value``."""
    keys, value = COLUMNS[name]
    if not file.exists():
        return None
    needed = ["policy", "unit", *keys, value]
    try:
        if not set(needed) <= set(pq.read_schema(file).names):
            return None
        return pd.read_parquet(file, columns=needed).rename(columns={value: "value"})
    except (OSError, ValueError) as error:  # pyarrow's are among them
        raise LocusError(f"{file}: cannot be read ({error}); leave the run out, or run it again") from error
