"""Claims of a sweep: of each setting over its seeds, and of LOCUS against its controls.

Registered before the runs: one bootstrap in which scenes and seeds are crossed. With three seeds that differ much its
intervals are too narrow, so a random-effects mean of the seeds stands beside it; that one takes the scenes as given.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

import pandas as pd

from locus.analysis.ablations import random_effects
from locus.analysis.changes import extent, parts, scores
from locus.analysis.claim_files import estimate, frame, interval, tables_of
from locus.analysis.claims import (
    ABSENT,
    BENCHMARKS,
    COLUMNS,
    CROWDED,
    STATED,
    Claim,
    decided,
    family_changes,
    judge,
    pooled,
)

Tables: TypeAlias = Mapping[str, pd.DataFrame]


def gathered(runs: Sequence[tuple[str, object, Path]]) -> dict[str, Tables]:
    """Setting -> its tables, with all its runs, distinguished by column ``seed``.

    runs: (setting, seed, run folder); a seed that a setting has twice is another one the second time.
    """
    settings: dict[str, dict[str, Tables]] = {}
    for setting, seed, folder in runs:
        seeds = settings.setdefault(setting, {})
        again = sum(name.split(", again")[0] == str(seed) for name in seeds)
        name = f"{seed}, again {again}" if again else str(seed)
        seeds[name] = tables_of(folder, name)
    return {
        setting: {
            name: pd.concat([tables[name] for tables in seeds.values() if name in tables], ignore_index=True)
            for name in COLUMNS
            if any(name in tables for tables in seeds.values())
        }
        for setting, seeds in settings.items()
    }


def judged(settings: Mapping[str, Tables]) -> dict[str, list[Claim]]:
    """Every setting's claims over its seeds; without the settings of which nothing is measured."""
    claims = {setting: judge(tables) for setting, tables in settings.items()}
    return {setting: found for setting, found in claims.items() if any(claim.verdict != ABSENT for claim in found)}


def verdict_table(claims: Mapping[str, Sequence[Claim]], settings: Mapping[str, Tables]) -> pd.DataFrame:
    """A row a setting, a column a claim: the verdict in words."""
    rows = []
    for setting, found in claims.items():
        seeds = max(table["seed"].nunique() for table in settings[setting].values())
        verdicts = {claim.name.split()[0]: claim.verdict for claim in main(found)}
        rows.append({"setting": setting, "seeds": seeds, **verdicts})
    return pd.DataFrame(rows)


def number_table(claims: Mapping[str, Sequence[Claim]]) -> pd.DataFrame:
    """A row a setting, a column a claim: the number and its interval."""
    rows = []
    for setting, found in claims.items():
        cells = {}
        for claim in main(found):
            number = estimate(claim).split(" ")[0]
            cells[f"{claim.name.split()[0]}, {claim.unit}"] = f"{number} {interval(claim)}".strip()
        rows.append({"setting": setting, **cells})
    return pd.DataFrame(rows)


def main(claims: Sequence[Claim]) -> list[Claim]:
    """Without the numbers beside."""
    return [claim for claim in claims if not claim.beside]


def control_table(claims: Mapping[str, Claim]) -> pd.DataFrame:
    """A row a control."""
    return pd.DataFrame(
        {
            "control": control,
            "verdict": claim.verdict,
            "LOCUS minus control": estimate(claim),
            "95 %": interval(claim),
            "over": claim.over,
        }
        for control, claim in claims.items()
    )


def numbers(claims: Mapping[str, Sequence[Claim]]) -> pd.DataFrame:
    """Every claim and every number beside one, with its setting."""
    return pd.concat([frame(found).assign(setting=setting) for setting, found in claims.items()], ignore_index=True)


def crowded_changes(tables: Tables) -> pd.DataFrame:
    """Changes of a setting's questions in crowded scenes; empty unless it has all benchmarks of the claim."""
    questions = tables.get("questions")
    if questions is None or not {"policy", "unit", *COLUMNS["questions"]} <= set(questions):
        return pd.DataFrame()
    rows = family_changes(questions, CROWDED)
    return rows if set(BENCHMARKS) <= set(rows["benchmark"]) else pd.DataFrame()


def by_seed(settings: Mapping[str, Tables]) -> pd.DataFrame:
    """The pooled change of questions in crowded scenes, in points: a row each seed, with its interval over scenes, then
    the random-effects mean of the seeds, with the standard deviation between their true values."""
    rows = []
    for setting, tables in settings.items():
        changes, found = crowded_changes(tables), []
        if changes.empty:
            continue
        for seed, one in changes.groupby("seed", sort=False):
            found.append(scores(parts(one, one["change"], one["benchmark"]), {"": pooled(BENCHMARKS)})[""])
            row = {"setting": setting, "seed": seed, "change": found[-1].value}
            rows.append(row | {"low": found[-1].low, "high": found[-1].high})
        mean = random_effects([score.value for score in found], [score.error for score in found])
        row = {"setting": setting, "seed": "random effects", "change": mean.value, "low": mean.low, "high": mean.high}
        rows.append(row | {"between": mean.between})
    return pd.DataFrame(rows)


def seed_table(seeds: pd.DataFrame, claims: Mapping[str, Sequence[Claim]]) -> pd.DataFrame:
    """`by_seed` as text, a row a setting, beside the crossed bootstrap's number and interval."""
    rows = []
    for setting, group in seeds.groupby("setting", sort=False):
        *each, mean = group.itertuples()
        crossed = next(claim for claim in claims[str(setting)] if claim.name.startswith("H2"))
        bounds = "" if math.isnan(mean.low) else f" [{mean.low:+.1f}, {mean.high:+.1f}]"
        row = {"setting": setting, "each seed": ", ".join(f"{one.change:+.1f}" for one in each)}
        row |= {
            "crossed": f"{crossed.estimate:+.1f} {interval(crossed)}",
            "random effects": f"{mean.change:+.1f}{bounds}",
        }
        rows.append(row | {"between seeds": "" if math.isnan(mean.between) else f"{mean.between:.1f}"})
    return pd.DataFrame(rows)


def against_controls(settings: Mapping[str, Tables], locus: str) -> dict[str, Claim]:
    """Control -> by how much more questions in crowded scenes improve with LOCUS than with it, on the questions and
    seeds that both have; scenes and seeds crossed.

    locus: the setting that is LOCUS.
    """
    ours = crowded_changes(settings[locus])
    claims = {}
    for control, tables in settings.items():
        if control == locus:
            continue
        statement = f"Questions in crowded scenes improve more with {locus} than with {control}."
        claim = replace(STATED["H2"], name="LOCUS minus control", statement=statement)
        theirs = crowded_changes(tables)
        if ours.empty or theirs.empty:
            claims[control] = replace(claim, over="not both have questions of all benchmarks in crowded scenes")
            continue
        keys = ["seed", "benchmark", "item"]
        rows = ours.merge(theirs[[*keys, "change"]], on=keys, suffixes=("", " of the control"), validate="one_to_one")
        if not set(BENCHMARKS) <= set(rows["benchmark"]):
            claims[control] = replace(claim, over="no questions or no seeds in common")
            continue
        sums = parts(rows, rows["change"] - rows["change of the control"], rows["benchmark"])
        claims[control] = decided(claim, scores(sums, {"": pooled(BENCHMARKS)})[""], extent(rows, "questions"))
    return claims
