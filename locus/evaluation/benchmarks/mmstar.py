"""MMStar: 1500 questions that need their picture, of 6 abilities and 18 axes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from locus.evaluation.benchmark import Item
from locus.evaluation.benchmarks.choice import (
    SELECT,
    VLMEVALKIT_COLUMNS,
    ChoiceBenchmark,
    letter_of,
    mean_over,
    vlmevalkit_item,
    vlmevalkit_prompt,
)
from locus.evaluation.benchmarks.readers import Row
from locus.evaluation.statistics import Statistic, accuracy

CATEGORIES = (
    *("coarse perception", "fine-grained perception", "instance reasoning"),
    *("logical reasoning", "science & technology", "math"),
)


@dataclass(frozen=True)
class MMStar(ChoiceBenchmark):
    """MMStar (Chen et al. 2024) from VLMEvalKit's TSV or the parquet, which has the options in its question.

    Prompt: VLMEvalKit's default; the parquet's options are split from the question, so that they are printed once.
    Where they cannot be separated they stay in it, and the instruction follows.
    """

    name: str = "mmstar"
    rows: int | None = 1500

    columns: ClassVar = ("index", "image", "question", "answer", "category", "l2_category")
    tsv_columns: ClassVar = (*VLMEVALKIT_COLUMNS, "category", "l2_category")

    def statistics(self) -> Mapping[str, Statistic]:
        """Over all rows (VLMEvalKit), the mean over the 18 axes (lmms-eval's average), and of each category."""
        names = {re.sub(r"\W+", "_", category): accuracy(category=category) for category in CATEGORIES}
        return {"accuracy": accuracy(), "axis_mean": mean_over("axis"), **names}

    def _item(self, row: Row) -> Item:
        groups = {"category": row.text("category"), "axis": row.text("l2_category")}
        if row.options():
            return vlmevalkit_item(row, groups)
        question, options = split_options(row.text("question"))
        prompt = vlmevalkit_prompt(question, options) + ("" if options else SELECT)
        answer, pictures = letter_of(row, "answer"), row.pictures("image", "image_path")
        return Item(row.item_id("index"), prompt, answer, pictures, options, groups)


def split_options(text: str) -> tuple[str, dict[str, str]]:
    r"""Question and options of ``Which?\nOptions: A: red, B: blue``; the text itself and none where that fails.

    Each next letter is looked for behind the one before, so that commas and colons in an option do no harm.
    """
    question, word, listed = text.rpartition("Options:")
    marks, end = [], 0
    for letter in "ABCDEFGH":
        match = re.compile(rf"(?:^|[,;\n])\s*\(?{letter}[:.)]\s*").search(listed, end)
        if not match:
            break
        marks.append((letter, match))
        end = match.end()
    if not word or len(marks) < 2 or marks[0][1].start() != 0:
        return text, {}
    ends = [match.start() for _, match in marks[1:]] + [len(listed)]
    options = {letter: listed[match.end() : end].strip() for (letter, match), end in zip(marks, ends, strict=True)}
    return question.strip(), options
