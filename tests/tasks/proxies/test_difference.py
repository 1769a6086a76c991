"""Spot the difference: exactly the box changes, visibly, in either picture; gold, foil and blind answers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from locus.errors import LocusError
from locus.tasks.cue_search.corpus import Corpus
from locus.tasks.cue_search.cues import generator
from locus.tasks.proxies.difference import Difference, filled, shows
from locus.types import CueExample, Frame, Response, View
from tests.support.models import NoiseImages, cue_task, example

FILE = View(Frame.FILE)
EXAMPLES = [example((60, 40), (8.5, 6, 24, 30.2), "a"), example((30, 20), (2, 2, 12, 18), "b")]
EXAMPLES += [example((60, 40), (30, 10, 50, 22), str(index)) for index in range(20)]
CHANGES = ("replace", "remove", "recolour", "mirror")


class Grey(NoiseImages):
    """Pictures without colours, edges or differences: nothing that is turned, mirrored, filled or replaced shows."""

    def open(self, path: str) -> Image.Image:
        return Image.new("RGB", super().open(path).size, (90, 90, 90))


def corpus() -> Corpus:
    return cue_task(EXAMPLES).corpus


@pytest.mark.parametrize("source", [NoiseImages(), Grey()], ids=["noise", "grey"])
@pytest.mark.parametrize("change", CHANGES)
def test_exactly_the_box_changes_and_shows(change, source):
    """A change outside the box, or in a part of it alone, or none: nothing then answers the question."""
    task = Difference(corpus(), source, change)
    first = set()
    for one in task.examples("validation"):
        original = np.asarray(source.open(one.image_path), dtype=int)
        pictures = [np.asarray(image, dtype=int) for image in task.prompt(one, Frame.FILE).images]
        assert pictures[0].shape == pictures[1].shape == original.shape
        changed = [bool((picture != original).any()) for picture in pictures]
        assert sorted(changed) == [False, True]
        first.add(changed[0])
        rows, columns = np.nonzero((pictures[0] != pictures[1]).any(axis=2))
        x1, y1, x2, y2 = task.box(one).xyxy
        assert (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1) == (x1, y1, x2, y2)
        assert np.abs(pictures[0] - pictures[1]).max() >= 64
    assert first == {False, True}
    again = Difference(corpus(), source, change).prompt(EXAMPLES[0], Frame.FILE).images
    assert [image.tobytes() for image in again] == [
        image.tobytes() for image in task.prompt(EXAMPLES[0], Frame.FILE).images
    ]


def test_each_change_is_its_own():
    """A change that falls back to another one where its own shows."""
    task, one = Difference(corpus(), NoiseImages()), EXAMPLES[0]
    image = task.source.open(one.image_path)
    kept = {}
    for change in CHANGES:
        task.change = change
        kept[change] = np.asarray(task.changed(one, image, generator(0, "x")))[6:31, 8:24]
    original = np.asarray(image)[6:31, 8:24]
    assert (kept["mirror"] == original[:, ::-1]).all()
    assert np.std(kept["remove"]) < np.std(original) and (kept["recolour"].max(2) == original.max(2)).mean() > 0.9
    assert len({part.tobytes() for part in kept.values()}) == 4


def test_filled_by_hand():
    """Weights by distance instead of its inverse, or a line beyond the image."""
    pixels = np.zeros((1, 5, 3), dtype=np.uint8)
    pixels[0, 0], pixels[0, 4] = 40, 120
    assert filled(pixels, (1, 0, 4, 1))[0, :, 0].tolist() == [60, 80, 100]  # a line between the two
    assert filled(pixels, (1, 0, 5, 1))[0, :, 0].tolist() == [40] * 4  # only one side is there
    image = Image.new("RGB", (10, 10))
    one = image.copy()
    one.putpixel((3, 3), (200, 0, 0))
    assert shows(image, one, (3, 3, 4, 4)) and not shows(image, one, (2, 2, 5, 5))
    assert not shows(image, image, (2, 2, 5, 5))


def test_gold_foil_and_blind_answers():
    """A gold box that is not the changed one; a foil or blind answers that earn as much."""
    task, rng = Difference(corpus(), NoiseImages()), np.random.default_rng(0)
    ious = []
    for one in EXAMPLES:
        assert task.grade(one, Response(task.gold(one, FILE)), FILE).total == pytest.approx(1)
        assert task.grade(one, Response(task.foil(one, FILE)), FILE).parts["iou"] == pytest.approx(1 / 7, abs=1e-3)
        ious += [task.grade(one, Response(task.blind(one, FILE, rng)), FILE).parts["iou"] for _ in range(10)]
    assert np.mean(ious) <= task.chance(EXAMPLES) <= 1
    query = task.prompt(EXAMPLES[0], Frame.FILE)
    assert task.outline(EXAMPLES[0], Frame.FILE) == (query.text, [(60, 40), (60, 40)])
    assert task.row(EXAMPLES[0])["target"] == [8, 6, 24, 31]


def test_what_cannot_be_asked():
    """An unknown change that is found in training; a search for another image that never ends."""
    with pytest.raises(LocusError, match=r"task\.change=blur: give one of recolour, mirror, remove, replace"):
        Difference(corpus(), NoiseImages(), "blur")
    one: CueExample = replace(EXAMPLES[0])
    with pytest.raises(LocusError, match="all crops of its split are of this image"):
        Difference(cue_task([one]).corpus, NoiseImages()).prompt(one, Frame.FILE)
