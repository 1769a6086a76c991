"""What may be wrong with a corpus: duplicate boxes, unreadable images, cues that match elsewhere in their image.

Each audit is a function that returns what it found; `audited_corpus` builds a corpus with all of them.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from PIL import Image

from locus.boxes import iou
from locus.errors import LocusError, number, whole
from locus.files.progress import tracked
from locus.images.sources import LISTED, ImageFiles, ImageSource
from locus.images.tables import drop_images, keep_boxes
from locus.tasks.cue_search.corpus import Corpus
from locus.tasks.cue_search.crops import CropStrategy, pairs_within_images
from locus.tasks.cue_search.drawing import build_corpus
from locus.tasks.cue_search.sharing import shared
from locus.types import CueExample, ImageTable

log = logging.getLogger("locus")

CUE_SIDE = 12
"""The ambiguity audit reduces an image until the crop's short side has this many pixels, at least."""
IMAGE_SIDE = 1024
"""... or until its long side has this many, whichever leaves the image larger; it never enlarges."""
_IMAGE_COLUMNS = ("image_id", "image_path", "width", "height")
MOST_IMAGE_RATIO = 190
"""Of an image's sides: processors refuse one above 200, once its sides are rounded to patches."""
FLAT = 1.0
"""Grey levels: the root mean square contrast below which a region is flat, and correlation says nothing."""


@dataclass(frozen=True)
class AuditSettings:
    """What a corpus is checked for."""

    duplicate_iou: float = 0.95
    """From which two boxes of an image are one; all but the first are left out before the draw."""
    check_images: bool = True
    """Decode every image that the draw uses, leave out the broken ones and draw again, so that the counts and the
    mixture hold. For files only: a generated image cannot be broken."""
    ambiguity_sample: int = 0
    """How many examples to look at for matches elsewhere, only to report them; 0 for none."""
    ambiguity_score: float = 0.9
    """Correlation from which another place is a match."""

    def __post_init__(self) -> None:
        number("audit.duplicate_iou", self.duplicate_iou, 0, 1, above=True)
        whole("audit.ambiguity_sample", self.ambiguity_sample, 0)
        number("audit.ambiguity_score", self.ambiguity_score, -1, 1)


AUDITS = AuditSettings()
"""By default."""


def audited_corpus(
    source: ImageSource,
    strategy: CropStrategy,
    train_examples: int,
    validation_examples: int,
    seed: int,
    *,
    validation_strategy: CropStrategy | None = None,
    audit: AuditSettings = AUDITS,
    leave_out: Callable[[ImageTable], Collection[str]] | None = None,
) -> Corpus:
    """Source -> corpus with its audits.

    Args:
        source, strategy, train_examples, validation_examples, seed, validation_strategy: as in `build_corpus`.
        audit: what is checked.
        leave_out: the source's table -> ids of the images that are not drawn from.

    Raises:
        LocusError: as `build_corpus`, and when every image used is broken.
    """
    whole("data.train_examples", train_examples)
    whole("data.validation_examples", validation_examples, 0)
    table = source.table()
    if leave_out and (ids := set(leave_out(table))):
        table = drop_images(table, ids)
    audits: dict[str, Any] = {}
    duplicate = duplicate_boxes(table, audit.duplicate_iou)
    table = keep_boxes(table, ~duplicate)
    audits["duplicate_boxes"] = {"dropped": int(duplicate.sum()), "least_iou": audit.duplicate_iou}
    audits |= _left_out(source) | dict(strategy.audit(table))
    build = partial(
        build_corpus,
        strategy=strategy,
        train_examples=train_examples,
        validation_examples=validation_examples,
        seed=seed,
        validation_strategy=validation_strategy,
    )
    if isinstance(source, ImageFiles) and audit.check_images:
        corpus, broken = _of_sound_images(table, source, build, apart=validation_strategy is not None)
        audits["broken_images"] = {"dropped": len(broken), "first": list(broken.values())[:LISTED]}
        if broken:
            log.warning("left out: %d images that cannot be used, first %s", len(broken), next(iter(broken.values())))
    else:
        corpus = build(table)
    if audit.ambiguity_sample:
        wanted = audit.ambiguity_sample, audit.ambiguity_score
        audits["ambiguity"] = ambiguity(corpus.all_examples, source, *wanted, seed)
    return replace(corpus, audits=audits)


@shared
def corpus_of(
    source: ImageSource,
    crop: CropStrategy,
    train_examples: int,
    validation_examples: int,
    seed: int,
    corpus: str | None = None,
    validation_crop: CropStrategy | None = None,
    audit: AuditSettings = AUDITS,
) -> Corpus:
    """The corpus of a configuration, with held-out examples: a prepared one, or one that is drawn and audited now.

    Args:
        corpus: the folder that ``python -m locus.prepare`` wrote; None draws one of ``source`` by ``crop``.
        audit: what a corpus drawn now is checked for.
    """
    if corpus is not None:
        examples = Corpus.load(corpus)
        log.info("corpus=%s: crops and their number as prepared; crop and data.*_examples are not used", corpus)
    else:
        whole("data.train_examples", train_examples)
        whole("data.validation_examples", validation_examples)
        sizes = train_examples, validation_examples
        examples = audited_corpus(source, crop, *sizes, seed, validation_strategy=validation_crop, audit=audit)
    if not examples.validation:
        raise LocusError(f"corpus={corpus}: no validation examples; prepare it with some (data.validation_examples)")
    return examples


def _left_out(source: ImageSource) -> dict[str, Any]:
    """What a source of files left out of its table, which is logged; nothing of generated scenes."""
    if not isinstance(source, ImageFiles):
        return {}
    dropped = {name: count for name, count in source.audit.items() if isinstance(count, int) and count}
    if dropped:
        log.warning("left out: %s", ", ".join(f"{name} {count}" for name, count in dropped.items()))
    return {"source": source.audit}


def _of_sound_images(
    table: ImageTable, source: ImageSource, build: Callable[..., Corpus], apart: bool
) -> tuple[Corpus, dict[str, str]]:
    """The corpus that ``build`` makes without broken images, and those found (id -> what is wrong).

    apart: validation has a strategy of its own, and must be the same whatever the training crops are: an image of
    which these alone have found that it is broken stays in the table, and is not trained on.
    """
    broken: dict[str, str] = {}
    sound: set[str] = set()
    untrained: set[str] = set()
    while True:
        corpus = build(table, without=untrained)
        columns = [corpus.all_examples.columns[name].to_pylist() for name in _IMAGE_COLUMNS]
        used = {row[0]: row for row in zip(*columns, strict=True)}
        held_out = set(corpus.validation.columns["image_id"].to_pylist())
        found = broken_images([row for image_id, row in used.items() if image_id not in sound], source)
        dropped = (found.keys() | untrained) & held_out if apart else set(found)
        if not found and not dropped:
            return corpus, broken
        if len(found) == len(used):
            raise LocusError(f"none of the {len(used)} images drawn can be used; {next(iter(found.values()))}")
        sound |= used.keys()
        broken |= found
        untrained = (untrained | found.keys()) - dropped
        table = drop_images(table, dropped) if dropped else table


def duplicate_boxes(table: ImageTable, least_iou: float) -> np.ndarray:
    """[N] bool: the box repeats an earlier one of its image (IoU of at least ``least_iou``), whatever the labels."""
    duplicate = np.zeros(len(table.boxes), dtype=bool)
    for i, j in pairs_within_images(table.box_image):
        duplicate[j] |= iou(table.boxes[i], table.boxes[j]) >= least_iou
    return duplicate


def broken_images(images: Sequence[tuple[str, str, int, int]], source: ImageSource) -> dict[str, str]:
    """Opens and decodes images, all the way: a truncated file has a sound header.

    Args:
        images: (id, path, width, height) as the table says.
        source: opens them.

    Returns:
        Image id -> what is wrong (missing, unreadable, another size, too long), in the order of ``images``.
    """

    def check(row: tuple[str, str, int, int]) -> str:
        _, path, width, height = row
        try:
            size = source.open(path).size
        except LocusError as error:
            return str(error)
        shown = f"image {path}: is {size[0]}x{size[1]}"
        if size != (width, height):
            return f"{shown}, the source's table says {width}x{height}"
        too_long = max(size) > MOST_IMAGE_RATIO * min(size)
        return f"{shown}; its sides' ratio is above {MOST_IMAGE_RATIO}, near what backbones refuse" if too_long else ""

    with ThreadPoolExecutor(os.cpu_count()) as pool:  # decoding leaves Python's lock
        found = list(tracked(pool.map(check, images), "checking images", len(images), "images"))
    return {row[0]: problem for row, problem in zip(images, found, strict=True) if problem}


def ambiguity(
    examples: Sequence[CueExample], source: ImageSource, sample: int, least_score: float, seed: int
) -> dict[str, Any]:
    """Counts, in a random sample of the corpus, cues that have a look-alike elsewhere in their image.

    Args:
        examples: the corpus.
        source: opens the images.
        sample: how many examples to look at.
        least_score: correlation, at most 1, from which another place counts as a match.
        seed: of the sample.

    Returns:
        The numbers of sampled, ambiguous and flat (no contrast, so not scored) cues, and the first ambiguous ones
        with the score and the box (file frame) of the best other place.
    """
    chosen = np.sort(np.random.default_rng(seed).permutation(len(examples))[:sample])
    flat, ambiguous = 0, []
    for index in tracked(chosen, "looking for look-alikes", len(chosen), "examples"):
        example = examples[int(index)]
        match = best_match_elsewhere(source.open(example.image_path), example.box)
        if match is None:
            flat += 1
        elif match[0] >= least_score:
            box = [round(value, 1) for value in match[1]]
            ambiguous.append({"example_id": example.example_id, "score": round(match[0], 4), "box": box})
    return {
        "sampled": len(chosen),
        "ambiguous": len(ambiguous),
        "flat": flat,
        "least_score": least_score,
        "ambiguous_first": ambiguous[:LISTED],
    }


def best_match_elsewhere(
    image: Image.Image, box: tuple[float, float, float, float]
) -> tuple[float, tuple[float, ...]] | None:
    """The place that looks most like the box: highest zero-mean normalised cross-correlation over RGB.

    Places that are displaced from the box by less than half its width and half its height are not elsewhere. A large
    image is reduced first (`CUE_SIDE`, `IMAGE_SIDE`); there, even an exact copy of fine texture scores below 1 unless
    it is displaced by whole pixels of the reduced image, so the audit may miss some. Source of the fast form (FFT and
    running sums): J. P. Lewis, "Fast Normalized Cross-Correlation", 1995.

    Returns:
        Score in [-1, 1] and box (xyxy, file frame); None when the box is flat. A score of -1 where there is no
        other place.
    """
    pixels, (x, y, width, height), factor = _reduced(image, box)
    cue = pixels[y : y + height, x : x + width]
    cue = cue - cue.mean(axis=(0, 1))  # zero mean by channel
    energy = (cue**2).sum()
    if energy < FLAT**2 * cue.size:
        return None
    shape = pixels.shape[:2]
    spectrum = np.fft.rfft2(pixels, axes=(0, 1)) * np.conj(np.fft.rfft2(cue, s=shape, axes=(0, 1)))
    rows, columns = shape[0] - height + 1, shape[1] - width + 1  # places at which the window fits
    correlation = np.fft.irfft2(spectrum.sum(axis=2), s=shape)[:rows, :columns]
    sums = _window_sums(pixels, height, width)  # [rows, columns, 3]
    energies = (_window_sums(pixels**2, height, width) - sums**2 / (height * width)).sum(axis=2)
    scored = energies >= FLAT**2 * cue.size
    score = np.full(correlation.shape, -1.0)
    score[scored] = correlation[scored] / np.sqrt(energies[scored] * energy)
    near_y = np.abs(np.arange(rows) - y) < height / 2
    near_x = np.abs(np.arange(columns) - x) < width / 2
    score[np.ix_(near_y, near_x)] = -1.0
    top, left = np.unravel_index(int(score.argmax()), score.shape)
    place = np.array([left, top, left + width, top + height]) / np.tile(factor, 2)
    return float(min(score[top, left], 1.0)), tuple(place.tolist())


def _reduced(
    image: Image.Image, box: tuple[float, float, float, float]
) -> tuple[np.ndarray, tuple[int, int, int, int], np.ndarray]:
    """The reduced image [height, width, 3] around mean 0, the box in it as whole x, y, width, height, the factors."""
    x1, y1, x2, y2 = box
    factor = min(1.0, max(CUE_SIDE / min(x2 - x1, y2 - y1), IMAGE_SIDE / max(image.size)))
    size = (max(1, round(image.width * factor)), max(1, round(image.height * factor)))
    factors = np.array(size) / np.array(image.size)
    if size != image.size:
        image = image.resize(size, Image.Resampling.BOX)
    pixels = np.asarray(image, dtype=np.float64)
    corners = np.round(np.array(box) * np.tile(factors, 2)).astype(int)
    width, height = np.maximum(corners[2:] - corners[:2], 1)
    x, y = np.minimum(corners[:2], np.array(size) - (width, height))
    return pixels - pixels.mean(axis=(0, 1)), (int(x), int(y), int(width), int(height)), factors


def _window_sums(values: np.ndarray, height: int, width: int) -> np.ndarray:
    """Sums [H - height + 1, W - width + 1, C] over all windows of this size, by running sums."""
    total = np.zeros((values.shape[0] + 1, values.shape[1] + 1, values.shape[2]))
    total[1:, 1:] = values.cumsum(axis=0).cumsum(axis=1)
    return total[height:, width:] - total[:-height, width:] - total[height:, :-width] + total[:-height, :-width]
