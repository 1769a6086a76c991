"""MMBench: questions of 20 abilities, each asked once for every rotation of its options."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from locus.evaluation.benchmark import Item
from locus.evaluation.benchmarks.choice import VLMEVALKIT_COLUMNS, ChoiceBenchmark, vlmevalkit_item
from locus.evaluation.benchmarks.readers import Row
from locus.evaluation.statistics import Statistic, accuracy, all_right

ABILITIES = (
    *("coarse_perception", "finegrained_perception (instance-level)", "finegrained_perception (cross-instance)"),
    *("logic_reasoning", "relation_reasoning", "attribute_reasoning"),
)
ROTATION = 1_000_000
"""What a rotated question's index exceeds that of its question by, or a multiple of it."""


@dataclass(frozen=True)
class MMBench(ChoiceBenchmark):
    """The development set of MMBench in English (Liu et al. 2024), from VLMEvalKit's TSV or the parquet.

    Both hold the rotations that circular evaluation asks. Prompt: VLMEvalKit's default, hint first.
    """

    name: str = "mmbench"
    rows: int | None = 4329

    headline: ClassVar[str] = "circular"
    columns: ClassVar = (*VLMEVALKIT_COLUMNS, "category", ("l2-category", "L2-category"))
    tsv_columns: ClassVar = columns

    def statistics(self) -> Mapping[str, Statistic]:
        """Questions that are right in all their rotations (the published score), also of each of six abilities.

        ``vanilla`` is the accuracy of the questions as they were written, ``all_rotations`` that of all rows.
        """
        each = {"_".join(_words(one)): all_right("question", ability=one) for one in ABILITIES}
        plain = {"vanilla": accuracy(rotation="0"), "all_rotations": accuracy()}
        return {"circular": all_right("question"), **plain, **each}

    def unit(self) -> Sequence[str]:
        """The question: its rotations are not several observations."""
        return ("question",)

    def _item(self, row: Row) -> Item:
        # The parquet has the word where a cell is empty.
        row = replace(row, cells={name: None if cell == "nan" else cell for name, cell in row.cells.items()})
        index = row.text("index")
        if not index.isdecimal():
            raise row.error(f"index {index!r} is not a whole number, so its rotation is unknown; fetch the file again")
        rotation, question = divmod(int(index), ROTATION)
        groups = {
            "question": row.optional("g_index", str(question)),
            "rotation": str(rotation),
            "category": row.text("category"),
            "ability": row.text("l2-category", "L2-category"),
        }
        return vlmevalkit_item(row, groups)


def _words(ability: str) -> list[str]:
    return "".join(char if char.isalnum() else " " for char in ability).split()
