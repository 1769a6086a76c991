"""HR-Bench: 200 questions about 4K or 8K pictures, each with its options rotated four times."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from locus.evaluation.benchmark import Item
from locus.evaluation.benchmarks.choice import VLMEVALKIT_COLUMNS, ChoiceBenchmark, mean_over, vlmevalkit_item
from locus.evaluation.benchmarks.readers import Row
from locus.evaluation.statistics import Statistic, all_right


@dataclass(frozen=True)
class HRBench(ChoiceBenchmark):
    """HR-Bench (Wang et al. 2024), 4K or 8K, from its parquet or TSV, which have the same columns.

    A score is the mean over the four rotations (cycles), so that a question can be right by a quarter. Prompt: the
    official one, which is VLMEvalKit's default.
    """

    rows: int | None = 800

    headline: ClassVar[str] = "overall"
    columns: ClassVar = (*VLMEVALKIT_COLUMNS, "category", "cycle_category")
    tsv_columns: ClassVar = columns

    def statistics(self) -> Mapping[str, Statistic]:
        """Overall, single-instance (fsp) and cross-instance (fcp), and the share of questions right in every cycle."""
        return {
            "overall": mean_over("cycle"),
            "fsp": mean_over("cycle", category="single"),
            "fcp": mean_over("cycle", category="cross"),
            "all_cycles_right": all_right("question"),
        }

    def unit(self) -> Sequence[str]:
        """The question: its four rotations are not four observations."""
        return ("question",)

    def _item(self, row: Row) -> Item:
        item = vlmevalkit_item(row, {})
        # The files number rows, not questions: the same words about the same picture are one question.
        question = f"{item.pictures[0].key} {row.text('question')}"
        groups = {
            "category": row.text("category"),
            "cycle": row.text("cycle_category"),
            "question": hashlib.blake2b(question.encode(), digest_size=8).hexdigest(),
        }
        return replace(item, groups=groups)
