"""What diagnoses share: the protocol, answers judged in one pass, and attention at the answer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import Protocol

import numpy as np
import pandas as pd
import torch

from locus.analysis.attention import attention_maps
from locus.analysis.report import Section
from locus.errors import LocusError
from locus.evaluation.evaluator import Evaluator
from locus.evaluation.items import Benchmark, Item, Verdict
from locus.evaluation.predictions import Prediction
from locus.types import QuestionPrompt

ANSWER_OPENED = "<answer>"
"""What a response writes before its answer; a policy that writes no tags answers at once."""


class Diagnosis(Protocol):
    """One question about what policies do. Built by Hydra from ``conf/analysis/<name>.yaml``."""

    name: str

    def measure(self, evaluator: Evaluator) -> pd.DataFrame:
        """What one policy does: one row an item, column ``item`` tells them apart. Raises LocusError for a benchmark
        that does not say what is needed."""

    def section(self, measured: pd.DataFrame) -> Section:
        """Table and pictures of several policies' rows, told apart by column ``policy``."""


def located(benchmark: Benchmark, limit: int | None) -> list[Item]:
    """The first ``limit`` items that say where their answer is visible; raises LocusError where none does."""
    found = list(islice((item for item in benchmark.items() if item.evidence and item.pictures), limit))
    if not found:
        raise LocusError(
            f"{benchmark.name} does not say where answers are visible: give the official folder of V*Bench, or scenes"
        )
    return found


def answered(
    evaluator: Evaluator, benchmark: Benchmark, items: Iterable[Item]
) -> Iterator[tuple[Item, Prediction, Verdict]]:
    """Every item with the policy's response and its verdict, in order."""
    items = list(items)
    predictions = (one for batch in evaluator.predict(items) for one in batch)
    for item, prediction in zip(items, predictions, strict=True):
        shown = replace(item, processed_size=prediction.size)
        yield item, prediction, benchmark.judge(shown, prediction.response, prediction.finished, "locus")


def kind_of(item: Item) -> str:
    """What an item's scores are told apart by first: its kind, or its category."""
    return next(iter(item.groups.values()), "all")


def before_answer(evaluator: Evaluator, prompt: QuestionPrompt, response: str) -> QuestionPrompt:
    """The prompt and what the response wrote before its answer, so that the answer's first token comes next."""
    place = response.rfind(ANSWER_OPENED)
    if place < 0:
        return prompt
    written = torch.tensor(evaluator.collator.encode(response[: place + len(ANSWER_OPENED)]))
    ids = torch.cat([prompt.input_ids, written])
    types = torch.cat([prompt.mm_token_type_ids, torch.zeros_like(written)])
    return replace(prompt, input_ids=ids, mm_token_type_ids=types)


def maps_at_answer(evaluator: Evaluator, items: Sequence[Item], responses: Sequence[str]) -> Iterator[np.ndarray]:
    """[L, rows, columns] for each item: where the policy looks when it writes its answer's first token."""
    left = iter(responses)
    for batch in evaluator.batches(items):
        yield from attention_maps(
            evaluator.policy, [before_answer(evaluator, asked.prompt, next(left)) for asked in batch]
        )
