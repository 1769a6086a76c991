"""What benchmarks share whose answers a model judges officially: a rule, and a judge beside it where there is one."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

from locus.evaluation.benchmark import Item, Verdict
from locus.evaluation.benchmarks.file_benchmark import FileBenchmark
from locus.evaluation.reading.extractors import Extractor
from locus.evaluation.reading.responses import Extracted, final_span
from locus.evaluation.statistics import Statistic, by_column
from locus.types import Response, View


@dataclass(frozen=True)
class FreeAnswerBenchmark(FileBenchmark):
    """A benchmark of free answers, and of choices among them.

    Each score is ``<name>_rule``, with a judge, who is asked of every response, ``<name>_judge`` too: the two are never
    taken for each other.
    """

    @property
    def headline(self) -> str:
        """The accuracy, by the judge where there is one."""
        return self._by_best("accuracy")

    def judge(self, item: Item, response: Response, view: View, extractor: Extractor) -> Verdict:
        """``correct`` is the judge's mark where there is a judge, else the rule's.

        The judge sees the response from the end of its thoughts on; one that was cut, or ends there, is wrong unasked.
        """
        read, right = self._read(item, response, extractor)
        columns: dict[str, str | float] = {**item.groups, "rule": float(right and read.answer is not None)}
        if self.judge_model is not None:
            gold = str(item.answer)
            gold += f" ({item.options[gold]})" if gold in item.options else ""
            question = item.groups.get("question") or item.prompt
            said = final_span(response)
            asked = response.finished and bool(said.strip())
            equal = asked and self.judge_model.equal(question, gold, said)
            columns |= {"judge": float(equal), "judged": float(asked)}
        return Verdict(item.item_id, read, float(columns[self._kinds[0]]), columns)

    def statistics(self) -> Mapping[str, Statistic]:
        """Every score by the judge and by the rule."""
        scores = self._scores()
        return {f"{name}_{kind}": by_column(kind, score) for kind in self._kinds for name, score in scores.items()}

    @abstractmethod
    def _read(self, item: Item, response: Response, extractor: Extractor) -> tuple[Extracted, bool]:
        """What the rule reads, and whether that is right."""

    @abstractmethod
    def _scores(self) -> Mapping[str, Statistic]:
        """Scores by name, without ``_rule`` and ``_judge``."""

    @property
    def _kinds(self) -> tuple[str, ...]:
        return ("judge", "rule") if self.judge_model else ("rule",)

    def _by_best(self, score: str) -> str:
        return f"{score}_{self._kinds[0]}"
