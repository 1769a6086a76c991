"""MATH-V (MathVision): competition problems with pictures. Layer 2."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from locus.evaluation.benchmark import Extracted, Item, Reading, Verdict
from locus.evaluation.benchmarks.readers import LETTERS, Row, read_rows
from locus.evaluation.benchmarks.shared import counted, labelled, marked, read_by, whole
from locus.evaluation.judge import Judge
from locus.evaluation.maths.equality import equal
from locus.evaluation.reading import vlmevalkit
from locus.evaluation.reading.short import extract_letter, extract_value
from locus.evaluation.statistics import Statistic, accuracy

INSTRUCTION = (
    'Please solve the problem step by step and put your answer in one "\\boxed{}". If it is a multiple choice '
    'question, only one letter is allowed in the "\\boxed{}".\n'
)
TAG = re.compile(r"\s*<image\d*>")
"""Stands for pictures that were merged into one; left in, it could meet a policy's own image token."""
DECIMALS = 2
"""To which the official rule compares numbers."""


@dataclass(frozen=True)
class MathVision:
    """3,040 problems, about half with five choices; testmini, 304 of them, with ``rows=304`` and a name of its own.

    ``path`` is VLMEvalKit's TSV, Hugging Face parquet, or the official test.jsonl with its pictures. The official
    scoring is a rule; ``judge_model`` is what VLMEvalKit has instead.
    """

    path: str
    images: str = ""
    judge_model: Judge | None = None
    rows: int | None = 3040
    name: str = "mathvision"

    @property
    def headline(self) -> str:
        return "accuracy_judge" if self.judge_model else "accuracy_rule"

    def items(self) -> Iterator[Item]:
        """One item a row, with the official prompt."""
        rows = read_rows(Path(self.path), ("question", ("choices", "options"), "answer"), self.images)
        return counted((self._item(row) for row in rows), self.path, self.name, self.rows)

    def _item(self, row: Row) -> Item:
        listed = row.listed("choices") or row.listed("options")
        # Of a choice that is only a tag, as of one that is only its letter, the picture shows what it is.
        texts = (TAG.sub("", str(one)).strip() for one in listed)
        options = {letter: text or letter for letter, text in zip(LETTERS, texts, strict=False)}
        answer = row.text("answer").strip()
        if options and answer not in options:
            raise row.error(f"the answer {answer!r} is none of its {len(options)} choices; fetch the file again")
        question = TAG.sub(" ", row.text("question")).strip()
        drawn = all(letter == text for letter, text in options.items())
        lines = "" if drawn else "".join(f"\n({letter}) {text}" for letter, text in options.items())
        groups = {"subject": row.optional("subject") or row.optional("category"), "level": row.optional("level")}
        groups["kind"] = "choice" if options else "free"
        pictures = row.pictures("decoded_image", "image", "image_path")
        number = row.optional("index") or row.item_id("id")
        return Item(number, INSTRUCTION + question + lines, answer, pictures, options, groups)

    def judge(self, item: Item, response: str, finished: bool, extractor: str) -> Verdict:
        """A choice by its letter or its value, a free answer by `equal`; ``vlmevalkit`` is its rule without a judge."""
        if item.options:
            read = read_by(
                extractor,
                lambda: chosen(item, response, finished),
                lambda: vlmevalkit.extract_letter(response, item.options, finished),
            )
            right = read.answer == item.answer
        else:
            read = read_by(extractor, lambda: extract_value(response, finished), lambda: whole(response))
            decimals = DECIMALS if extractor == "locus" else None
            right = equal(read.answer or "", str(item.answer), decimals)
        return marked(item, response, finished, read, right, self.judge_model)

    def statistics(self) -> Mapping[str, Statistic]:
        """Over all rows, the choices, and the free answers."""
        kinds = {f"accuracy_{kind}": accuracy(kind=kind) for kind in ("choice", "free")}
        return labelled({"accuracy": accuracy()} | kinds, self.judge_model)

    def unit(self) -> Sequence[str]:
        """Each row by itself."""
        return ()


def chosen(item: Item, response: str, finished: bool) -> Extracted:
    """The letter; where none is read but a value is, the letter of the one option of that value."""
    read = extract_letter(response, item.options, finished)
    value = extract_value(response, finished).answer
    if read.answer is not None or not value:
        return read
    letters = [letter for letter, text in item.options.items() if equal(value, text, DECIMALS)]
    return Extracted(letters[0], Reading.OK) if len(letters) == 1 else read
