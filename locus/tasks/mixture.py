"""Cue search mixed with ordinary questions: batches of both kinds of prompt, a function of seed and step alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass, fields
from typing import Any, TypeVar

import numpy as np
from torch.utils.data import DataLoader, Dataset, Sampler

from locus.errors import LocusError
from locus.images.sources import ImageSource
from locus.policy.prompts import CueCollator, QuestionCollator
from locus.tasks.cue_search.corpus import Corpus
from locus.tasks.cue_search.dataset import CueDataset
from locus.tasks.cue_search.prompts import THINK_ANSWER
from locus.tasks.datamodule import CueDataModule
from locus.tasks.order import whole_parts
from locus.tasks.questions import ImageQuestion, QuestionSource
from locus.types import QuestionRecord, TrainingPrompt

T = TypeVar("T")


@dataclass(frozen=True)
class QuestionPrompts:
    """Makes a `QuestionRecord` of each question that its source draws.

    ``think``: the prompt asks for ``<think> … </think><answer> … </answer>``, the format that the reward wants.
    """

    source: QuestionSource
    collator: QuestionCollator
    think: bool

    def draw(self, step: int, attempt: int, count: int, used: Set[str] = frozenset()) -> list[QuestionRecord]:
        """See `QuestionSource.draw`; raises LocusError when the processor refuses an image."""
        return [self.record(question) for question in self.source.draw(step, attempt, count, used)]

    def record(self, question: ImageQuestion) -> QuestionRecord:
        """One question -> its prompt with the answer."""
        try:
            pictures = self.collator.picture_inputs([question.image])
        except LocusError as error:
            raise LocusError(f"{question.image_path}: {error}") from error
        text = f"{question.text}\n{THINK_ANSWER}" if self.think else question.text
        prompt = self.collator.prompt(question.question_id, pictures, text)
        return QuestionRecord(
            **{field.name: getattr(prompt, field.name) for field in fields(prompt)},
            question=question.text,
            answer=question.answer,
            image_path=question.image_path,
        )


def interleaved(first: Sequence[T], second: Sequence[T]) -> list[T]:
    """Both in their order, each spread evenly, so that every mini-batch has its share of both."""
    placed = [((place + 0.5) / len(part), part[place]) for part in (first, second) for place in range(len(part))]
    return [item for _, item in sorted(placed, key=lambda entry: entry[0])]


class NumberedSteps(Sampler[tuple[int, list[int]]]):
    """The batches of another sampler with the number of their step."""

    def __init__(self, batches: Sampler[list[int]], start: int):
        self.batches, self.start = batches, start

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[tuple[int, list[int]]]:
        return enumerate(self.batches, self.start)


@dataclass(frozen=True, eq=False)
class MixedSteps(Dataset[list[TrainingPrompt]]):
    """Whole batches: item (step, rows) has the cue-search prompts of these rows and ``count`` questions of the step."""

    cues: CueDataset
    collator: CueCollator
    questions: QuestionPrompts
    count: int

    def __getitem__(self, key: tuple[int, list[int]]) -> list[TrainingPrompt]:
        step, rows = key
        cues = self.collator([self.cues[row] for row in rows])
        return interleaved(cues, self.questions.draw(step, 0, self.count))


class MixedDataModule(CueDataModule):
    """As `CueDataModule`, but a share of each training step's prompts are ordinary questions; validation is cue search.

    Args:
        corpus, source, collator: of cue search.
        prompts_per_step: B, of both kinds.
        questions: draws the questions.
        share: of each step's prompts that are questions, between 0 and 1; rounded to whole prompts.
        think: see `QuestionPrompts`.
        others: see `CueDataModule`.

    Raises:
        LocusError: a share that leaves a step without questions, or without cue search; a first step's questions that
            cannot be had.
    """

    def __init__(
        self,
        corpus: Corpus,
        source: ImageSource,
        collator: CueCollator,
        prompts_per_step: int,
        questions: QuestionSource,
        share: float,
        think: bool,
        **others: Any,
    ):
        valid = isinstance(share, int | float) and 0 < share < 1
        self.share, self.count = share, round(share * prompts_per_step) if valid else 0
        if not 0 < self.count < prompts_per_step:
            raise LocusError(
                f"mix.share={share} of trainer.prompts_per_step={prompts_per_step}: give a share between 0 and 1 that "
                "leaves a step at least one question and one cue; mix=none is cue search alone"
            )
        super().__init__(corpus, source, collator, prompts_per_step - self.count, **others)
        self.questions = QuestionPrompts(questions, QuestionCollator(collator.processor, collator.pixels), think)
        self.questions.draw(self.start_step, 0, self.count)  # what is wrong with them shows before the run

    def train_dataloader(self) -> DataLoader[list[TrainingPrompt]]:
        """One batch a step, from ``start_step`` on."""
        steps = NumberedSteps(super().train_dataloader().batch_sampler, self.start_step)
        batches = MixedSteps(self.train, self.collator, self.questions, self.count)
        return DataLoader(batches, batch_size=None, sampler=steps, num_workers=self.workers)

    def draw(self, step: int, attempt: int, count: int, used: Set[str] = frozenset()) -> list[TrainingPrompt]:
        """Fresh prompts for a refill, whatever kind they replace: ``share`` of them questions, rounded by chance."""
        rng = np.random.default_rng([self.seed, step, 1 + attempt])
        cues, asked = whole_parts(count, np.array([1 - self.share, self.share]), rng).tolist()
        return super().draw(step, attempt, cues, used) + self.questions.draw(step, 1 + attempt, asked, used)
