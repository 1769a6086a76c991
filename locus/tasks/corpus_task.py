"""What tasks over a corpus of crops share: its examples in its order, its images, random numbers of an example's own.

Tasks of one corpus have the same images in the same order, so they can be compared at equal cost.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence, Set
from itertools import islice
from typing import Any, Literal

import numpy as np
from PIL import Image

from locus.errors import LocusError
from locus.images.sources import ImageSource
from locus.tasks.cue_search.corpus import Corpus, CueTable
from locus.tasks.cue_search.cues import generator, open_image
from locus.tasks.order import Order, Uniform, batches, check_pools, whole_parts
from locus.tasks.task import Key, Split, Task
from locus.types import CueExample, Frame, Query, Sample

SftTargets = Literal["gold", "blind"]
TRIES = 1000
"""Draws of an example of another image before all count as of one."""


class CorpusTask(Task[CueExample]):
    """One question about each crop of a corpus, or about the image that it lies in.

    Args:
        corpus: what to train and validate on.
        source: opens its images.
        order: which training examples a step has; by default each once an epoch.
        sft_targets: what supervised training learns: ``gold``, or ``blind``, answers drawn without a look at the
            pictures, which teach the form and nothing else.
    """

    def __init__(
        self,
        corpus: Corpus,
        source: ImageSource,
        order: Order | None = None,
        sft_targets: SftTargets = "gold",
    ) -> None:
        if sft_targets not in ("gold", "blind"):
            raise LocusError(f"task.sft_targets={sft_targets}: give gold or blind")
        self.sft_targets = sft_targets
        self.corpus, self.source, self.order = corpus, source, order or Uniform()
        self.bins = np.array(corpus.train.columns["bin"].to_pylist())

    @abstractmethod
    def query(self, example: CueExample, frame: Frame, image: Image.Image) -> Query:
        """`prompt` of an example whose image is open."""

    # --- What it is -------------------------------------------------------------------------------------------
    def examples(self, split: Split) -> CueTable:
        """Rows of the corpus."""
        return self.corpus.splits[split]

    def prompt(self, example: CueExample, frame: Frame) -> Query:
        """Raises LocusError for an image that is missing, unreadable, or of another size than the corpus says."""
        return self.query(example, frame, open_image(self.source, example))

    def outline(self, example: CueExample, frame: Frame) -> tuple[str, list[tuple[int, int]]]:
        """As `Task.outline`, by a blank image of the size that the corpus says."""
        query = self.query(example, frame, Image.new("RGB", (example.width, example.height)))
        return query.text, [image.size for image in query.images]

    # --- What it is trained on --------------------------------------------------------------------------------
    def target(self, samples: Sequence[Sample]) -> Iterator[str]:
        """Gold targets, or blind answers: the same for an example at every access."""
        if self.sft_targets == "gold":
            yield from self.gold_targets(samples)
            return
        for sample in samples:
            rng = generator(self.corpus.seed, f"{self.name}/blind/{sample.example.example_id}")
            text = self.blind(sample.example, sample.view, rng)
            assert text is not None, "a corpus task has blind answers"
            yield text

    def gold_targets(self, samples: Sequence[Sample]) -> Iterator[str]:
        """For each sample the whole response that is learned where ``sft_targets`` is gold."""
        return (self.gold(sample.example, sample.view) for sample in samples)

    def check(self, count: int, steps: int) -> None:
        """As `Task.check`, by the order's pools."""
        check_pools(self.order, self.bins, count, steps)

    def batches(self, count: int, seed: int) -> Iterator[list[Key]]:
        """By the order."""
        return batches(self.order, self.bins, count, seed)

    def fresh(self, step: int, attempt: int, count: int, seed: int, used: Set[str] = frozenset()) -> list[Key]:
        """In the shares of the step's batch; fewer when a pool of the order runs out.

        None is in ``used``: a prompt's random numbers go by step and id, so it would bring the same rollouts again.
        """
        rng = np.random.default_rng([seed, 1 + step, 1 + attempt])
        permutation = rng.permutation(len(self.corpus.train))
        pools = self.order.pools(self.bins)
        parts = whole_parts(count, self.order.shares(list(pools), step), rng)
        drawn: list[int] = []
        for pool, part in zip(pools.values(), parts, strict=True):
            members = permutation[np.isin(permutation, pool)].tolist()
            fresh = (index for index in members if self.corpus.train[index].example_id not in used)
            drawn += islice(fresh, part)
        return drawn

    # --- What is recorded -------------------------------------------------------------------------------------
    def row(self, example: CueExample) -> Mapping[str, Any]:
        """Image and area bin; a box is of tasks that are answered by one."""
        return {name: getattr(example, name) for name in ("image_id", "image_path", "bin", "area_ratio")}

    def group(self, example: CueExample) -> str:
        """The area bin."""
        return example.bin

    def facts(self) -> Mapping[str, Any]:
        """Hash and audits of the corpus."""
        return {"corpus_hash": self.corpus.content_hash, "audits": self.corpus.audits}


def elsewhere(corpus: Corpus, example: CueExample, rng: np.random.Generator) -> CueExample:
    """A random example of the same split whose crop is of another image; raises LocusError where there is none."""
    examples: Sequence[CueExample] = corpus.splits["train" if example.split == "train" else "validation"]
    for _ in range(TRIES):
        if (other := examples[int(rng.integers(len(examples)))]).image_id != example.image_id:
            return other
    raise LocusError(f"{example.image_path}: all crops of its split are of this image; use data with more images")
