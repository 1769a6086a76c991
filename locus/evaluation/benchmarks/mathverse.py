"""MathVerse: each problem in versions that move its content from the text into the picture. Layer 2."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from locus.evaluation.benchmark import Item, Verdict
from locus.evaluation.benchmarks.readers import Row, read_rows
from locus.evaluation.benchmarks.shared import counted, labelled, marked
from locus.evaluation.judge import Judge
from locus.evaluation.reading.extractors import Extractor
from locus.evaluation.reading.solutions import letters_of
from locus.evaluation.statistics import Statistic, accuracy, mean_of
from locus.types import Response, View

VERSIONS = ("Text Dominant", "Text Lite", "Vision Intensive", "Vision Dominant", "Vision Only")
_OPTION = re.compile(r"^[ \t]*\(?([A-H])[ \t]*[:.)][ \t]*(.*?)[ \t]*$", re.MULTILINE)


@dataclass(frozen=True)
class MathVerse:
    """788 problems in five versions with a picture; the sixth, Text Only, is left out.

    ``path`` is VLMEvalKit's TSV, or Hugging Face parquet or JSON of testmini. The official scoring is a judge.
    """

    path: str
    images: str = ""
    query: str = "query_cot"
    """Column of the prompt: ``query_cot`` asks for reasoning first, ``query_wo`` does not."""
    judge_model: Judge | None = None
    single: str = "mean"
    """The headline without its ``_rule`` or ``_judge``: mean, or vision_only, as the OpenCompass board has it."""
    rows: int | None = 3940
    name: str = "mathverse"

    @property
    def headline(self) -> str:
        return f"{self.single}_judge" if self.judge_model else f"{self.single}_rule"

    def items(self) -> Iterator[Item]:
        """One item a problem and version."""
        columns = ("problem_index", "problem_version", "question_type", "answer", ("image", "image_path"), self.query)
        rows = read_rows(Path(self.path), columns, self.images)
        shown = (row for row in rows if row.text("problem_version").strip() != "Text Only")
        return counted((self._item(row) for row in shown), self.path, self.name, self.rows)

    def _item(self, row: Row) -> Item:
        version, kind = row.text("problem_version").strip(), row.text("question_type").strip()
        if version not in VERSIONS or kind not in ("multi-choice", "free-form"):
            raise row.error(f"unknown problem_version {version!r} or question_type {kind!r}; fetch the file again")
        # Of Vision Only the question is in the picture; this column has it for the judge, with the options.
        question = row.optional("question_for_eval") or row.optional("question")
        answer, options = row.text("answer").strip(), {}
        if kind == "multi-choice":
            answer, options = _choice(answer, dict(_OPTION.findall(question)))
        groups = {"version": version, "kind": kind, "problem": row.text("problem_index"), "question": question}
        number = row.item_id("sample_index" if row.optional("sample_index") else "index")
        return Item(number, row.text(self.query), answer, row.pictures("image", "image_path"), options, groups)

    def judge(self, item: Item, response: Response, view: View, extractor: Extractor) -> Verdict:
        """Choices by letter or value, free answers by `equal`; ``vlmevalkit``: the whole response is the gold text.

        Two problems have two right letters, which must both be chosen.
        """
        read, right = extractor.quick_match(response, item.options, str(item.answer))
        return marked(item, response, read, right, self.judge_model, item.groups["question"])

    def statistics(self) -> Mapping[str, Statistic]:
        """The mean of the versions, and each of them; ``accuracy`` counts all rows alike."""
        each = {version.lower().replace(" ", "_"): accuracy(version=version) for version in VERSIONS}
        return labelled({"mean": mean_of(*each.values()), "accuracy": accuracy(), **each}, self.judge_model)

    def unit(self) -> Sequence[str]:
        """A problem: its versions are not independent."""
        return ("problem",)


def _choice(answer: str, options: dict[str, str]) -> tuple[str, dict[str, str]]:
    """Answer and options of a choice: ``(C)`` is C, the text of an option its letter, and a value that is none, such as
    ``090°``, a free answer. Without listed options there are bare letters, A to D or to the answer's."""
    answer = answer.strip("()")
    named = [letter for letter, text in options.items() if text == answer]
    letters = letters_of(answer) or (set(named) if len(named) == 1 else set())
    if not letters:
        return answer, {}
    if not letters <= set(options):
        options = {letter: letter for letter in "ABCDEFGH" if letter <= max("D", *letters)}
    return ", ".join(sorted(letters)), options
