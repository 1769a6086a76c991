"""BabyVision: what small children see. Officially judged by a model; the rule here is ours, and named so. Layer 2."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from locus.evaluation.benchmark import Item, Verdict
from locus.evaluation.benchmarks.readers import LETTERS, Row, read_rows
from locus.evaluation.benchmarks.shared import counted, labelled, marked
from locus.evaluation.judge import Judge
from locus.evaluation.reading.extractors import LOCUS, Extractor
from locus.evaluation.statistics import Statistic, accuracy
from locus.types import Response, View

INSTRUCTION = "\nThink about the question and give your final answer in \\boxed{Answer} format."
TYPES = ("Fine-grained Discrimination", "Visual Tracking", "Spatial Perception", "Visual Pattern Recognition")
_COUNTS = re.compile(r"\d+(?:\.\d+)?")
_MIXED = re.compile(r"[^\W\d]\d|\d[^\W\d]")


@dataclass(frozen=True)
class BabyVision:
    """388 questions, with choices or a blank; ``path`` is parquet, or meta_data.jsonl of the official zip."""

    path: str
    images: str = ""
    judge_model: Judge | None = None
    rows: int | None = 388
    name: str = "babyvision"

    @property
    def headline(self) -> str:
        return "accuracy_judge" if self.judge_model else "accuracy_rule"

    def items(self) -> Iterator[Item]:
        """One item a row, with the official prompt."""
        columns = ("taskId", "question", "image", "ansType", "choiceAns", "blankAns")
        rows = read_rows(Path(self.path), columns, self.images)
        return counted((self._item(row) for row in rows), self.path, self.name, self.rows)

    def _item(self, row: Row) -> Item:
        kind = row.text("ansType")
        options: dict[str, str] = {}
        answer = row.optional("blankAns")
        if kind == "choice":  # by this column alone: a choiceAns of 0 looks like none, and "null" like an answer
            options = dict(zip(LETTERS, (str(one) for one in row.listed("options")), strict=False))
            number = row.text("choiceAns")
            if not number.isdecimal() or int(number) >= len(options):
                raise row.error(f"choiceAns {number} is none of its {len(options)} options; fetch the file again")
            answer = LETTERS[int(number)]
        elif kind != "blank" or answer in ("", "null"):
            raise row.error(f"ansType {kind} with the answer {answer!r} cannot be scored; fetch the file again")
        lines = "".join(f"\n({letter}) {text}" for letter, text in options.items())
        prompt = row.text("question") + ("\nChoices:" + lines if options else "") + INSTRUCTION
        groups = {"type": row.optional("type"), "subtype": row.optional("subtype"), "kind": kind}
        return Item(row.item_id("taskId"), prompt, answer, row.pictures("image", "image_path"), options, groups)

    def judge(self, item: Item, response: Response, view: View, extractor: Extractor) -> Verdict:
        """By the rule, and by the judge if there is one; VLMEvalKit has no rule, so both extractors are ours."""

        read = LOCUS.letter(response, item.options) if item.options else LOCUS.value(response)
        right = read.answer == item.answer
        if not item.options:
            right = same_blank(read.answer or "", str(item.answer), item.prompt)
        return marked(item, response, read, right, self.judge_model)

    def statistics(self) -> Mapping[str, Statistic]:
        """Over all rows and by type."""
        each = {f"accuracy_{name.lower().replace(' ', '_')}": accuracy(type=name) for name in TYPES}
        return labelled({"accuracy": accuracy()} | each, self.judge_model)

    def unit(self) -> Sequence[str]:
        """Each row by itself."""
        return ()


def same_blank(answer: str, gold: str, question: str) -> bool:
    """Gold with digits: the same numbers in the same order, ``(4,7)`` as ``Row 4 Column 7``; else the same letters.

    In any order where the gold is a list and the question asks for "all". Where digits and letters stick together, as
    in ``A3``, the letters count.
    """
    several = re.search(r"\ball\b", question, re.IGNORECASE) and "," in gold and not gold.lstrip().startswith("(")
    if _MIXED.search(gold) or not _COUNTS.search(gold):
        parts = [
            ["".join(char for char in part.casefold() if char.isalnum()) for part in text.split(",")]
            for text in (answer, gold)
        ]
        return (sorted(parts[0]) == sorted(parts[1])) if several else ("".join(parts[0]) == "".join(parts[1]))
    numbers = [[float(one) for one in _COUNTS.findall(text)] for text in (answer, gold)]
    return sorted(numbers[0]) == sorted(numbers[1]) if several else numbers[0] == numbers[1]
