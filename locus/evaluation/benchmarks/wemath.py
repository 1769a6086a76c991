"""We-Math: composite problems beside the one-step problems they are made of."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pandas as pd

from locus.errors import LocusError
from locus.evaluation.benchmark import Item, Verdict
from locus.evaluation.benchmarks.choice import SELECT, text_answer, vlmevalkit_prompt
from locus.evaluation.benchmarks.file_benchmark import FileBenchmark
from locus.evaluation.benchmarks.readers import Row
from locus.evaluation.reading.extractors import Extractor
from locus.evaluation.statistics import Statistic, every
from locus.types import Response, View

TEMPLATE = (
    "\nRegarding the format, please answer following the template below, and be sure to include two <> symbols:\n"
    "<Thought process>: <<your thought process>> <Answer>: <<your option>>"
)
ROLES = {f"{steps}steps_{part}": steps for steps in (2, 3) for part in (*range(1, steps + 1), "multi")}
"""The values of ``key`` -> steps of their group."""
CLASSES = ("insufficient", "inadequate", "mastery", "rote")
"""Of a group: a step and the composite wrong; only the composite wrong; all known; the composite right without."""
STEPS = ("one_step", "two_steps", "three_steps")
"""Accuracies: of the steps, and of the composites of two and of three."""
SINGLE = ("strict", "loose", "accuracy")
ROWS = {
    "one_step": lambda table: ~table["role"].str.endswith("multi").to_numpy(),
    "two_steps": lambda table: (table["role"] == "2steps_multi").to_numpy(),
    "three_steps": lambda table: (table["role"] == "3steps_multi").to_numpy(),
}
"""Which rows these stand on; the other scores stand on all."""
MARKS = (r"(?:^|;)\s*{}\s*[.．]\s*(?=[^;\s])", r"\s{}\s*[.．]\s*(?=[^;\s])")
"""What begins an option in the official file: a letter behind a semicolon, or, in three rows, behind a space."""


@dataclass(frozen=True)
class WeMath(FileBenchmark):
    """1,740 questions in 525 groups: two or three one-step problems each, and the composite of them.

    ``path`` is VLMEvalKit's TSV, Hugging Face parquet, or the official testmini.json with its pictures. ``ID`` names
    the group, ``key`` the role in it.
    """

    name: str = "wemath"
    rows: int | None = 1740
    template: bool = False
    """Ask for the official ``<Answer>: <<B>>``, which the extractor ``vlmevalkit`` cannot do without."""
    groups: Sequence[int] | None = (360, 165)
    """Groups of two and of three steps in the whole benchmark; lacking ones count as wrong. None: only those there."""
    single: str = "accuracy"
    """The headline, one of `SINGLE`: papers give any of the three, and they lie 30 points apart."""

    columns: ClassVar = ("ID", "key", "question", "answer", ("image", "image_path"))

    def __post_init__(self) -> None:
        if self.single not in SINGLE:
            raise LocusError(f"single={self.single} of {self.name}: pass one of {', '.join(SINGLE)}")

    @property
    def headline(self) -> str:
        """As chosen by ``single``."""
        return self.single

    def _item(self, row: Row) -> Item:
        role = row.known("key", row.text("key").strip(), ROLES)
        options = split_options(row.optional("option")) or row.options()
        answer = row.known("the answer", row.text("answer").strip(), options)
        # VLMEvalKit asks this benchmark without its usual last line.
        prompt = vlmevalkit_prompt(row.text("question"), options, row.optional("hint")).removesuffix(SELECT)
        # The steps too: nothing promises that an ID is not used for a group of either kind.
        group = f"{ROLES[role]}:{row.text('ID').strip()}"
        return Item(
            f"{group}:{role}",
            prompt + (TEMPLATE if self.template else ""),
            answer,
            row.pictures("image_path", "image"),
            options,
            {"group": group, "role": role},
        )

    def judge(self, item: Item, response: Response, view: View, extractor: Extractor) -> Verdict:
        """By letter or value; ``vlmevalkit`` is the official rule, the letter behind the last "Answer"."""
        found = extractor.template_letter(response, item.options)
        read, asked = self._choose(item, response, item.options, found)
        columns = {"right_by_text": float(text_answer(read) == item.answer), "judged": asked}
        return Verdict(item.item_id, read, float(read.answer == item.answer), {**item.groups, **columns})

    def statistics(self) -> Mapping[str, Statistic]:
        """The score with strict and with loose mastery, the shares of the four classes, and accuracies by steps."""
        names = [f"{name}_{kind}" for kind in ("strict", "loose") for name in (*CLASSES, "rote_rate")]
        return {name: self._score(name) for name in ("strict", "loose", "accuracy", *names, *STEPS)}

    def unit(self) -> Sequence[str]:
        """A group: its steps and its composite are scored together."""
        return ("group",)

    def _score(self, name: str) -> Statistic:
        def value(table: pd.DataFrame, weights: np.ndarray) -> np.ndarray:
            return 100 * shares(table, weights, self.groups)[name]

        return Statistic(value, ROWS.get(name, every))


def split_options(text: str) -> dict[str, str]:
    """``A. 3; 4;B. 5; C. none`` -> options; a semicolon parts two only where the next letter and a dot follow.

    Each letter is looked for behind the one before, and begins no option that is empty: "to get Shape ;C.; B. Shape".
    """
    marks, end = [], 0
    for letter in "ABCDEFGH":
        found = (re.compile(mark.format(letter)).search(text, end) for mark in MARKS)
        if mark := next((one for one in found if one), None):
            marks.append((letter, mark))
            end = mark.end()
    ends = [*(mark.start() for _, mark in marks[1:]), len(text)]
    return {letter: text[mark.end() : stop].strip() for (letter, mark), stop in zip(marks, ends, strict=False)}


def shares(table: pd.DataFrame, weights: np.ndarray, expected: Sequence[int] | None) -> dict[str, np.ndarray]:
    """[R] shares, 0 to 1, of every score. A row that its group lacks is wrong, and so is a group that is lacking.

    Official tables leave such groups out of every class but not out of the 525, which raises the score.
    """
    first, steps, right, composite = outcomes(table)
    groups = weights[:, first]  # [R, G]; the rows of a group are drawn together
    present = np.array([(steps == kind).sum() for kind in (2, 3)])
    lacking = np.maximum(np.array(expected or present) - present, 0)
    two, three = (groups @ (steps == kind) + lack for kind, lack in zip((2, 3), lacking, strict=True))
    total, everything, something = two + three, right == steps, right > 0
    found: dict[str, np.ndarray] = {}
    for kind, known in (("strict", everything), ("loose", something)):
        mastery, rote = groups @ (composite & known), groups @ (composite & ~known)
        inadequate = groups @ (~composite & everything)
        classes = (total - mastery - rote - inadequate, inadequate, mastery, rote)
        found |= {f"{name}_{kind}": count / total for name, count in zip(CLASSES, classes, strict=True)}
        found[f"rote_rate_{kind}"] = ratio(rote, mastery + rote)
        found[kind] = (mastery + 0.5 * inadequate) / total
    one_step, both = groups @ right, groups @ composite
    found["accuracy"] = (one_step + both) / (3 * two + 4 * three)
    counts = (one_step, groups @ (composite & (steps == 2)), groups @ (composite & (steps == 3)))
    for name, count, of in zip(STEPS, counts, (2 * two + 3 * three, two, three), strict=True):
        found[name] = ratio(count, of)
    return found


def outcomes(table: pd.DataFrame) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Of each group [G]: its first row, how many steps it has, how many of them are right, is its composite right."""
    group = table.groupby("group", sort=False).ngroup().to_numpy()
    first = np.unique(group, return_index=True)[1]
    correct = table["correct"].to_numpy(dtype=float) > 0
    multi = table["role"].str.endswith("multi").to_numpy()
    right, composite = np.zeros(len(first)), np.zeros(len(first), dtype=bool)
    np.add.at(right, group[correct & ~multi], 1)
    composite[group[correct & multi]] = True
    return first, table["role"].map(ROLES).to_numpy()[first], right, composite


def ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """[R] quotients; NaN for 0/0."""
    return np.divide(above, below, out=np.full(len(below), np.nan), where=below > 0)
