"""LogicVista: reasoning puzzles whose options are in the picture, some with several right letters. Layer 2."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from locus.errors import LocusError
from locus.evaluation.benchmark import Item, Verdict
from locus.evaluation.benchmarks.readers import Row, files_of, read_rows
from locus.evaluation.benchmarks.shared import counted, labelled, marked
from locus.evaluation.judge import Judge
from locus.evaluation.maths.equality import equal
from locus.evaluation.reading.extractors import LOCUS, Extractor
from locus.evaluation.reading.responses import Extracted, Reading
from locus.evaluation.reading.solutions import letters_of
from locus.evaluation.statistics import Statistic, accuracy
from locus.types import Response, View

SKILLS = ("inductive", "deductive", "numerical", "spatial", "mechanical")
UNSCORABLE = "unscorable"


@dataclass(frozen=True)
class LogicVista:
    """448 questions; ``path`` is VLMEvalKit's TSV, Hugging Face parquet, or the official dataset.json with ``images``.

    One row has neither question nor answer: it is asked nothing and left out, or, with ``unscorable=true``, kept as a
    wrong answer among the 448, as VLMEvalKit has it. Officially a model extracts the letters; here a rule does.
    """

    path: str
    images: str = ""
    unscorable: bool = False
    judge_model: Judge | None = None
    rows: int | None = 447
    name: str = "logicvista"

    @property
    def headline(self) -> str:
        return "accuracy_judge" if self.judge_model else "accuracy_rule"

    def items(self) -> Iterator[Item]:
        """One item a row, the bare question."""
        file = files_of(Path(self.path))[0]
        rows = self._official(file) if file.suffix == ".json" else self._table()
        scorable = (row for row in rows if self.unscorable or row.optional("answer").strip())
        return counted((self._item(row) for row in scorable), self.path, self.name, self.rows)

    def _item(self, row: Row) -> Item:
        skill = row.optional("skill")
        if skill[:1] == "[":
            skill = ",".join(str(one) for one in row.listed("skill"))
        answer = row.optional("answer").strip() or UNSCORABLE
        # What is empty cannot be asked; such a row is only here to be wrong.
        question = row.text("question") if answer != UNSCORABLE else row.optional("question", "-")
        pictures = row.pictures("image", "image_path", "imagename")
        number = row.optional("index") or row.item_id("id")
        return Item(number, question, answer, pictures, groups={"skill": skill.lower()})

    def _table(self) -> Iterator[Row]:
        return read_rows(Path(self.path), ("question", "answer", "skill", ("image", "image_path")), self.images)

    def _official(self, file: Path) -> Iterator[Row]:
        """The official file is an object of rows, its keys their names (``v1_0``)."""
        try:
            found = json.loads(file.read_text(encoding="utf-8")).items()
            rows = [{"index": key, **cells} for key, cells in found]
        except (OSError, ValueError, AttributeError, TypeError) as error:
            raise LocusError(f"{file}: is no LogicVista dataset.json ({error}); fetch the file again") from None
        for position, cells in enumerate(rows):
            yield Row(file, position + 1, position, cells, Path(self.images or file.parent))

    def judge(self, item: Item, response: Response, view: View, extractor: Extractor) -> Verdict:
        """The set of letters must be the gold one; VLMEvalKit reads nothing without a judge: the same for both."""
        gold = str(item.answer)
        if gold == UNSCORABLE:
            nothing = Response("", finished=False)
            return marked(item, nothing, Extracted(None, Reading.NONE), False, self.judge_model)
        letters = letters_of(gold)
        read = LOCUS.letters(response, item.options) if letters else LOCUS.value(response)
        right = letters_of(read.answer or "") == letters if letters else equal(read.answer or "", gold)
        return marked(item, response, read, right, self.judge_model)

    def statistics(self) -> Mapping[str, Statistic]:
        """Over all rows and by skill."""
        each = {f"accuracy_{skill}": accuracy(skill=skill) for skill in SKILLS}
        return labelled({"accuracy": accuracy()} | each, self.judge_model)

    def unit(self) -> Sequence[str]:
        """Each row by itself."""
        return ()
