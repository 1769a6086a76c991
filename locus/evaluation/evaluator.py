"""Asks a policy the items of a benchmark: greedy by default, batched by tokens, each picture encoded once.

Only the vision tower's features are shared by the questions about a picture: each question is its own row, so that its
prompt is the one that the chat template makes, token for token.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Protocol

import torch

from locus.errors import LocusError
from locus.evaluation.benchmark import Item, Questions
from locus.evaluation.predictions import Prediction, PredictionFile, prompt_digest
from locus.files.progress import Progress
from locus.policy.inference import inference_policy
from locus.policy.prompts import PictureInputs, PromptBuilder
from locus.policy.rollouts import sample_groups
from locus.policy.vlm import VLM, VisionFeatures
from locus.types import Prompt, Sampling

REMEMBERED = 65_536
"""Image tokens whose features are kept for later questions about the same pictures: about 1 GB for 7 B parameters."""


@dataclass(frozen=True, eq=False)
class Asked:
    """An item as a policy is asked it. The item's pictures are not in it."""

    item_id: str
    prompt: Prompt
    pictures: tuple[str, ...]
    """Keys; equal ones share their features."""
    digest: str
    """Of the prompt's text."""


class Evaluator:
    """A policy with what its prompts are made by.

    Args:
        policy: any; it is put into evaluation mode.
        builder: makes the prompts.
        sampling: temperature 0 is greedy.
        token_budget: padded tokens, prompts and completions, of one batch.
        instruction: behind every prompt, on a line of its own; empty for none.
        seed: of the random numbers, where the temperature is not 0.
        remembered: image tokens kept for later questions.
    """

    def __init__(
        self,
        policy: VLM,
        builder: PromptBuilder,
        sampling: Sampling,
        token_budget: int,
        instruction: str = "",
        seed: int = 0,
        remembered: int = REMEMBERED,
    ) -> None:
        self.policy, self.builder, self.sampling = policy.eval(), builder, sampling
        self.token_budget, self.instruction = token_budget, instruction
        self.seed, self.remembered = seed, remembered
        self._processed: tuple[tuple[str, ...], PictureInputs] | None = None
        self._features: OrderedDict[tuple[str, ...], VisionFeatures] = OrderedDict()

    def predict(self, items: Iterable[Item], first_batch: int = 0) -> Iterator[list[Prediction]]:
        """One list per batch, as they are decoded, in the items' order. Raises LocusError for what cannot be asked."""
        policy = inference_policy(self.policy)
        for number, batch in enumerate(self.batches(items), first_batch):
            yield self.complete(batch, number, policy)

    def batches(self, items: Iterable[Item]) -> Iterator[list[Asked]]:
        """Items in their order, as many at a time as the budget holds; where one begins depends on those before."""
        batch: list[Asked] = []
        longest = 0
        for item in items:
            asked = self.ask(item)
            tokens = asked.prompt.length + self.sampling.max_new_tokens
            if tokens > self.token_budget:
                raise LocusError(
                    f"item {item.item_id} and its completion have {tokens} tokens, the budget is {self.token_budget}: "
                    "raise token_budget, or lower pixels.max_pixels or sampling.max_new_tokens"
                )
            if batch and (len(batch) + 1) * max(longest, tokens) > self.token_budget:
                yield batch
                batch, longest = [], 0
            batch.append(asked)
            longest = max(longest, tokens)
        if batch:
            yield batch

    def ask(self, item: Item) -> Asked:
        """The item's prompt; pictures of the item before are not processed again."""
        keys = tuple(picture.key for picture in item.pictures)
        if self._processed is None or self._processed[0] != keys:
            try:
                inputs = self.builder.picture_inputs([picture.open() for picture in item.pictures])
            except LocusError as error:
                raise LocusError(f"item {item.item_id}: {error}") from error
            self._processed = keys, inputs
        text = item.asked(self.instruction)
        prompt = self.builder.prompt(item.item_id, self._processed[1], text)
        return Asked(item.item_id, prompt, keys, prompt_digest(text))

    @torch.no_grad()
    def complete(self, batch: Sequence[Asked], number: int, policy: VLM) -> list[Prediction]:
        """The responses to one batch of `batches`, its number noted in each; policy: the `inference_policy`, as now."""
        prompts = [asked.prompt for asked in batch]
        encoded = policy.encode(prompts, [self.vision(asked) for asked in batch])
        groups = sample_groups(policy, prompts, encoded, 1, self.sampling, self.seed, 0)
        predictions = []
        for asked, (completion,) in zip(batch, groups, strict=True):
            # A template may open the thoughts; without the tag, cut thoughts would be read as an answer.
            text = asked.prompt.opened + self.builder.decode(completion.token_ids)
            facts = completion.finished, len(completion.token_ids), asked.digest, str(self.policy.frame)
            size = asked.prompt.processed_size if asked.pictures else None
            predictions.append(Prediction(asked.item_id, text, *facts, size, number))
        return predictions

    @torch.no_grad()
    def vision(self, asked: Asked) -> VisionFeatures:
        """Features of one item's pictures, in a call of their own: the same to the last bit in any batch."""
        keys = asked.pictures
        if keys not in self._features:
            self._features[keys] = self.policy.vision_features([asked.prompt])[0]
        self._features.move_to_end(keys)
        found = self._features[keys]
        while len(self._features) > 1 and self._tokens() > self.remembered:
            self._features.popitem(last=False)
        return found

    def _tokens(self) -> int:
        return sum(len(features.embeddings) for features in self._features.values())


class Asker(Protocol):
    """Whoever answers items: an `Evaluator`, or a served policy."""

    def predict(self, items: Iterable[Item], first_batch: int = 0) -> Iterator[list[Prediction]]:
        """As of `Evaluator`."""


def limited(benchmark: Questions, limit: int | None) -> Iterator[Item]:
    """The benchmark's items, or the first ``limit`` of them."""
    return islice(benchmark.items(), limit)


def evaluate(evaluator: Asker, benchmark: Questions, file: PredictionFile, limit: int | None = None) -> None:
    """Writes the predictions that the file still lacks."""
    items = islice(limited(benchmark, limit), file.done, None)
    progress = Progress(benchmark.name, len(file.ids), done=file.done)
    for batch in evaluator.predict(items, file.next_batch):
        file.write(batch)
        progress.reach(file.done)
