"""A sweep as the table of the paper that it repeats: means over seeds, the paper's numbers, LOCUS less the others."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from locus.analysis.ablations import half_interval, over_seeds
from locus.evaluation.paper import Ablation

MEASURES = {
    "val/mean_iou": "cue search IoU",
    "score/attributes": "attributes",
    "score/relative position": "relation",
    "score/existence": "existence",
    "score/counting": "counting",
    "score/text grounding": "text grounding",
}
"""Columns of `runs.load` -> what they are called; those that the runs lack are left out."""


def paper_table(runs: pd.DataFrame, ablation: Ablation, measures: Mapping[str, str] = MEASURES) -> pd.DataFrame:
    """The base, then the settings in the paper's order; ours as `over_seeds` has them, then the paper's own columns.

    Args:
        runs: of `runs.load`; options of ``ablation.group`` that the paper does not have come last.
    """
    shown = {column: name for column, name in measures.items() if column in runs}
    ours = over_seeds(runs, [ablation.group], shown)
    base = runs.drop_duplicates("seed").drop(columns=list(shown))
    base = base.rename(columns={f"base/{column}": column for column in shown}).assign(**{ablation.group: "base"})
    table = pd.concat([over_seeds(base, [ablation.group], shown), ours], ignore_index=True)
    known = {"base": ablation.base, **ablation.rows}
    places = {option: place for place, option in enumerate(known)}
    table = table.sort_values(ablation.group, key=lambda names: names.map(places), kind="stable", ignore_index=True)
    for place, benchmark in enumerate(ablation.benchmarks):
        values = [f"{known[option][place]:.1f}" if option in known else "" for option in table[ablation.group]]
        table[f"paper: {benchmark}"] = values
    return table


def against_locus(runs: pd.DataFrame, ablation: Ablation, measures: Mapping[str, str] = MEASURES) -> pd.DataFrame:
    """How much better LOCUS is than each other setting: the mean over seeds of the difference within a seed.

    Columns ``LOCUS less <group>``, ``seeds``, and each measure with its half interval.
    """
    others = [option for option in ablation.rows if option != ablation.locus]
    finished = runs[runs["status"] == "finished"].drop_duplicates([ablation.group, "seed"]).set_index("seed")
    shown = {column: name for column, name in measures.items() if column in runs}
    ours = finished[finished[ablation.group] == ablation.locus]
    rows = []
    for option in others:
        differences = (ours[list(shown)] - finished[finished[ablation.group] == option][list(shown)]).dropna(how="all")
        row: dict[str, object] = {f"LOCUS less {ablation.group}": option, "seeds": len(differences)}
        for column, name in shown.items():
            row |= {name: differences[column].mean(), f"{name} ±": half_interval(differences[column])}
        rows.append(row)
    return pd.DataFrame(rows)
