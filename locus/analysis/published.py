"""What others published for weights trained on other proxy tasks, in percent, and a table of it beside locus's scores.

Each paper asked, read and sized images in its own way, so only base and trained of one row were measured alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd

from locus.analysis.pages.page import Section


@dataclass(frozen=True)
class Published:
    """Weights that others released, and what was measured of them.

    Example: ``Published("ZwZ-7B", "inclusionAI/ZwZ-7B", "Qwen2.5-VL-7B", {"vstar": (None, 86.9)}, "...")``.
    """

    model: str
    weights: str
    """Hub id."""
    base: str
    scores: Mapping[str, tuple[float | None, float | None]]
    """Our name of a benchmark -> percent of base and trained, each None where it is not given."""
    source: str
    """Where the numbers stand, and who measured them."""


_REGION_RL = (
    "Region-Level Policy Optimization (arXiv 2609.19745), Table 1, as its project page gives it: measured there on the "
    "released weights, 16,384 image tokens, free responses, rules and a judge"
)

PUBLISHED = (
    Published(
        "Visual Jigsaw Image 7B",
        "craigwu/visual_jigsaw_image_7B",
        "Qwen2.5-VL-7B",
        {
            "mmvp": (54.66, 60.66),
            "mmbench": (83.33, 84.45),
            "hr_bench_8k": (67.38, 71.13),
            "vstar": (76.96, 80.63),
            "mme_realworld_lite": (43.41, 45.96),
        },
        "Visual Jigsaw (arXiv 2509.25190), Table 1: short answers without thoughts",
    ),
    Published(
        "ZwZ-4B",
        "inclusionAI/ZwZ-4B",
        "Qwen3-VL-4B",
        {
            "vstar": (84.29, 90.05),
            "hr_bench_4k": (76.25, 78.12),
            "hr_bench_8k": (73.38, 76.62),
            "zoombench": (45.80, 55.62),
        },
        "EviViT (Niu et al., github.com/YXNiu/EviViT), Table 1: measured there, answers alone, a judge",
    ),
    Published(
        "ZwZ-7B",
        "inclusionAI/ZwZ-7B",
        "Qwen2.5-VL-7B",
        {
            "vstar": (None, 86.9),
            "hr_bench_4k": (None, 75.9),
            "hr_bench_8k": (None, 72.4),
            "mme_realworld": (None, 65.0),
            "zoombench": (42.5, 55.6),
        },
        f"{_REGION_RL}; ZoomBench of the base: README of github.com/inclusionAI/Zooming-without-Zooming",
    ),
    Published(
        "ZwZ-8B",
        "inclusionAI/ZwZ-8B",
        "Qwen3-VL-8B",
        {
            "vstar": (84.8, 90.6),
            "hr_bench_4k": (79.6, 84.4),
            "hr_bench_8k": (75.3, 81.6),
            "mme_realworld": (63.2, 69.9),
            "zoombench": (43.0, 58.0),
        },
        _REGION_RL,
    ),
)
"""Of SSL4RL (arXiv 2510.16416) no table was at hand; see docs/benchmarks.md."""


def published_table(scores: pd.DataFrame) -> pd.DataFrame:
    """Published and our own scores in one table, in percent; None for a missing number.

    Args:
        scores: of ``scores.csv``, columns policy, benchmark and value; others are ignored. It may be empty.

    Returns:
        A row for each benchmark that somebody has a published number of: column benchmark, one for each policy, and for
        each of `PUBLISHED` ``<model>: base`` and ``<model>``.
    """
    measured = {(row.policy, row.benchmark): row.value for row in scores.itertuples()}
    policies = dict.fromkeys(policy for policy, _ in measured)
    rows = []
    for benchmark in dict.fromkeys(name for one in PUBLISHED for name in one.scores):
        row: dict[str, object] = {"benchmark": benchmark}
        row |= {policy: measured.get((policy, benchmark)) for policy in policies}
        for one in PUBLISHED:
            base, trained = one.scores.get(benchmark, (None, None))
            row |= {f"{one.model}: base": base, one.model: trained}
        rows.append(row)
    return pd.DataFrame(rows, dtype=object)


def published_section(scores: pd.DataFrame) -> Section | None:
    """Of the benchmarks in ``scores.csv`` what was published beside what was measured; None without any of them."""
    table = published_table(scores)
    table = table[table["benchmark"].isin(scores["benchmark"])].dropna(axis="columns", how="all")
    shown = table.map(lambda value: value if isinstance(value, str) else "" if pd.isna(value) else f"{value:.1f}")
    lines = [f"{one.model} (base {one.base}): {one.source}." for one in PUBLISHED if one.model in table]
    text = (
        "In percent; what others published stands right of what was measured here. Each source asked, read and sized "
        "images in its own way: only base and trained of one source, and policies of ours asked alike, can be compared."
    )
    return Section("Published", text, shown, lines=lines) if lines else None
