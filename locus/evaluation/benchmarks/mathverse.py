"""MathVerse: each problem in versions that move its content from the text into the picture."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from locus.errors import LocusError
from locus.evaluation.benchmark import Item
from locus.evaluation.benchmarks.free_answers import FreeAnswerBenchmark
from locus.evaluation.benchmarks.readers import Row, read_rows
from locus.evaluation.reading.extractors import Extractor
from locus.evaluation.reading.problems import letters_of
from locus.evaluation.reading.responses import Extracted
from locus.evaluation.statistics import Statistic, accuracy, mean_of
from locus.types import Response

VERSIONS = ("Text Dominant", "Text Lite", "Vision Intensive", "Vision Dominant", "Vision Only")
_OPTION = re.compile(r"^[ \t]*\(?([A-H])[ \t]*[:.)][ \t]*(.*?)[ \t]*$", re.MULTILINE)


@dataclass(frozen=True)
class MathVerse(FreeAnswerBenchmark):
    """788 problems in five versions with a picture; the sixth, Text Only, is left out.

    ``path`` is VLMEvalKit's TSV, or Hugging Face parquet or JSON of testmini. The official scoring is a judge.
    """

    name: str = "mathverse"
    rows: int | None = 3940
    query: str = "query_cot"
    """Column of the prompt: ``query_cot`` asks for reasoning first, ``query_wo`` does not."""
    single: str = "mean"
    """The headline without its ``_rule`` or ``_judge``: mean, or vision_only, as the OpenCompass board has it."""

    columns: ClassVar = ("problem_index", "problem_version", "question_type", "answer", ("image", "image_path"))

    def __post_init__(self) -> None:
        if self.single not in self._scores():
            raise LocusError(f"single={self.single} of {self.name}: pass one of {', '.join(self._scores())}")

    @property
    def headline(self) -> str:
        """As chosen by ``single``."""
        return self._by_best(self.single)

    def _rows(self) -> Iterator[Row]:
        rows = read_rows(self._file(), (*self.columns, self.query), self.images)
        return (row for row in rows if row.text("problem_version").strip() != "Text Only")

    def _item(self, row: Row) -> Item:
        version = row.known("problem_version", row.text("problem_version").strip(), VERSIONS)
        kind = row.known("question_type", row.text("question_type").strip(), ("multi-choice", "free-form"))
        # Of Vision Only the question is in the picture; this column has it for the judge, with the options.
        question = row.optional("question_for_eval") or row.optional("question")
        answer = row.text("answer").strip()
        options: dict[str, str] = {}
        if kind == "multi-choice":
            answer, options = _choice(answer, dict(_OPTION.findall(question)))
        groups = {"version": version, "kind": kind, "problem": row.text("problem_index"), "question": question}
        number = row.item_id("sample_index" if row.optional("sample_index") else "index")
        return Item(number, row.text(self.query), answer, row.pictures("image", "image_path"), options, groups)

    def _read(self, item: Item, response: Response, extractor: Extractor) -> tuple[Extracted, bool]:
        return extractor.quick_match(response, item.options, str(item.answer))

    def _scores(self) -> Mapping[str, Statistic]:
        """The mean of the versions, and each of them; ``accuracy`` counts all rows alike."""
        each = {version.lower().replace(" ", "_"): accuracy(version=version) for version in VERSIONS}
        return {"mean": mean_of(*each.values()), "accuracy": accuracy(), **each}

    def unit(self) -> Sequence[str]:
        """A problem: its versions are not independent."""
        return ("problem",)


def _choice(answer: str, options: dict[str, str]) -> tuple[str, dict[str, str]]:
    """Answer and options of a choice: ``(C)`` is C, the text of an option its letter, and another value, such as
    ``090°``, a free answer. Without listed options there are bare letters, A to D or to the answer's."""
    answer = answer.strip("()")
    named = [letter for letter, text in options.items() if text == answer]
    letters = letters_of(answer) or (set(named) if len(named) == 1 else set())
    if not letters:
        return answer, {}
    if not letters <= set(options):
        options = {letter: letter for letter in "ABCDEFGH" if letter <= max("D", *letters)}
    return ", ".join(sorted(letters)), options
