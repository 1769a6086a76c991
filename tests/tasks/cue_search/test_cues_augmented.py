"""The augmented cue: other pixels, the same region, the same at every access; never in validation."""

from __future__ import annotations

from dataclasses import asdict, replace

import numpy as np
import pyarrow as pa
import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf
from PIL import Image, ImageOps

from locus.errors import LocusError
from locus.tasks.cue_search.corpus import SCHEMA, Corpus, CueTable
from locus.tasks.cue_search.cues import PLAIN, CueAugmentation, VisualCue, render_cue
from locus.tasks.cue_search.task import CueSearch
from locus.tasks.datamodule import SampleMaker, TaskDataModule
from locus.types import CueExample, Frame
from tests.support.paths import CONF

NOTHING = CueAugmentation((1, 1), 0, (1, 1), (1, 1), (1, 1), (0, 0), (0, 0), seed=1)
IMAGE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8))
EXAMPLES = [CueExample(f"a-{i}", "a", "a", 40, 30, (2, 3, 22, 19), 0.2, "large") for i in range(20)]
CUE = render_cue(IMAGE, EXAMPLES[0].box)
SAME = NOTHING(CUE, "")
"""Ranges that change nothing: but for the rounding of a colour wheel of 8 bits."""


class Source:
    """One picture in memory."""

    def open(self, path: str) -> Image.Image:
        return IMAGE


class Cues(SampleMaker):
    """Gives the cue alone."""

    def __call__(self, example: CueExample) -> bytes:
        return self.task.prompt(example, self.frame).images[1].tobytes()


def task_of(cue: VisualCue) -> CueSearch:
    """Two training examples shown by this cue, and two of validation."""
    rows = [asdict(example) for example in EXAMPLES]
    splits = {"train": rows[:2], "validation": rows[2:4]}
    tables = {name: CueTable(pa.Table.from_pylist(part, schema=SCHEMA), name) for name, part in splits.items()}
    return CueSearch(Corpus(**tables, seed=0, asked={"train": 2, "validation": 2}), Source(), cue=cue)


def shipped(seed: int = 1) -> VisualCue:
    """What ``cue=augmented`` is."""
    config = OmegaConf.create({"seed": seed, "cue": OmegaConf.load(CONF / "cue" / "augmented.yaml")})
    return instantiate(config.cue, _convert_="all")


def shown(cue: VisualCue) -> list[bytes]:
    """The cues of all examples."""
    return [cue.picture(example, IMAGE).tobytes() for example in EXAMPLES]


def test_the_default_is_the_crop_itself():
    """A default that leaves a trace: resized, blurred, or anything but the crop's own pixels."""
    plain = instantiate(OmegaConf.load(CONF / "cue" / "visual.yaml"))
    assert plain == PLAIN and shown(plain) == [CUE.tobytes()] * len(EXAMPLES)
    assert np.abs(np.asarray(SAME).astype(int) - np.asarray(CUE)).max() <= 8


def test_a_draw_goes_by_seed_and_example():
    """A draw by order of access, by worker or by epoch; one draw for all examples; a seed that nothing reads."""
    first = shown(shipped())
    assert first == shown(shipped()) and len(set(first)) == len(EXAMPLES)
    assert not set(first) & {*shown(shipped(seed=2)), CUE.tobytes()}
    cue = shipped()
    assert [cue.picture(example, IMAGE).tobytes() for example in EXAMPLES[::-1]] == first[::-1]


def test_the_target_stays():
    """A target box that is mirrored or scaled with the cue."""
    for example in EXAMPLES:
        picture, plain = (task_of(cue).prompt(example, Frame.FILE).images for cue in (shipped(), PLAIN))
        assert picture[0].tobytes() == plain[0].tobytes() == IMAGE.tobytes() and picture[1] != plain[1]
        assert task_of(shipped()).row(example) == task_of(PLAIN).row(example)


def test_each_part_by_itself():
    """A range that no part reads, a factor of the wrong part, a mirror upside down."""
    pixels = np.asarray(CUE).astype(float)
    change = {
        name: np.asarray(replace(NOTHING, **{name: value})(CUE, "a-0")).astype(float)
        for name, value in (
            ("brightness", (0.5, 0.5)), ("contrast", (0, 0)), ("saturation", (0, 0)), ("hue", (0.5, 0.5)),
            ("blur", (2, 2)), ("flip", 1), ("scale", (1.5, 1.5)),
        )
    }  # fmt: skip
    assert np.abs(change["brightness"] - pixels / 2).max() <= 8
    assert change["contrast"].std() < 1 and np.ptp(change["saturation"], axis=2).max() <= 1
    assert np.abs(change["hue"].max(2) - pixels.max(2)).max() <= 3 and np.abs(change["hue"] - pixels).mean() > 30
    assert change["blur"].std() < 0.5 * pixels.std()
    assert np.array_equal(change["flip"], np.asarray(ImageOps.mirror(SAME)))
    assert change["scale"].shape == (24, 30, 3)


def test_a_cue_of_one_pixel():
    """A blur that pads by more than there is, or a size of nothing."""
    assert replace(NOTHING, scale=(0.01, 0.01), blur=(3, 3))(CUE, "a-0").size == (1, 1)


def test_half_are_mirrored():
    """A coin that always falls on one side."""
    half = replace(NOTHING, flip=0.5)
    mirrored = sum(half(CUE, str(i)).tobytes() != SAME.tobytes() for i in range(400))
    assert 150 < mirrored < 250


def test_training_alone_is_augmented():
    """Validation on other pictures than those of all other runs."""
    data = TaskDataModule(Cues(task_of(shipped()), None, Frame.FILE), 2, 2, 1, 0, 0)
    ((one, two),), (validation,) = list(data.train_dataloader()), list(data.val_dataloader())
    assert CUE.tobytes() not in (one, two) and validation == [CUE.tobytes()] * 2
    assert CUE.tobytes() not in data.draw(0, 0, 2)


@pytest.mark.parametrize(
    ("settings", "says"),
    [({"blur": (2, 1)}, "cue.augment.blur=[2, 1]"), ({"hue": (0, 0.6)}, "cue.augment.hue"),
     ({"scale": (0, 1)}, "cue.augment.scale"), ({"flip": 1.5}, "cue.augment.flip=1.5")],
)  # fmt: skip
def test_what_cannot_be_meant_is_refused(settings, says):
    """A range that fails, or does nothing, in the middle of the run."""
    with pytest.raises(LocusError) as caught:
        replace(NOTHING, **settings)
    assert says in str(caught.value)
