"""What benchmarks of questions with lettered options share."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pandas as pd

from locus.evaluation.benchmark import Item, Verdict
from locus.evaluation.benchmarks.file_benchmark import Columns, FileBenchmark
from locus.evaluation.benchmarks.readers import LETTERS, Row
from locus.evaluation.reading.extractors import Extractor
from locus.evaluation.reading.responses import Extracted
from locus.evaluation.statistics import Statistic, accuracy, mean_of, rows_of
from locus.types import Response, View

SELECT = "Please select the correct answer from the options above. \n"
"""VLMEvalKit's instruction, with its trailing space."""

VLMEVALKIT_COLUMNS = ("index", ("image", "image_path"), "question", "A", "B", "answer")
"""Of every VLMEvalKit multiple-choice TSV."""


@dataclass(frozen=True)
class ChoiceBenchmark(FileBenchmark):
    """A benchmark whose answers are letters: judged by an extracted letter, scored by accuracy.

    A new one adds `_item`, and what else differs: columns, prompt, statistics.
    """

    headline: ClassVar[str] = "accuracy"
    letters: ClassVar[str] = "ABCD"
    """What a question can be answered with whose options are only in its picture or text."""
    tsv_columns: ClassVar[Columns] = VLMEVALKIT_COLUMNS

    def judge(self, item: Item, response: Response, view: View, extractor: Extractor) -> Verdict:
        """Right when the letter that the extractor reads is the answer.

        The verdict's columns are the item's groups, its picture, and ``answerable``: 0 where the answer is not among
        the options. ``right_by_text`` is whether it is right when a letter that contradicts its own text is left for
        the text; ``judged`` whether the judge was asked.
        """
        options = item.options or {letter: letter for letter in self.letters}
        read, asked = self._choose(item, response, options, self._letter(response, options, extractor))
        return self._verdict(item, read, answerable=float(item.answer in options), judged=asked)

    def _letter(self, response: Response, options: Mapping[str, str], extractor: Extractor) -> Extracted:
        """The letter that an extractor reads."""
        return extractor.letter(response, options)

    def unit(self) -> Sequence[str]:
        """The questions about one picture: in some benchmarks two or three."""
        return ("picture",)

    def _verdict(self, item: Item, extracted: Extracted, **columns: float) -> Verdict:
        correct, by_text = float(extracted.answer == item.answer), float(text_answer(extracted) == item.answer)
        shown = " ".join(picture.key for picture in item.pictures)
        return Verdict(
            item.item_id, extracted, correct, {**item.groups, "picture": shown, "right_by_text": by_text, **columns}
        )


def text_answer(extracted: Extracted) -> str | None:
    """The answer, by the text where a letter contradicts its own."""
    return extracted.by_text or extracted.answer


def letter_of(row: Row, *columns: str) -> str:
    """The right letter, which some files put in brackets; raises LocusError when the cell is not a letter."""
    answer = row.text(*columns).strip().strip("()")
    if answer not in tuple(LETTERS):
        raise row.error(f"the answer {answer!r} is not a letter from A to {LETTERS[-1]}; fetch the file again")
    return answer


def vlmevalkit_prompt(question: str, options: Mapping[str, str], hint: str = "") -> str:
    """VLMEvalKit's default prompt of a multiple-choice row; without options it is the bare question."""
    lines = [f"Hint: {hint}\n"] if hint else []
    lines.append(f"Question: {question}\n")
    if options:
        lines += ["Options:\n", *(f"{letter}. {text}\n" for letter, text in options.items()), SELECT]
    return "".join(lines)


def vlmevalkit_item(row: Row, groups: Mapping[str, str]) -> Item:
    """The item of a row of a VLMEvalKit multiple-choice TSV."""
    options = row.options()
    prompt = vlmevalkit_prompt(row.text("question"), options, row.optional("hint"))
    pictures = row.pictures("image", "image_path")
    return Item(row.item_id("index"), prompt, letter_of(row, "answer"), pictures, options, groups)


def options_in(text: str) -> dict[str, str]:
    """The options that a text holds, one per line: ``(A) red`` or ``A. red``."""
    return dict(re.findall(r"^[ \t]*\(?([A-J])[.)][ \t]*(.*?)[ \t]*$", text, re.MULTILINE))


def lettered(choices: Sequence[object]) -> dict[str, str]:
    """Listed choices under their letters; a ``(A)`` that a choice begins with is its letter, not its text."""
    marked = [re.match(r"\(([A-J])\)\s*(.*)", str(choice), re.DOTALL) for choice in choices]
    if choices and all(marked):
        return {match[1]: match[2] for match in marked if match}
    return {letter: str(choice) for letter, choice in zip(LETTERS, choices, strict=False)}


def mean_over(column: str, **where: str) -> Statistic:
    """Unweighted mean of the accuracies of a column's values, among the rows of which ``where`` is true.

    NaN where there is no such row, and in a resample that lacks a value altogether.
    """

    def value(table: pd.DataFrame, weights: np.ndarray) -> np.ndarray:
        found = table.loc[rows_of(table, where), column].unique()
        if not len(found):
            return np.full(len(weights), np.nan)
        return mean_of(*(accuracy(**where, **{column: one}) for one in found))(table, weights)

    return Statistic(value, lambda table: rows_of(table, where), frozenset({"correct", column, *where}))
