"""BabyVision: what small children see. Officially judged by a model; the rule here is ours, and named so."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from locus.evaluation.benchmark import Item
from locus.evaluation.benchmarks.free_answers import FreeAnswerBenchmark
from locus.evaluation.benchmarks.readers import LETTERS, Row
from locus.evaluation.reading.extractors import LOCUS, Extractor
from locus.evaluation.reading.option_values import MARKED
from locus.evaluation.reading.responses import Extracted
from locus.evaluation.statistics import Statistic, accuracy
from locus.types import Response

INSTRUCTION = "\nThink about the question and give your final answer in \\boxed{Answer} format."
TYPES = ("Fine-grained Discrimination", "Visual Tracking", "Spatial Perception", "Visual Pattern Recognition")
_COUNTS = re.compile(r"\d+(?:\.\d+)?")
_MIXED = re.compile(r"[^\W\d]\d|\d[^\W\d]")


@dataclass(frozen=True)
class BabyVision(FreeAnswerBenchmark):
    """388 questions, with choices or a blank; ``path`` is parquet, or meta_data.jsonl of the official zip."""

    name: str = "babyvision"
    rows: int | None = 388

    columns: ClassVar = ("taskId", "question", "image", "ansType", "choiceAns", "blankAns")

    def _item(self, row: Row) -> Item:
        kind = row.text("ansType")
        options: dict[str, str] = {}
        answer = row.optional("blankAns")
        if kind == "choice":  # by this column alone: a choiceAns of 0 looks like none, and "null" like an answer
            options = dict(zip(LETTERS, (str(one) for one in row.listed("options")), strict=False))
            answer = row.indexed("choiceAns", options)
        elif kind != "blank" or answer in ("", "null"):
            raise row.error(f"ansType {kind} with the answer {answer!r} cannot be scored; fetch the file again")
        lines = "".join(f"\n({letter}) {text}" for letter, text in options.items())
        prompt = row.text("question") + ("\nChoices:" + lines if options else "") + INSTRUCTION
        groups = {"type": row.optional("type"), "subtype": row.optional("subtype"), "kind": kind}
        return Item(row.item_id("taskId"), prompt, answer, row.pictures("image", "image_path"), options, groups)

    def _read(self, item: Item, response: Response, extractor: Extractor) -> tuple[Extracted, bool]:
        """Ours for both extractors, since VLMEvalKit has no rule."""
        if item.options:
            read = LOCUS.letter(response, item.options)
            return read, read.answer == item.answer
        read = LOCUS.value(response)
        return read, same_blank(read.answer or "", str(item.answer), item.prompt)

    def _scores(self) -> Mapping[str, Statistic]:
        """Over all rows and by type."""
        each = {f"accuracy_{name.lower().replace(' ', '_')}": accuracy(type=name) for name in TYPES}
        return {"accuracy": accuracy()} | each


def same_blank(answer: str, gold: str, question: str) -> bool:
    """Gold with digits: the same numbers in the same order, ``(4,7)`` as ``Row 4 Column 7``; else the same letters.

    In any order where the gold is a list and the question asks for "all". Where digits and letters stick together, as
    in ``A3``, the letters count. LaTeX's marks of text are none of the answer.
    """
    answer = MARKED.sub("", answer)
    several = re.search(r"\ball\b", question, re.IGNORECASE) and "," in gold and not gold.lstrip().startswith("(")
    if _MIXED.search(gold) or not _COUNTS.search(gold):
        parts = [
            ["".join(char for char in part.casefold() if char.isalnum()) for part in text.split(",")]
            for text in (answer, gold)
        ]
        return (sorted(parts[0]) == sorted(parts[1])) if several else ("".join(parts[0]) == "".join(parts[1]))
    numbers = [[float(one) for one in _COUNTS.findall(text)] for text in (answer, gold)]
    return sorted(numbers[0]) == sorted(numbers[1]) if several else numbers[0] == numbers[1]
