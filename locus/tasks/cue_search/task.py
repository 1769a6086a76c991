"""Cue search (LOCUS, arXiv 2606.16586): where in the image is this crop? The answer is a box, rewarded by its IoU."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from PIL import Image

from locus.boxes import to_view
from locus.images.sources import ImageSource
from locus.tasks.answers import box_text, completion_text
from locus.tasks.box_task import BoxTask, best_blind_iou
from locus.tasks.corpus_task import SftTargets
from locus.tasks.cue_search.corpus import Corpus
from locus.tasks.cue_search.cues import PLAIN, Cue
from locus.tasks.cue_search.expressions import PLACES as PLACE_WORDS
from locus.tasks.cue_search.prompts import PAPER, CuePrompt
from locus.tasks.cue_search.rationales import NO_RATIONALES, Rationales
from locus.tasks.cue_search.reward import BoxReward
from locus.tasks.order import Order
from locus.types import CueExample, Frame, Query, Sample

log = logging.getLogger("locus")

SCALES = np.array([1, 1.25, 1.5, 2, 3, 5])
"""Of the crop's sides: a larger box is a safer guess."""


class CueSearch(BoxTask):
    """Crops of a corpus, to be found in their images.

    Args:
        corpus, source, reward, order, sft_targets: as of `BoxTask`.
        cue, validation_cue: what the prompts of each split show of their crops.
        rationales: what SFT's targets say before the box.
        prompt: its words.
        name: what logs and tables call it, where its cue makes another task of it.
    """

    name = "cue_search"

    def __init__(
        self,
        corpus: Corpus,
        source: ImageSource,
        reward: BoxReward | None = None,
        cue: Cue = PLAIN,
        validation_cue: Cue = PLAIN,
        order: Order | None = None,
        rationales: Rationales = NO_RATIONALES,
        prompt: CuePrompt = PAPER,
        sft_targets: SftTargets = "gold",
        name: str = "cue_search",
    ):
        cues = {"train": cue.over(source, corpus.train), "validation": validation_cue.over(source, corpus.validation)}
        audits = {}
        for key, split in (("cue", "train"), ("validation_cue", "validation")):
            if counts := cues[split].audit(corpus.splits[split]):
                audits[key] = counts
                log.info("%s: %s", key, ", ".join(f"{count} {what}" for what, count in counts.items()))
        # Unless it must be another one, for the hash that was checked when it was loaded is not computed again.
        corpus = replace(corpus, audits=corpus.audits | audits) if audits else corpus
        super().__init__(corpus, source, reward, order, sft_targets)
        self.name, self.cues, self.rationales, self.words = name, cues, rationales, prompt

    # --- What it is -------------------------------------------------------------------------------------------
    def query(self, example: CueExample, frame: Frame, image: Image.Image) -> Query:
        """The full image and the cue, or an expression in its place."""
        cue = self.cues[example.split]
        picture = cue.picture(example, image)
        images = (image,) if picture is None else (image, picture)
        return Query(self.words.text(frame, cue.expression(example)), images)

    def chance(self, examples: Sequence[CueExample]) -> float:
        """Mean IoU of the best policy that knows the crop's size, or the place that an expression names, and no more.

        A crop's size shows in its picture: the answer has the crop's sides, or a multiple of them, at one place. An
        expression may name a ninth of the image: one box for each. What a label says of a box's size, and a rank
        (the left-most) of its place, is not counted. Few examples overstate it.
        """
        named: dict[str, list[int]] = defaultdict(list)
        for index, example in enumerate(examples):
            named[_named_place(self.cues[example.split].expression(example))].append(index)
        told = sum(super(CueSearch, self).chance([examples[i] for i in own]) * len(own) for own in named.values())
        chance = told / len(examples)
        if self.cues[examples[0].split].expression(examples[0]):
            return chance
        targets, sizes = self._arrays(examples)
        sides = targets[:, 2:] - targets[:, :2]
        return max(chance, best_blind_iou(targets, sizes, SCALES[:, None, None] * sides))

    # --- What it is trained on --------------------------------------------------------------------------------
    def gold_targets(self, samples: Sequence[Sample]) -> Iterator[str]:
        """Rationale, then the box in whole numbers."""
        rationales = self.rationales.rationales([sample.example for sample in samples])
        for sample, rationale in zip(samples, rationales, strict=True):
            yield completion_text(box_text(to_view(sample.example.target, sample.view)), rationale)

    def check_targets(self) -> None:
        """Raises LocusError when a training example lacks its rationale."""
        if self.sft_targets == "gold":
            self.rationales.check(self.corpus.train)

    # --- What is recorded -------------------------------------------------------------------------------------
    def row(self, example: CueExample) -> Mapping[str, Any]:
        """Image, area bin, expression and true box."""
        row = dict(super().row(example))
        target = row.pop("target")
        return {**row, "expression": self.cues[example.split].expression(example), "target": target}


def _named_place(expression: str) -> str:
    """The words for a ninth of the image in an expression; empty where there are none."""
    return next((words for row in PLACE_WORDS for words in row if f" {words}" in expression), "")
