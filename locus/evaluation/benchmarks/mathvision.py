"""MATH-V (MathVision): competition problems with pictures. Layer 2."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from locus.evaluation.benchmark import Item, Verdict
from locus.evaluation.benchmarks.readers import LETTERS, Row, read_rows
from locus.evaluation.benchmarks.shared import counted, labelled, marked
from locus.evaluation.judge import Judge
from locus.evaluation.reading.extractors import Extractor
from locus.evaluation.reading.solutions import DECIMALS
from locus.evaluation.statistics import Statistic, accuracy
from locus.types import Response, View

INSTRUCTION = (
    'Please solve the problem step by step and put your answer in one "\\boxed{}". If it is a multiple choice '
    'question, only one letter is allowed in the "\\boxed{}".\n'
)
TAG = re.compile(r"\s*<image\d*>")
"""Stands for pictures that were merged into one; left in, it could meet a policy's own image token."""


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

    def judge(self, item: Item, response: Response, view: View, extractor: Extractor) -> Verdict:
        """A choice by its letter or its value, a free answer by `equal`; ``vlmevalkit`` is its rule without a judge."""
        read, right = extractor.solve(response, item.options, str(item.answer), DECIMALS)
        return marked(item, response, read, right, self.judge_model)

    def statistics(self) -> Mapping[str, Statistic]:
        """Over all rows, the choices, and the free answers."""
        kinds = {f"accuracy_{kind}": accuracy(kind=kind) for kind in ("choice", "free")}
        return labelled({"accuracy": accuracy()} | kinds, self.judge_model)

    def unit(self) -> Sequence[str]:
        """Each row by itself."""
        return ()
