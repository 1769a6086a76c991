"""OCRBench (v1): does the response contain the text that is asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from locus.evaluation.benchmark import Item, Verdict
from locus.evaluation.benchmarks.file_benchmark import FileBenchmark
from locus.evaluation.benchmarks.readers import Row
from locus.evaluation.reading.extractors import LOCUS, VLMEVALKIT, Extractor
from locus.evaluation.reading.responses import Extracted
from locus.evaluation.statistics import Statistic, accuracy, by_column
from locus.types import Response, View

HANDWRITTEN_MATHS = "Handwritten Mathematical Expression Recognition"
CATEGORIES = (
    *(f"{kind} Text Recognition" for kind in ("Regular", "Irregular", "Artistic", "Non-Semantic")),
    *("Handwriting Recognition", "Digit String Recognition", "Scene Text-centric VQA", "Doc-oriented VQA"),
    *("Key Information Extraction", HANDWRITTEN_MATHS),
)
RECOGNITION = CATEGORIES[:6]
"""Which tables give as one: text recognition, 300 of the 1,000."""


@dataclass(frozen=True)
class OCRBench(FileBenchmark):
    """1,000 questions with several accepted texts each; ``path`` is VLMEvalKit's TSV or Hugging Face parquet."""

    name: str = "ocrbench"
    rows: int | None = 1000

    headline: ClassVar[str] = "accuracy"
    columns: ClassVar = (("image", "image_path"), "question", "answer", ("category", "question_type"))

    def _item(self, row: Row) -> Item:
        category = row.text("category", "question_type")
        if row.optional("dataset") == "HME100k":
            category = HANDWRITTEN_MATHS
        answers = row.listed("answer") if row.text("answer")[:1] == "[" else [row.text("answer")]
        if not all(str(answer).strip() for answer in answers):
            raise row.error("an accepted answer is empty, and would be found in anything; fetch the file again")
        golds, pictures = tuple(str(answer) for answer in answers), row.pictures("image", "image_path")
        groups = {"category": category, "picture": pictures[0].key}
        groups["kind"] = "recognition" if category in RECOGNITION else category
        return Item(row.item_id("index"), row.text("question"), golds, pictures, groups=groups)

    def judge(self, item: Item, response: Response, view: View, extractor: Extractor) -> Verdict:
        """Hits in what follows the thoughts and in the whole text; ``correct`` is the latter for ``vlmevalkit``.

        The whole text is what the two evaluation kits search: thinking aloud makes hits likelier.
        """
        maths = item.groups["category"] == HANDWRITTEN_MATHS
        golds = item.answer if isinstance(item.answer, tuple) else (str(item.answer),)

        def hit(read: Extracted) -> float:
            return float(contains(read.answer or "", golds, maths))

        read = extractor.text(response)
        columns = {"full_response": hit(VLMEVALKIT.text(response)), "final_span": hit(LOCUS.text(response))}
        return Verdict(item.item_id, read, hit(read), {**item.groups, **columns})

    def statistics(self) -> Mapping[str, Statistic]:
        """Both in percent, a tenth of the hits that OCRBench counts, and by category; ``accuracy`` is the extractor's
        own: the final span for ``locus``, as the kit has it, the full response, for ``vlmevalkit``."""
        parts = {"": accuracy(), "_text_recognition": accuracy(kind="recognition")}
        parts |= {f"_{name.lower().replace(' ', '_')}": accuracy(category=name) for name in CATEGORIES}
        of_columns = {
            f"{column}{part}": by_column(column, score)
            for column in ("final_span", "full_response")
            for part, score in parts.items()
        }
        return {"accuracy": accuracy(), **of_columns}

    def unit(self) -> Sequence[str]:
        """The questions about one picture."""
        return ("picture",)


def contains(text: str, golds: Sequence[str], maths: bool) -> bool:
    """Whether any gold text is in it: of formulas case counts and spaces do not, of other text the other way round."""

    def plain(one: str) -> str:
        if maths:
            return one.strip().replace("\n", " ").replace(" ", "")
        return one.lower().strip().replace("\n", " ")

    return any(plain(gold) in plain(text) for gold in golds)
