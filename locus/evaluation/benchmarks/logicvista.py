"""LogicVista: reasoning puzzles whose options are in the question or the picture, some with several right letters."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from locus.errors import LocusError
from locus.evaluation.benchmark import Item, Verdict
from locus.evaluation.benchmarks.formats import files_of
from locus.evaluation.benchmarks.free_answers import FreeAnswerBenchmark
from locus.evaluation.benchmarks.readers import LETTERS, Row
from locus.evaluation.maths.equality import equal
from locus.evaluation.reading.extractors import LOCUS, Extractor
from locus.evaluation.reading.problems import letters_of
from locus.evaluation.reading.responses import Extracted
from locus.evaluation.statistics import Statistic, accuracy
from locus.types import Response, View

SKILLS = ("inductive", "deductive", "numerical", "spatial", "mechanical")
UNSCORABLE = "unscorable"


@dataclass(frozen=True)
class LogicVista(FreeAnswerBenchmark):
    """448 questions; ``path`` is VLMEvalKit's TSV, Hugging Face parquet, or the official dataset.json with ``images``.

    One row has neither question nor answer: it is asked nothing and left out, or, with ``unscorable=true``, kept as a
    wrong answer among the 448, as VLMEvalKit has it. Officially a model extracts the letters; here a rule does.
    """

    name: str = "logicvista"
    rows: int | None = 447
    unscorable: bool = False

    columns: ClassVar = ("question", "answer", "skill", ("image", "image_path"))

    def _rows(self) -> Iterator[Row]:
        file = files_of(self._file())[0]
        rows = self._official(file) if file.suffix == ".json" else super()._rows()
        return (row for row in rows if self.unscorable or row.optional("answer").strip())

    def _item(self, row: Row) -> Item:
        skill = row.optional("skill")
        if skill[:1] == "[":
            skill = ",".join(str(one) for one in row.listed("skill"))
        answer = row.optional("answer").strip() or UNSCORABLE
        # What is empty cannot be asked; such a row is only here to be wrong.
        question = row.text("question") if answer != UNSCORABLE else row.optional("question", "-")
        pictures = row.pictures("image", "image_path", "imagename")
        number = row.optional("index") or row.item_id("id")
        options = listed_options(question)
        if not letters_of(answer) <= set(options):
            options = {}
        return Item(number, question, answer, pictures, options, {"skill": skill.lower()})

    def _official(self, file: Path) -> Iterator[Row]:
        """The official file is an object of rows, its keys their names (``v1_0``)."""
        try:
            found = json.loads(file.read_text(encoding="utf-8")).items()
            rows = [{"index": key, **cells} for key, cells in found]
        except (OSError, ValueError, AttributeError, TypeError) as error:
            raise LocusError(f"{file}: is not a LogicVista dataset.json ({error}); fetch the file again") from None
        for position, cells in enumerate(rows):
            yield Row(file, position + 1, position, cells, Path(self.images or file.parent))

    def judge(self, item: Item, response: Response, view: View, extractor: Extractor) -> Verdict:
        """As of every free answer; nothing answers the row that asks nothing."""
        return super().judge(item, Response("") if item.answer == UNSCORABLE else response, view, extractor)

    def _read(self, item: Item, response: Response, extractor: Extractor) -> tuple[Extracted, bool]:
        """All right letters and no other; ours for both extractors, since VLMEvalKit reads nothing without a judge."""
        gold = str(item.answer)
        if letters := letters_of(gold):
            read = LOCUS.letters(response, item.options)
            return read, letters_of(read.answer or "") == letters
        read = LOCUS.value(response)
        return read, equal(read.answer or "", gold)

    def _scores(self) -> Mapping[str, Statistic]:
        """Over all rows and by skill."""
        return {"accuracy": accuracy()} | {f"accuracy_{skill}": accuracy(skill=skill) for skill in SKILLS}


def listed_options(text: str) -> dict[str, str]:
    """The options that a question lists behind each other: ``(A) True (B)False``, ``(A) (B)``; else none."""
    start = max(text.rfind("(A)"), 0)
    marks = [match for letter in LETTERS if (match := re.compile(rf"\({letter}\)").search(text, start))]
    ends = [match.start() for match in marks[1:]] + [len(text)]
    letters = LETTERS[: len(marks)]
    if len(marks) < 2 or "".join(match[0][1] for match in marks) != letters or ends != sorted(ends):
        return {}
    texts = [text[match.end() : end].strip(" ,;\n\t") for match, end in zip(marks, ends, strict=True)]
    return {letter: said or letter for letter, said in zip(letters, texts, strict=True)}
