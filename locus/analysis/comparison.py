"""A run's base against its trained policy: cue search, questions without a cue, attention. Paired, with intervals."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from locus.analysis.attention import ANSWER_OPENED, attention_in_box, attention_maps, evidence_mask
from locus.data.collate import QuestionCollator
from locus.data.scene_rendering import render
from locus.evaluation.bootstrap import Difference, paired_difference
from locus.evaluation.scene_suite import SceneBenchmark, SceneSuite
from locus.models.vlm import VLM

BEFORE, AFTER = "before", "after"


@dataclass(frozen=True, eq=False)
class Comparison:
    """What the base and the trained policy did with the same questions."""

    questions: pd.DataFrame
    """One row a policy (column ``policy``: before or after) and question, see `SceneSuite`."""
    attention: pd.DataFrame
    """One row a policy, question and layer: ``share`` of the attention in the evidence boxes; ``mean``, ``peak`` and
    ``area`` of the question repeat, see `AttentionInBox`."""

    def save(self, folder: Path) -> None:
        """Writes ``questions.parquet`` and ``attention.parquet``."""
        self.questions.to_parquet(folder / "questions.parquet", index=False)
        self.attention.to_parquet(folder / "attention.parquet", index=False)


def compare(base: VLM, trained: VLM, suite: SceneSuite, collator: QuestionCollator) -> Comparison:
    """Puts the suite's questions to both policies."""
    questions, attention = [], []
    for name, policy in ((BEFORE, base), (AFTER, trained)):
        questions.append(suite(policy, collator).assign(policy=name))
        rows = [look(policy, benchmark, suite.seed, collator) for benchmark in suite.benchmarks if benchmark.attention]
        attention += [frame.assign(policy=name) for frame in rows]
    return Comparison(pd.concat(questions, ignore_index=True), pd.concat(attention, ignore_index=True))


def look(policy: VLM, benchmark: SceneBenchmark, seed: int, collator: QuestionCollator) -> pd.DataFrame:
    """Attention-in-Box of a benchmark's questions that have evidence; columns as in `Comparison`."""
    asked = [entry for entry in benchmark.draw(seed) if entry.question.evidence]
    images = [render(entry.scene) for entry in asked]
    texts = [entry.question.text for entry in asked]
    prompts = collator.question_prompts([str(i) for i in range(len(asked))], images, texts, ANSWER_OPENED)
    rows = []
    for index, (entry, maps) in enumerate(zip(asked, attention_maps(policy, prompts), strict=True)):
        found = attention_in_box(maps, evidence_mask(entry.question.evidence, *maps.shape[1:]))
        common = {"benchmark": benchmark.name, "kind": entry.question.kind, "question": index}
        common |= {"mean": found.mean, "peak": found.peak, "area": found.area}
        rows += [common | {"layer": layer, "share": share} for layer, share in enumerate(found.by_layer)]
    return pd.DataFrame(rows)


# --- Tables ---------------------------------------------------------------------------------------------------
def row(name: str, part: str, difference: Difference) -> dict[str, object]:
    """A line of a before/after table."""
    return {
        "measure": name,
        "of": part,
        BEFORE: difference.before,
        AFTER: difference.after,
        "change": difference.change,
        "low": difference.low,
        "high": difference.high,
        "items": difference.items,
    }


def cue_search_table(validation: pd.DataFrame) -> pd.DataFrame:
    """``validation.parquet`` of a run -> first against last validation, over all examples and by area bin."""
    first, last = (validation[validation["step"] == step].set_index("example_id") for step in _ends(validation))
    last = last.loc[first.index]
    rows = []
    for part in ("all", *sorted(first["bin"].unique())):
        chosen = np.ones(len(first), bool) if part == "all" else (first["bin"] == part).to_numpy()
        one, two = first[chosen], last[chosen]
        rows.append(row("mean IoU", part, paired_difference(one["iou"], two["iou"])))
        for least in (0.5, 0.75):
            rows.append(row(f"ACC@{least}", part, paired_difference(one["iou"] >= least, two["iou"] >= least)))
        rows.append(row("format", part, paired_difference(one["format"], two["format"])))
    return pd.DataFrame(rows)


def _ends(validation: pd.DataFrame) -> tuple[int, int]:
    return int(validation["step"].min()), int(validation["step"].max())


def question_table(questions: pd.DataFrame) -> pd.DataFrame:
    """`Comparison.questions` -> accuracy by benchmark and kind, and over each benchmark of several kinds."""
    rows = []
    for benchmark, group in questions.groupby("benchmark", sort=False):
        kinds = list(group["kind"].unique())
        parts = [(kind, group[group["kind"] == kind]) for kind in kinds]
        for name, part in ([("all", group)] if len(kinds) > 1 else []) + parts:
            scores = [part[part["policy"] == policy]["score"].to_numpy() for policy in (BEFORE, AFTER)]
            rows.append(row(benchmark, name, paired_difference(*scores)))
    return pd.DataFrame(rows)


def attention_table(attention: pd.DataFrame) -> pd.DataFrame:
    """`Comparison.attention` -> Attention-in-Box by layer and of the mean map, Peak-in-Box, and what chance gives."""
    rows = []
    for layer, group in attention.groupby("layer"):
        shares = [group[group["policy"] == policy]["share"].to_numpy() for policy in (BEFORE, AFTER)]
        rows.append(row("attention in box", f"layer {layer}", paired_difference(*shares)))
    whole = attention[attention["layer"] == 0]
    for column, name in (("mean", "attention in box"), ("peak", "peak in box"), ("area", "area of the box")):
        values = [whole[whole["policy"] == policy][column].to_numpy(float) for policy in (BEFORE, AFTER)]
        rows.append(row(name, "mean of layers", paired_difference(*values)))
    return pd.DataFrame(rows)


def as_text(table: pd.DataFrame) -> str:
    """A before/after table for the terminal."""
    interval = [f"[{low:+.3f}, {high:+.3f}]" for low, high in zip(table["low"], table["high"], strict=True)]
    shown = table.drop(columns=["low", "high"]).assign(**{"95 %": interval})
    return shown.to_string(index=False, float_format=lambda value: f"{value:.3f}")
