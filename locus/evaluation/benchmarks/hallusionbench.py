"""HallusionBench: yes/no questions about figures, true and altered."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from locus.evaluation.benchmark import Item
from locus.evaluation.benchmarks.file_benchmark import YesNoBenchmark
from locus.evaluation.benchmarks.readers import Row
from locus.evaluation.statistics import Statistic, accuracy, all_right, mean_of

KEYS = ("category", "subcategory", "visual_input", "set_id", "figure_id", "question_id")
"""What an index such as ``VD_illusion_1_0_0_0`` is made of."""
ANSWERS = {"1": "yes", "0": "no", "yes": "yes", "no": "no"}


@dataclass(frozen=True)
class HallusionBench(YesNoBenchmark):
    """The 951 questions with a figure; the other 178 of the official file are left out, as VLMEvalKit does.

    ``path`` is VLMEvalKit's TSV, Hugging Face parquet, or HallusionBench.json (or its folder) with ``images``.
    """

    name: str = "hallusionbench"
    rows: int | None = 951

    headline: ClassVar[str] = "aAcc"
    columns: ClassVar = ("question", ("answer", "gt_answer"))

    def _file(self) -> Path:
        official = Path(self.path, "HallusionBench.json")  # samples of responses lie beside it
        return official if official.is_file() else Path(self.path)

    def _rows(self) -> Iterator[Row]:
        # Without visual input no figure is shown, whatever file is named beside the question.
        return (row for row in super()._rows() if self._keys(row)["visual_input"] != "0")

    def _item(self, row: Row) -> Item:
        keys = self._keys(row)
        answer = row.known("the answer", row.text("gt_answer", "answer").strip().lower(), ANSWERS)
        # "ocr" is a subcategory of both categories: without the category, groups of both would merge.
        kind = f"{keys['category']}_{keys['subcategory']}"
        groups = {"category": keys["category"], "kind": kind}
        groups |= {"set": keys["set_id"], "figure": keys["figure_id"], "question": keys["question_id"]}
        text, pictures = row.text("question") + self.suffix, row.pictures("image", "image_path", "filename")
        return Item("_".join(keys[name] for name in KEYS), text, ANSWERS[answer], pictures, groups=groups)

    def _keys(self, row: Row) -> dict[str, str]:
        """From the columns of the official file, else from the TSV's index."""
        if row.optional("set_id"):
            return {name: row.text(name) for name in KEYS}
        parts = row.text("index").split("_")
        if len(parts) != len(KEYS):
            raise row.error(f"index {row.text('index')} is not like VD_illusion_1_0_0_0; pass HallusionBench.tsv")
        return dict(zip(KEYS, parts, strict=True))

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
