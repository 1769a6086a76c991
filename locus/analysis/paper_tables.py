"""A sweep as the table of the paper that it repeats: means over seeds, the paper's numbers, LOCUS less the others."""

from __future__ import annotations

import pandas as pd

from locus.analysis.ablations import half_interval, over_seeds
from locus.evaluation.paper import ABLATIONS, Ablation

MEASURES = {
    "val/mean_iou": "cue search IoU",
    "score/attributes": "attributes",
    "score/relative position": "relation",
    "score/existence": "existence",
    "score/counting": "counting",
    "score/text grounding": "text grounding",
}
"""Columns of `runs.load` -> what they are called; those that the runs lack are left out."""


def ablation_of(runs: pd.DataFrame, name: str | None) -> Ablation | None:
    """The paper's table of this name, where these runs can make it: its config group differs, and some are finished."""
    ablation = ABLATIONS.get(name or "")
    if ablation is None or ablation.group not in runs or not (runs["status"] == "finished").any():
        return None
    return ablation


def measures_of(runs: pd.DataFrame, ablation: Ablation) -> dict[str, str]:
    """Columns of the runs that the table shows: our own measures, then scores of the paper's benchmarks."""
    known = MEASURES | {f"score/{benchmark}": title for benchmark, title in ablation.benchmarks.items()}
    return {column: name for column, name in known.items() if column in runs}


def paper_table(runs: pd.DataFrame, ablation: Ablation) -> pd.DataFrame:
    """The base, then the settings in the paper's order; ours as `over_seeds` has them, then the paper's own columns.

    Args:
        runs: of `runs.load`; options of ``ablation.group`` that the paper does not have come last.
    """
    finished, measures = runs[runs["status"] == "finished"], measures_of(runs, ablation)
    before = finished.drop_duplicates("seed")
    base = pd.DataFrame({column: before.get(f"base/{column}") for column in measures}, index=before.index, dtype=float)
    base = base.assign(status="finished", **{ablation.group: "base"})
    table = over_seeds(pd.concat([base, finished], ignore_index=True), [ablation.group], measures)
    known = {"base": ablation.base, **ablation.rows}
    places = {option: place for place, option in enumerate(known)}
    table = table.sort_values(ablation.group, key=lambda names: names.map(places), kind="stable", ignore_index=True)
    for place, title in enumerate(ablation.benchmarks.values()):
        values = [f"{known[option][place]:.1f}" if option in known else "" for option in table[ablation.group]]
        table[f"paper: {title}"] = values
    return table


def against_locus(runs: pd.DataFrame, ablation: Ablation) -> pd.DataFrame:
    """How much better LOCUS is than each other setting: the mean over seeds of the difference within a seed.

    Columns ``LOCUS less <group>``, ``seeds``, and each measure with its half interval.
    """
    finished = runs[runs["status"] == "finished"].drop_duplicates([ablation.group, "seed"]).set_index("seed")
    measures = measures_of(runs, ablation)
    ours = finished[finished[ablation.group] == ablation.locus]
    rows = []
    for option in (option for option in ablation.rows if option != ablation.locus):
        theirs = finished[finished[ablation.group] == option]
        differences = (ours[list(measures)] - theirs[list(measures)]).dropna(how="all")
        if not len(differences):
            continue
        row: dict[str, object] = {f"LOCUS less {ablation.group}": option, "seeds": len(differences)}
        for column, name in measures.items():
            row |= {name: differences[column].mean(), f"{name} ±": half_interval(differences[column])}
        rows.append(row)
    return pd.DataFrame(rows)
