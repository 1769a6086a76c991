"""Asks a policy the items of a benchmark: greedy by default, answered as they come, each picture encoded once.

Questions about the same pictures share the keys and values of all up to the last picture (`policy.continuous`); a
prompt is still the one that the chat template makes, token for token.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Protocol, cast

import torch

from locus.errors import LocusError
from locus.evaluation.benchmark import Item, Questions
from locus.evaluation.predictions import Prediction, PredictionFile, prompt_digest
from locus.evaluation.shown import Keys, Remembered, keys_of, processed
from locus.files.progress import Progress
from locus.policy.continuous import ContinuousDecoder
from locus.policy.inference import inference_policy
from locus.policy.prompts import PictureInputs, PromptBuilder
from locus.policy.vlm import VLM, VisionFeatures
from locus.types import Completion, Prompt, Sampling

REMEMBERED = 65_536
"""Image tokens whose features are kept for later questions about the same pictures: about 1 GB for 7 B parameters, and
0.2 GB for the pictures themselves, which are kept likewise."""


@dataclass(frozen=True, eq=False)
class Asked:
    """An item as a policy is asked it. The item's pictures are not in it."""

    item_id: str
    prompt: Prompt
    pictures: Keys
    """Equal ones share their features, and what is computed of the prompt up to the last picture."""
    digest: str
    """Of the prompt's text."""
    place: int
    """Among the items that it was asked with."""


class Evaluator:
    """A policy with what its prompts are made by.

    Args:
        policy: any; it is put into evaluation mode.
        builder: makes the prompts.
        sampling: temperature 0 is greedy.
        token_budget: tokens whose keys and values are held at a time, of prompts and completions.
        instruction: behind every prompt, on a line of its own; empty for none.
        seed: of the random numbers, where the temperature is not 0; they are an item's own, by its id.
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
        self._features = self._remembered_features(())

    def predict(self, items: Iterable[Item], shown: Sequence[Keys] = ()) -> Iterator[Prediction]:
        """Predictions as they are made; ``batch`` is the item's place among these.

        Args:
            items: they are read, and their pictures processed, some ahead of what is answered.
            shown: `keys_of` all items, in order, where they are known: pictures that come again are kept.

        Raises LocusError for what cannot be asked, once what was asked before it is answered.
        """
        policy, failures = inference_policy(self.policy), list[LocusError]()
        self._features = self._remembered_features(shown)

        def asked() -> Iterator[Asked]:
            try:
                yield from self.asked(items, shown)
            except LocusError as error:
                failures.append(error)

        for one, completion in self._answers(asked(), policy):
            yield self._prediction(one, completion)
        if failures:
            raise failures[0]

    def asked(self, items: Iterable[Item], shown: Sequence[Keys] = ()) -> Iterator[Asked]:
        """The items as the policy is asked them, pictures processed ahead; raises LocusError for what cannot be."""
        merged = self.builder.processor.image_processor.merge_size**2

        def image_tokens(inputs: PictureInputs) -> int:
            return int(inputs.grids.prod(-1).sum()) // merged

        kept = Remembered(self.remembered, image_tokens, shown)
        for place, (item, inputs) in enumerate(processed(items, self._inputs, kept)):
            text = item.asked(self.instruction)
            prompt = self.builder.prompt(item.item_id, inputs, text)
            tokens = prompt.length + self.sampling.max_new_tokens
            if tokens > self.token_budget:
                raise LocusError(
                    f"item {item.item_id} and its completion have {tokens} tokens, the budget is {self.token_budget}: "
                    "raise token_budget, or lower pixels.max_pixels or sampling.max_new_tokens"
                )
            yield Asked(item.item_id, prompt, keys_of(item), prompt_digest(text), place)

    def ask(self, item: Item) -> Asked:
        """One item as the policy is asked it."""
        return next(self.asked([item]))

    def batches(self, items: Iterable[Item]) -> Iterator[list[Asked]]:
        """Items in their order, as many at a time as fit the budget when padded, prompts and completions."""
        batch: list[Asked] = []
        longest = 0
        for asked in self.asked(items):
            tokens = asked.prompt.length + self.sampling.max_new_tokens
            if batch and (len(batch) + 1) * max(longest, tokens) > self.token_budget:
                yield batch
                batch, longest = [], 0
            batch.append(asked)
            longest = max(longest, tokens)
        if batch:
            yield batch

    def complete(self, batch: Sequence[Asked], policy: VLM) -> list[Prediction]:
        """The responses to one batch of `batches`; policy: the `inference_policy`, as now."""
        answers = sorted(self._answers(batch, policy), key=lambda answer: answer[0].place)
        return [self._prediction(one, completion) for one, completion in answers]

    def _answers(self, asked: Iterable[Asked], policy: VLM) -> Iterator[tuple[Asked, Completion]]:
        """Each with its completion, as they are finished."""
        open_ones: dict[int, Asked] = {}
        latest = 0

        def stream() -> Iterator[tuple[Prompt, Hashable]]:
            nonlocal latest
            for number, one in enumerate(asked):
                open_ones[number], latest = one, one.place
                yield one.prompt, one.pictures

        def vision(prompt: Prompt, pictures: Hashable) -> VisionFeatures:
            return self._vision(prompt, cast(Keys, pictures), latest)

        decoder = ContinuousDecoder(policy, self.sampling, self.token_budget, self.seed, vision)
        for number, completion in decoder.run(stream()):
            yield open_ones.pop(number), completion

    def _prediction(self, asked: Asked, completion: Completion) -> Prediction:
        # A template may open the thoughts; without the tag, cut thoughts would be read as an answer.
        text = asked.prompt.opened + self.builder.decode(completion.token_ids)
        facts = completion.finished, len(completion.token_ids), asked.digest, str(self.policy.frame)
        size = asked.prompt.processed_size if asked.pictures else None
        return Prediction(asked.item_id, text, *facts, size, asked.place)

    def vision(self, asked: Asked) -> VisionFeatures:
        """Features of one item's pictures, in a call of their own: the same to the last bit in any batch."""
        return self._vision(asked.prompt, asked.pictures, asked.place)

    @torch.no_grad()
    def _vision(self, prompt: Prompt, pictures: Keys, place: int) -> VisionFeatures:
        features = self._features.get(pictures)
        if features is None:
            features = self.policy.vision_features([prompt])[0]
        self._features.put(pictures, features, place)
        return features

    def _remembered_features(self, shown: Sequence[Keys]) -> Remembered[VisionFeatures]:
        return Remembered(self.remembered, lambda features: len(features.embeddings), shown)

    def _inputs(self, item: Item) -> PictureInputs:
        return self.builder.picture_inputs([picture.open() for picture in item.pictures])


class Asker(Protocol):
    """Whoever answers items: an `Evaluator`, or a served policy."""

    def predict(self, items: Iterable[Item], shown: Sequence[Keys] = ()) -> Iterator[Prediction]:
        """As of `Evaluator`."""


def limited(benchmark: Questions, limit: int | None) -> Iterator[Item]:
    """The benchmark's items, or the first ``limit`` of them."""
    return islice(benchmark.items(), limit)


def evaluate(
    evaluator: Asker,
    benchmark: Questions,
    file: PredictionFile,
    limit: int | None = None,
    shown: Sequence[Keys] = (),
) -> None:
    """Writes the predictions that the file still lacks; shown: `keys_of` all items, where they are known."""
    left = file.left
    chosen = set(left)
    items = (item for place, item in enumerate(limited(benchmark, limit)) if place in chosen)
    progress = Progress(benchmark.name, len(file.ids), done=file.done)
    for prediction in evaluator.predict(items, [shown[place] for place in left] if shown else ()):
        file.write([prediction])
        progress.reach(file.done)
