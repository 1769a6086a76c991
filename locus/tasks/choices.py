"""Tasks that are answered by one of a few texts: the right one earns 1, whatever else the rest of the answer says."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from locus.errors import number
from locus.images.sources import ImageSource
from locus.tasks.answers import THINK_ANSWER, completion_text, normalised, parse_text
from locus.tasks.corpus_task import CorpusTask, SftTargets
from locus.tasks.cue_search.corpus import Corpus
from locus.tasks.cue_search.cues import generator
from locus.tasks.order import Order
from locus.types import CueExample, Frame, Grade, Query, Response, View


class ChoiceTask(CorpusTask):
    """A question about a crop or its image with ``options`` to choose from, the right one drawn evenly.

    Args:
        corpus, source, order, sft_targets: as of `CorpusTask`.
        alpha: weight of the format.
        seed: of what is drawn for each example.
    """

    headline = "accuracy"
    labels: Mapping[str, str] = {"accuracy": "accuracy", "format": "format", "reward": "reward"}
    question: str
    options: Sequence[str]

    def __init__(
        self,
        corpus: Corpus,
        source: ImageSource,
        alpha: float = 0.1,
        seed: int = 0,
        order: Order | None = None,
        sft_targets: SftTargets = "gold",
    ) -> None:
        super().__init__(corpus, source, order, sft_targets)
        number("task.alpha", alpha, 0, 1)
        self.alpha, self.seed = alpha, seed

    @abstractmethod
    def pictures(
        self, example: CueExample, image: Image.Image, right: int, rng: np.random.Generator
    ) -> tuple[Image.Image, ...]:
        """What is shown so that option number ``right`` is the right one."""

    def right(self, example: CueExample, rng: np.random.Generator) -> int:
        """Which option is right; drawn evenly."""
        return int(rng.integers(len(self.options)))

    def chance(self, examples: Sequence[CueExample]) -> float:
        """One in as many as there are options."""
        return 1 / len(self.options)

    def blind(self, example: CueExample, view: View, rng: np.random.Generator) -> str:
        """Any of the options."""
        return completion_text(self.options[int(rng.integers(len(self.options)))])

    def query(self, example: CueExample, frame: Frame, image: Image.Image) -> Query:
        """The question, and the pictures for the answer drawn."""
        right, rng = self._drawn(example)
        return Query(self.text(), self.pictures(example, image, right, rng))

    def text(self) -> str:
        """The question, and the form of the response."""
        return f"{self.question}\n{THINK_ANSWER}"

    def answer(self, example: CueExample) -> str:
        """The right option."""
        return self.options[self._drawn(example)[0]]

    def grade(self, example: CueExample, response: Response, view: View) -> Grade:
        """(1 - α)·credit + α·format, once both texts are normalised."""
        said = parse_text(response.text, finished=response.finished)
        parts = self.credit("" if said.text is None else normalised(said.text), self.answer(example))
        parts |= {"format": float(said.well_formed)}
        total = (1 - self.alpha) * next(iter(parts.values())) + self.alpha * parts["format"]
        return Grade(total, parts, said.status, {"said": said.text, "correct": parts["accuracy"]})

    def credit(self, said: str, right: str) -> dict[str, float]:
        """Parts of the grade in [0, 1] beside the format, ``accuracy`` among them; the reward counts the first."""
        return {"accuracy": float(said == normalised(right))}

    def gold(self, example: CueExample, view: View) -> str:
        """The right option."""
        return completion_text(self.answer(example))

    def foil(self, example: CueExample, view: View) -> str | None:
        """The option behind the right one; None where only the format is rewarded."""
        if self.alpha == 1:
            return None
        place = self.options.index(self.answer(example))
        return completion_text(self.options[(place + 1) % len(self.options)])

    columns = {"said": str}

    def row(self, example: CueExample) -> Mapping[str, Any]:
        """As of `CorpusTask`, and the right answer."""
        return {**super().row(example), "expected": self.answer(example)}

    def _drawn(self, example: CueExample) -> tuple[int, np.random.Generator]:
        rng = generator(self.seed, f"{self.name}/{example.example_id}")
        return self.right(example, rng), rng
