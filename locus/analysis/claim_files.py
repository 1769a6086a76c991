"""Claims of a run folder: its tables in, ``claims.csv`` and lines of text out."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq

from locus.analysis.claims import ABSENT, COLUMNS, Claim, judge
from locus.analysis.run_metrics import first_and_last
from locus.analysis.runs import TASKS, record
from locus.tasks.cue_search.task import CueSearch

SHOWN = {"points": ("+.1f", "points"), "IoU": ("+.3f", "IoU"), "ratio": (".2f", "times")}
"""Unit -> how its numbers are written, and what follows them."""
VALIDATION = ("step", "example_id", "image_id", "iou")
"""Columns from which `first_and_last` makes those of `COLUMNS`."""
TASK = "task"
"""Its column in a mixture's."""


def judge_run(run: Path) -> list[Claim]:
    """The claims of one run, which go to its ``claims.csv`` as well; none where nothing is measured."""
    claims = judge(tables_of(run))
    if all(claim.verdict == ABSENT for claim in claims):
        return []
    frame(claims).to_csv(run / "claims.csv", index=False)
    return claims


def tables_of(run: Path, seed: str = "") -> dict[str, pd.DataFrame]:
    """The tables in a run folder that decide claims, without the columns that they do not need.

    seed: what the run is called among others of its setting.
    """
    tables = {}
    for name, wanted in COLUMNS.items():
        file = run / f"{name}.parquet"
        if not file.exists():
            continue
        needed = (*VALIDATION, TASK) if name == "validation" else ("policy", "unit", *wanted)
        there = [column for column in pq.read_schema(file).names if column in needed or column.startswith("layer ")]
        rows = pd.read_parquet(file, columns=there)
        if name == "validation":
            rows = _of_cue_search(rows, run)
            if rows.empty:
                continue
        tables[name] = (first_and_last(rows) if name == "validation" else rows).assign(seed=seed)
    return tables


def _of_cue_search(validation: pd.DataFrame, run: Path) -> pd.DataFrame:
    """The rows of ``validation.parquet`` that are: other tasks' boxes are no cue search."""
    if TASK in validation:
        return validation[validation[TASK] == CueSearch.name].drop(columns=TASK)
    tasks = record(run).get(TASKS, [CueSearch.name])  # earlier versions do not say
    return validation if CueSearch.name in tasks else validation.head(0)


def frame(claims: Iterable[Claim]) -> pd.DataFrame:
    """One row per claim, its fields as columns."""
    return pd.DataFrame([asdict(claim) for claim in claims])


def line(claim: Claim) -> str:
    """A claim, its verdict and its number in one line."""
    said = f"{claim.name}: {claim.verdict}."
    if claim.verdict == ABSENT or math.isnan(claim.estimate):
        return f"{said} ({claim.over})"
    return f"{said} {estimate(claim)}, 95 % {interval(claim)} ({claim.over})"


def lines(claims: Sequence[Claim]) -> list[str]:
    """One line per claim, without the numbers beside."""
    return [line(claim) for claim in claims if not claim.beside]


def estimate(claim: Claim) -> str:
    """The number with its unit; empty where there is none."""
    return "" if math.isnan(claim.estimate) else "{:{}} {}".format(claim.estimate, *SHOWN[claim.unit])


def interval(claim: Claim) -> str:
    """Its bounds; empty where there are none."""
    digits = SHOWN[claim.unit][0]
    return "" if math.isnan(claim.low) else f"[{claim.low:{digits}}, {claim.high:{digits}}]"


def shown_claims(claims: Sequence[Claim]) -> pd.DataFrame:
    """Claims and the numbers beside them as a table of texts."""
    rows = [
        {
            "claim": f"… {claim.statement}" if claim.beside else f"{claim.name.split()[0]} {claim.statement}",
            "verdict": claim.verdict,
            "estimate": estimate(claim),
            "95 %": interval(claim),
            "against": f"{claim.threshold:g}",
        }
        for claim in claims
    ]
    return pd.DataFrame(rows)
