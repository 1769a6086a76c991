"""The paper's own results, in percent, and its tables beside what runs here measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd

from locus.analysis.ablations import half_interval, over_seeds
from locus.analysis.run_metrics import HEADLINE
from locus.analysis.runs import axes

BACKBONES = ("Qwen2.5-VL-7B-Instruct", "Qwen3-VL-4B-Thinking", "MiMo-VL-7B-RL")
"""The paper's, in the order of the columns below."""

RESULTS: dict[str, tuple[tuple[float, float], ...]] = {
    "vstar": ((79.6, 87.4), (79.6, 82.7), (77.0, 79.1)),
    "hr_bench_4k": ((69.9, 71.6), (75.4, 77.0), (69.5, 72.0)),
    "hr_bench_8k": ((63.8, 68.4), (70.6, 71.9), (66.4, 69.0)),
    "cv_bench": ((75.6, 76.5), (83.4, 84.9), (80.4, 80.4)),
    "mme_realworld": ((58.8, 62.7), (60.0, 62.0), (54.4, 57.1)),
    "pope": ((84.9, 87.6), (88.1, 88.2), (86.1, 86.2)),
    "hallusionbench": ((68.0, 70.3), (75.4, 75.6), (67.7, 72.0)),
    "mmstar": ((61.5, 63.1), (66.5, 69.7), (66.3, 68.9)),
    "realworldqa": ((61.6, 66.4), (69.5, 71.0), (66.7, 67.3)),
    "ocrbench": ((82.0, 85.4), (78.4, 77.7), (81.3, 82.7)),
    "ai2d": ((79.6, 80.5), (81.3, 81.4), (81.0, 82.5)),
    "babyvision": ((11.9, 12.4), (9.5, 12.1), (9.3, 10.1)),
    "mathvision": ((23.4, 24.7), (43.4, 44.7), (52.3, 54.6)),
    "mathverse": ((46.1, 46.6), (61.4, 61.2), (54.2, 57.0)),
    "wemath": ((64.4, 65.1), (76.3, 78.8), (77.2, 78.3)),
    "logicvista": ((43.1, 47.1), (52.5, 56.7), (52.5, 55.8)),
    "refcoco": ((84.4, 86.5),),
    "refcoco_plus": ((78.4, 78.8),),
    "refcocog": ((81.1, 83.0),),
    "cue_search": ((16.4, 43.0), (21.7, 43.2)),
}


@dataclass(frozen=True)
class Ablation:
    """An ablation table of the paper, of Qwen2.5-VL-7B."""

    title: str
    group: str
    """The config group whose options are the rows."""
    benchmarks: Mapping[str, str]
    """Our name of each benchmark -> the column's title."""
    base: tuple[float, ...]
    rows: Mapping[str, tuple[float, ...]]
    """Option -> a score for each benchmark."""
    locus: str
    """The option that is LOCUS."""


ABLATIONS = {
    "table4": Ablation(
        "Training method", "algorithm",
        {"vstar": "V*", "hr_bench_4k": "HR-4K", "hr_bench_8k": "HR-8K"}, (79.6, 70.1, 63.4),
        {"sft": (80.1, 70.4, 65.8), "grpo": (87.4, 71.9, 68.5)}, "grpo",
    ),
    "table5": Ablation(
        "Modality of the cue", "cue",
        {"vstar": "V*", "hr_bench_8k": "HR-8K", "pope": "POPE", "hallusionbench": "Hallusion"},
        (79.6, 63.4, 84.3, 68.0),
        {
            "text": (83.8, 67.0, 85.0, 69.4),
            "text_file": (83.8, 67.0, 85.0, 69.4),
            "visual": (87.4, 68.5, 86.0, 70.3),
        },
        "visual",
    ),
    "table6": Ablation(
        "Size of the cues", "crop", {"vstar": "V*", "hr_bench_8k": "HR-8K", "refcoco": "RefCOCO"}, (79.6, 63.4, 84.4),
        {
            "large": (81.2, 66.4, 87.2),
            "mix_60_40": (85.9, 66.8, 86.2),
            "object": (87.4, 68.5, 86.5),
            "mix_80_20": (86.9, 68.1, 86.3),
            "mix_90_10": (87.4, 67.4, 86.1),
            "tiny": (86.9, 67.0, 74.4),
        },
        "object",
    ),
    "table7": Ablation(
        "Source of the cues", "crop",
        {"vstar": "V*", "hr_bench_4k": "HR-4K", "hr_bench_8k": "HR-8K"}, (79.6, 70.1, 63.4),
        {"random": (81.2, 70.8, 65.9), "object": (87.4, 71.9, 68.5)}, "object",
    ),
}  # fmt: skip
"""By the name of the experiment."""


def paper_numbers(benchmark: str, backbone: str | None) -> tuple[float, float] | None:
    """Base and trained score of the paper for a backbone, told by the last part of its hub id or folder."""
    name = (backbone or "").rstrip("/").split("/")[-1]
    found = dict(zip(BACKBONES, RESULTS.get(benchmark, ()), strict=False))
    return found.get(name)


MEASURES = {
    HEADLINE: "cue search IoU",
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
        runs: of `runs.load`; options of ``ablation.group`` that the paper does not have come last. A further setting
            in which they differ has a column, and its values rows of their own.
    """
    finished, measures = runs[runs["status"] == "finished"], measures_of(runs, ablation)
    others = crossed(finished, ablation)
    before = finished.drop_duplicates([*others, "seed"])
    base = pd.DataFrame({column: before.get(f"base/{column}") for column in measures}, index=before.index, dtype=float)
    base = base.assign(status="finished", **{ablation.group: "base"}, **before[others])
    table = over_seeds(pd.concat([base, finished], ignore_index=True), [ablation.group, *others], measures)
    known = {"base": ablation.base, **ablation.rows}
    places = {option: place for place, option in enumerate(known)}
    table = table.sort_values(ablation.group, key=lambda names: names.map(places), kind="stable", ignore_index=True)
    for place, title in enumerate(ablation.benchmarks.values()):
        values = [f"{known[option][place]:.1f}" if option in known else "" for option in table[ablation.group]]
        table[f"paper: {title}"] = values
    return table


def crossed(runs: pd.DataFrame, ablation: Ablation) -> list[str]:
    """Further settings in which runs of one option differ: these are no seeds."""
    options = runs.groupby(ablation.group, dropna=False)
    return [n for n in axes(runs) if n != ablation.group and options[n].nunique(dropna=False).max() > 1]


def against_locus(runs: pd.DataFrame, ablation: Ablation) -> pd.DataFrame:
    """How much better LOCUS is than each other setting: the mean over seeds of the difference within a seed.

    Columns ``LOCUS less <group>``, those of `crossed`, ``seeds``, and each measure with its half interval.
    """
    finished = runs[runs["status"] == "finished"]
    others = crossed(finished, ablation)
    if not others:
        return _against_locus(finished, ablation)
    parts = finished.groupby(others, sort=False, dropna=False)
    tables = [_against_locus(part, ablation).assign(**dict(zip(others, values, strict=True))) for values, part in parts]
    table = pd.concat([table for table in tables if len(table)] or tables, ignore_index=True)
    return table[[*table.columns[:1], *others, *(name for name in table.columns[1:] if name not in others)]]


def _against_locus(finished: pd.DataFrame, ablation: Ablation) -> pd.DataFrame:
    """Of runs that differ in the option and the seed alone."""
    measures = measures_of(finished, ablation)
    finished = finished.drop_duplicates([ablation.group, "seed"]).set_index("seed")
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
