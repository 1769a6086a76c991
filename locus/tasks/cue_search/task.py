"""Cue search (LOCUS, arXiv 2606.16586): where in the image is this crop? The answer is a box, rewarded by its IoU."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from PIL import Image

from locus.boxes import to_view
from locus.images.sources import ImageSource
from locus.tasks.answers import box_text, completion_text
from locus.tasks.corpus_task import CorpusTask
from locus.tasks.cue_search.audits import AUDITS, AuditSettings, corpus_of
from locus.tasks.cue_search.corpus import Corpus
from locus.tasks.cue_search.crops import CropStrategy
from locus.tasks.cue_search.cues import PLAIN, Cue
from locus.tasks.cue_search.prompts import PAPER, CuePrompt
from locus.tasks.cue_search.rationales import NO_RATIONALES, Rationales
from locus.tasks.cue_search.reward import BoxReward
from locus.tasks.order import Order
from locus.types import Box, CueExample, Frame, Grade, Query, Response, Sample, View

log = logging.getLogger("locus")

EXACT = 3
"""Decimals of the gold answer: they move a corner by at most 0.002 px of a 4,000 px image, far below 1 % of 16 px."""


def shifted(box: Box) -> Box:
    """The box moved by half its sides, to the right and down."""
    dx, dy = (box.x2 - box.x1) / 2, (box.y2 - box.y1) / 2
    return replace(box, x1=box.x1 + dx, y1=box.y1 + dy, x2=box.x2 + dx, y2=box.y2 + dy)


class CueSearch(CorpusTask):
    """Crops of a corpus, to be found in their images.

    Args:
        corpus, source, order: as of `CorpusTask`.
        reward: of an answered box.
        cue, validation_cue: what the prompts of each split show of their crops.
        rationales: what SFT's targets say before the box.
        prompt: its words.
    """

    name = "cue_search"
    headline = "mean_iou"
    labels = {
        "mean_iou": "mean IoU",
        "acc@0.5": "ACC@0.5",
        "acc@0.75": "ACC@0.75",
        "format": "format",
        "reward": "reward",
    }

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
    ):
        cues = {"train": cue.over(source, corpus.train), "validation": validation_cue.over(source, corpus.validation)}
        audits = {}
        for name, split in (("cue", "train"), ("validation_cue", "validation")):
            if counts := cues[split].audit(corpus.splits[split]):
                audits[name] = counts
                log.info("%s: %s", name, ", ".join(f"{count} {what}" for what, count in counts.items()))
        # Unless it must be another one, for the hash that was checked when it was loaded is not computed again.
        super().__init__(replace(corpus, audits=corpus.audits | audits) if audits else corpus, source, order)
        self.reward, self.cues, self.rationales, self.words = reward or BoxReward(), cues, rationales, prompt

    # --- What it is -------------------------------------------------------------------------------------------
    def query(self, example: CueExample, frame: Frame, image: Image.Image) -> Query:
        """The full image and the cue, or an expression in its place."""
        cue = self.cues[example.split]
        picture = cue.picture(example, image)
        images = (image,) if picture is None else (image, picture)
        return Query(self.words.text(frame, cue.expression(example)), images)

    def grade(self, example: CueExample, response: Response, view: View) -> Grade:
        """The reward of the answered box, read in the frame that the policy speaks."""
        return self.reward.grade(response, view, example.target)

    def gold(self, example: CueExample, view: View) -> str:
        """The true box with decimals."""
        return completion_text(box_text(to_view(example.target, view), EXACT))

    def foil(self, example: CueExample, view: View) -> str | None:
        """The true box shifted by half its sides: a reward that reads another frame does not notice."""
        text = completion_text(box_text(shifted(to_view(example.target, view)), EXACT))
        return text if self.reward.alpha < 1 else None  # a format alone does not know places

    # --- What it is trained on --------------------------------------------------------------------------------
    def target(self, samples: Sequence[Sample]) -> Iterator[str]:
        """Rationale, then the box in whole numbers."""
        rationales = self.rationales.rationales([sample.example for sample in samples])
        for sample, rationale in zip(samples, rationales, strict=True):
            yield completion_text(box_text(to_view(sample.example.target, sample.view)), rationale)

    def check_targets(self) -> None:
        """Raises LocusError when a training example lacks its rationale."""
        self.rationales.check(self.corpus.train)

    # --- What is recorded -------------------------------------------------------------------------------------
    def row(self, example: CueExample) -> Mapping[str, Any]:
        """Image, area bin, expression and true box."""
        row = dict(super().row(example))
        target = row.pop("target")
        return {**row, "expression": self.cues[example.split].expression(example), "target": target}

    def variants(self, example: CueExample, view: View) -> Mapping[str, str]:
        """Whole numbers: the most that a policy which writes integers can earn."""
        return {"rounded to integers": completion_text(box_text(to_view(example.target, view)))}

    def summary(self, grades: Sequence[Grade]) -> dict[str, float]:
        """Mean IoU, accuracy at IoU 0.5 and 0.75, format and reward."""
        ious, count = [grade.parts["iou"] for grade in grades], len(grades)
        return {
            "mean_iou": sum(ious) / count,
            "acc@0.5": sum(iou >= 0.5 for iou in ious) / count,
            "acc@0.75": sum(iou >= 0.75 for iou in ious) / count,
            "format": sum(grade.parts["format"] for grade in grades) / count,
            "reward": sum(grade.total for grade in grades) / count,
        }


def cue_search(
    source: ImageSource,
    crop: CropStrategy,
    train_examples: int,
    validation_examples: int,
    seed: int,
    corpus: str | None = None,
    validation_crop: CropStrategy | None = None,
    audit: AuditSettings = AUDITS,
    **parts: Any,
) -> CueSearch:
    """The task of a configuration, on the corpus of `corpus_of`; ``parts``: see `CueSearch`."""
    examples = corpus_of(source, crop, train_examples, validation_examples, seed, corpus, validation_crop, audit)
    return CueSearch(examples, source, **parts)
