"""HallusionBench: yes/no questions about figures, true and altered. Layer 2."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from locus.evaluation.benchmark import Item, Verdict
from locus.evaluation.benchmarks.readers import Row, read_rows
from locus.evaluation.benchmarks.shared import counted
from locus.evaluation.reading.extractors import Extractor
from locus.evaluation.statistics import Statistic, accuracy, all_right, mean_of
from locus.types import Response, View

KEYS = ("category", "subcategory", "visual_input", "set_id", "figure_id", "question_id")
"""What an index such as ``VD_illusion_1_0_0_0`` is made of."""
ANSWERS = {"1": "yes", "0": "no", "yes": "yes", "no": "no"}


@dataclass(frozen=True)
class HallusionBench:
    """The 951 questions with a figure; the other 178 of the official file are left out, as VLMEvalKit does.

    ``path`` is VLMEvalKit's TSV, Hugging Face parquet, or HallusionBench.json (or its folder) with ``images``.
    """

    path: str
    images: str = ""
    suffix: str = ""
    """Behind every question; none in the original."""
    rows: int | None = 951
    name: str = "hallusionbench"

    headline: ClassVar[str] = "aAcc"

    def items(self) -> Iterator[Item]:
        """One item a question with a figure."""
        return counted(self._items(), self.path, self.name, self.rows)

    def _items(self) -> Iterator[Item]:
        official = Path(self.path, "HallusionBench.json")  # samples of responses lie beside it
        path = official if official.is_file() else Path(self.path)
        for row in read_rows(path, ("question", ("answer", "gt_answer")), self.images):
            keys = self._keys(row)
            if keys["visual_input"] == "0":  # no figure is shown, whatever file is named beside it
                continue
            answer = row.text("gt_answer", "answer").strip().lower()
            if answer not in ANSWERS:
                raise row.error(f"the answer {answer!r} is none of {', '.join(ANSWERS)}; fetch the file again")
            # "ocr" is a subcategory of both categories: without the category, groups of both would merge.
            kind = f"{keys['category']}_{keys['subcategory']}"
            groups = {"category": keys["category"], "kind": kind}
            groups |= {"set": keys["set_id"], "figure": keys["figure_id"], "question": keys["question_id"]}
            pictures = row.pictures("image", "image_path", "filename")
            text = row.text("question") + self.suffix
            yield Item("_".join(keys[name] for name in KEYS), text, ANSWERS[answer], pictures, groups=groups)

    def _keys(self, row: Row) -> dict[str, str]:
        """From the columns of the official file, else from the TSV's index."""
        if row.optional("set_id"):
            return {name: row.text(name) for name in KEYS}
        parts = row.text("index").split("_")
        if len(parts) != len(KEYS):
            raise row.error(f"index {row.text('index')} is not like VD_illusion_1_0_0_0; pass HallusionBench.tsv")
        return dict(zip(KEYS, parts, strict=True))

    def judge(self, item: Item, response: Response, view: View, extractor: Extractor) -> Verdict:
        """An unread answer is wrong, and never taken for "no": more than half of the true answers are."""
        read = extractor.yes_no(response)
        said = read.answer or "unread"
        columns = {**item.groups, "truth": str(item.answer), "said": said}
        return Verdict(item.item_id, read, float(said == item.answer), columns)

    def statistics(self) -> Mapping[str, Statistic]:
        """aAcc over questions; fAcc and qAcc over figures and over questions with all of theirs right."""
        parts = (accuracy(), all_right("kind", "set", "figure"), all_right("kind", "set", "question"))
        return {
            **dict(zip(("aAcc", "fAcc", "qAcc"), parts, strict=True)),
            "mean_of_three": mean_of(*parts),
            "aAcc_VD": accuracy(category="VD"),
            "aAcc_VS": accuracy(category="VS"),
        }

    def unit(self) -> Sequence[str]:
        """A set: its figures and questions cross, so no smaller one keeps both kinds of group whole."""
        return ("kind", "set")
