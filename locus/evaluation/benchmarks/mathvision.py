"""MATH-V (MathVision): competition problems with pictures."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from locus.evaluation.benchmark import Item
from locus.evaluation.benchmarks.free_answers import FreeAnswerBenchmark
from locus.evaluation.benchmarks.readers import LETTERS, Row
from locus.evaluation.reading.extractors import Extractor
from locus.evaluation.reading.option_values import DECIMALS
from locus.evaluation.reading.responses import Extracted
from locus.evaluation.statistics import Statistic, accuracy
from locus.types import Response

INSTRUCTION = (
    'Please solve the problem step by step and put your answer in one "\\boxed{}". If it is a multiple choice '
    'question, only one letter is allowed in the "\\boxed{}".\n'
)
TAG = re.compile(r"\s*<image\d*>")
"""Stands for pictures that were merged into one; left in, it could meet a policy's own image token."""


@dataclass(frozen=True)
class MathVision(FreeAnswerBenchmark):
    """3,040 problems, about half with five choices; testmini, 304 of them, with ``rows=304`` and a name of its own.

    ``path`` is VLMEvalKit's TSV, Hugging Face parquet, or the official test.jsonl with its pictures. The official
    scoring is a rule; ``judge_model`` is what VLMEvalKit has instead.
    """

    name: str = "mathvision"
    rows: int | None = 3040

    columns: ClassVar = ("question", ("choices", "options"), "answer")

    def _item(self, row: Row) -> Item:
        listed = row.listed("choices") or row.listed("options")
        # Of a choice that is only a tag, as of one that is only its letter, the picture shows what it is.
        texts = (TAG.sub("", str(one)).strip() for one in listed)
        options = {letter: text or letter for letter, text in zip(LETTERS, texts, strict=False)}
        answer = row.text("answer").strip()
        if options:
            row.known("the answer", answer, options)
        question = TAG.sub(" ", row.text("question")).strip()
        drawn = all(letter == text for letter, text in options.items())
        lines = "" if drawn else "".join(f"\n({letter}) {text}" for letter, text in options.items())
        groups = {"subject": row.optional("subject") or row.optional("category"), "level": row.optional("level")}
        groups["kind"] = "choice" if options else "free"
        pictures = row.pictures("decoded_image", "image", "image_path")
        number = row.optional("index") or row.item_id("id")
        return Item(number, INSTRUCTION + question + lines, answer, pictures, options, groups)

    def _read(self, item: Item, response: Response, extractor: Extractor) -> tuple[Extracted, bool]:
        return extractor.solve(response, item.options, str(item.answer), DECIMALS)

    def _scores(self) -> Mapping[str, Statistic]:
        """Over all rows, the choices, and the free answers."""
        return {"accuracy": accuracy()} | {f"accuracy_{kind}": accuracy(kind=kind) for kind in ("choice", "free")}
