"""Cue rendering: the cue shows the whole box, pixel by pixel, at the size asked for."""

from __future__ import annotations

import numpy as np
import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf
from PIL import Image

from locus.errors import LocusError
from locus.scenes.source import SceneSource
from locus.tasks.cue_search.audits import audited_corpus
from locus.tasks.cue_search.crops import CropStrategy
from locus.tasks.cue_search.cues import PLAIN, ShuffledCue, open_image, render_cue, whole_pixels
from locus.tasks.cue_search.task import CueSearch
from locus.tasks.datamodule import SampleMaker
from locus.tasks.preflight import preflight
from locus.types import CueExample, Frame
from tests.support.models import FAMILIES, builder, cue_task
from tests.support.paths import CONF


def noise(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


def test_cue_is_the_pixels_of_the_box_rounded_outward():
    """A cue that is shifted by a pixel, or that cuts off the border of a fractional box."""
    image = noise(40, 30)
    cue = render_cue(image, (3.2, 4.9, 10.0, 12.1))
    assert np.array_equal(np.asarray(cue), np.asarray(image)[4:13, 3:10])


def test_whole_pixels_by_hand():
    """Float rounding that adds a pixel; a box that leaves its image."""
    boxes = np.array([[1.0, 2.0, 151.00000000000003, 20.0], [-3.0, 0.5, 9.4, 99.0]])
    assert whole_pixels(boxes, np.array([200, 200]), np.array([50, 50])).tolist() == [[1, 2, 151, 20], [0, 0, 10, 50]]


@pytest.mark.parametrize(("scale", "size"), [(1.0, (20, 16)), (2.0, (40, 32)), (0.8, (16, 13)), (0.01, (1, 1))])
def test_scale_is_a_multiple_of_the_crop(scale, size):
    """A cue of no pixels, or one whose aspect is lost."""
    assert render_cue(noise(64, 64), (10, 10, 30, 26), scale).size == size


def test_upscaled_cue_is_the_same_picture():
    """A resize that samples the wrong region: reduced again, a smooth picture must come back."""
    ramp = np.add.outer(np.arange(48) * 2, np.arange(64) * 3).astype(np.uint8)
    image = Image.fromarray(np.stack([ramp] * 3, axis=-1))
    cue = render_cue(image, (8, 8, 40, 40), 2.0).resize((32, 32), Image.Resampling.BOX)
    assert np.abs(np.asarray(cue).astype(int) - np.asarray(image).astype(int)[8:40, 8:40]).max() <= 2


def test_box_without_a_pixel_is_refused():
    """A box outside the image is an error, not an empty cue."""
    with pytest.raises(LocusError, match="no pixel"):
        render_cue(noise(20, 20), (30, 5, 40, 9))


class Folder:
    """A source of two pictures in memory."""

    def open(self, path: str) -> Image.Image:
        return noise(40, 30) if path == "a" else noise(64, 48)


def test_prompts_do_not_depend_on_the_order_of_access():
    """State kept between examples: the first one is the same alone, again, and after the second."""
    rows = [
        CueExample("a-0", "a", "a", 40, 30, (2, 3, 20, 19), 0.2, "large", cue_scale=1.5),
        CueExample("b-0", "b", "b", 64, 48, (1, 1, 9, 9), 0.02, "small"),
    ]
    task = cue_task(rows)
    task.source = Folder()
    (image, cue), (_, second), again = (task.prompt(rows[i], Frame.FILE).images for i in (0, 1, 0))
    assert len(task.examples("train")) == 2 and task.examples("train")[0] == rows[0]
    assert image.size == (40, 30) and cue.size == (27, 24) and second.size == (8, 8)
    assert cue.tobytes() == again[1].tobytes() and image.tobytes() == again[0].tobytes()


def test_an_image_of_another_size_is_refused():
    """Boxes of one picture applied to another of the same name, e.g. a resized copy of the data set."""
    row = CueExample("a-0", "a", "a", 80, 60, (2, 3, 20, 19), 0.1, "large")
    with pytest.raises(LocusError, match=r"image a: is 40x30, the corpus says 80x60"):
        open_image(Folder(), row)
    task = cue_task([row])
    task.source = Folder()
    with pytest.raises(LocusError, match=r"image a: is 40x30"):
        task.prompt(row, Frame.FILE)


# --- Shuffled -------------------------------------------------------------------------------------------------
CROPS = CropStrategy(bins={"all": (0, 1)}, mixture={"all": 1}, min_side=4, scale={}, padding={})
SCENES = SceneSource(12, 128, 128, objects=(4, 7), object_side=(10, 26))


def shuffled(seed: int = 1) -> CueSearch:
    """Scenes whose training cues are shuffled, as ``cue=shuffled``."""
    config = OmegaConf.create({"seed": seed, "cue": OmegaConf.load(CONF / "cue" / "shuffled.yaml")})
    return CueSearch(audited_corpus(SCENES, CROPS, 16, 4, 1), SCENES, cue=instantiate(config.cue))


def test_a_shuffled_cue_is_a_crop_of_another_image():
    """A cue that can be found after all; one that changes between epochs, workers or splits; a seed nothing reads."""
    task, again, other = shuffled(), shuffled(), shuffled(seed=2)
    train, cue = task.examples("train"), task.cues["train"]
    assert isinstance(cue, ShuffledCue)
    crops = {one.example_id: task.prompt(one, Frame.FILE).images[1].tobytes() for one in train}
    assert crops == {one.example_id: again.prompt(one, Frame.FILE).images[1].tobytes() for one in [*train][::-1]}
    assert [crops[one.example_id] for one in train] != [
        other.prompt(one, Frame.FILE).images[1].tobytes() for one in train
    ]
    shown = [cue.other(one) for one in train]
    for one, source in zip(train, shown, strict=True):
        assert source.image_id != one.image_id and source.split == "train"
        assert crops[one.example_id] == PLAIN.picture(source, open_image(SCENES, source)).tobytes()
    assert len({one.example_id for one in shown}) > 8
    for one in task.examples("validation"):
        assert task.prompt(one, Frame.FILE).images[1] == PLAIN.picture(one, open_image(SCENES, one))


def test_only_the_cue_is_shuffled():
    """A target, an image or an instruction that goes with the other crop; a pre-flight that fails."""
    task, plain = shuffled(), CueSearch(shuffled().corpus, SCENES)
    for one in task.examples("train"):
        ours, theirs = task.prompt(one, Frame.FILE), plain.prompt(one, Frame.FILE)
        assert ours.text == theirs.text and ours.images[0] == theirs.images[0] and task.row(one) == plain.row(one)
    family = next(iter(FAMILIES))
    make = SampleMaker(task, builder(family), FAMILIES[family][1])
    report = preflight(task, [make(one) for one in task.examples("train")[:4]], make.builder, make.frame)
    assert report.rewards["gold"] > 0.99 > report.rewards["foil"]
    assert task.corpus.audits["cue"] == {"shuffled": 16}


def test_one_image_cannot_be_shuffled():
    """A search without end, or an example's own image."""
    source = SceneSource(2, 128, 128, objects=(6, 6), object_side=(10, 26))
    corpus = audited_corpus(source, CROPS, 2, 1, 1)
    assert len(corpus.train.counts("image_id")) == 1
    with pytest.raises(LocusError, match=r"cue=shuffled: all examples are of one image"):
        CueSearch(corpus, source, cue=ShuffledCue(1))
