"""Crops with a look-alike: which labels and sizes are alike, against hand-made images, and the share of them."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from locus.errors import LocusError
from locus.images.sources import CocoSource
from locus.scenes.source import SceneSource
from locus.tasks.cue_search.audits import audited_corpus
from locus.tasks.cue_search.drawing import build_corpus
from locus.tasks.cue_search.hard_negatives import HardNegatives, has_look_alike
from locus.types import ImageTable
from tests.support.paths import COCO128, CONF


@lru_cache
def strategy() -> HardNegatives:
    """The shipped one."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return instantiate(compose("prepare", ["data=coco", "crop=hard_negatives"]).crop, _convert_="all")


def table_of(images: list[list[tuple[str, int, int]]]) -> ImageTable:
    """640x480 images of objects (label, width, height), side by side."""
    boxes, labels, box_image = [], [], []
    for row, objects in enumerate(images):
        for place, (label, width, height) in enumerate(objects):
            boxes.append([60 * place, 10, 60 * place + width, 10 + height])
            labels.append(label)
            box_image.append(row)
    ids, full = tuple(f"image-{i}" for i in range(len(images))), np.ones(len(images), np.int64)
    return ImageTable(
        ids, ids, 640 * full, 480 * full, np.array(box_image), np.array(boxes, dtype=np.float64), tuple(labels)
    )


@pytest.mark.parametrize(
    ("objects", "alike"),
    [
        ([("cow", 20, 20), ("cow", 20, 30), ("dog", 20, 20)], [True, True, False]),
        ([("cow", 20, 20), ("dog", 20, 20)], [False, False]),  # one word differs, and it is the only one
        ([("baseball bat", 20, 20), ("baseball glove", 20, 20)], [False, False]),  # one of two
        ([("dotted red star", 20, 20), ("dotted blue star", 20, 20)], [True, True]),  # one of three
        ([("dotted red star", 20, 20), ("solid blue star", 20, 20)], [False, False]),  # two of three
        ([("red star", 20, 20), ("dotted red star", 20, 20)], [False, False]),  # another number of words
        ([("red dotted star", 20, 20), ("dotted red star", 20, 20)], [False, False]),  # by place
        ([("", 20, 20), ("", 20, 20), (" ", 20, 20)], [False, False, False]),  # unknown is like nothing
        ([("cow", 20, 20), ("cow", 20, 40)], [True, True]),  # 2.0 and 0.5 times the area, bounds included
        ([("cow", 20, 20), ("cow", 20, 41)], [False, False]),
        ([("cow", 20, 20), ("dog", 20, 20), ("pig", 20, 20), ("cow", 20, 20)], [True, False, False, True]),
    ],
)
def test_look_alikes_by_hand(objects, alike):
    """A distractor of another kind or another size, or one missed because others lie between."""
    assert has_look_alike(table_of([objects]), (0.5, 2.0)).tolist() == alike


def test_size_ratio_is_of_the_look_alike_over_the_object():
    """Bounds that are turned round: of 20x20 and 20x60, only the smaller one has a look-alike three times its size."""
    table = table_of([[("cow", 20, 20), ("cow", 20, 60)]])
    assert has_look_alike(table, (2.0, 4.0)).tolist() == [True, False]


def test_a_look_alike_is_in_the_same_image():
    """Every cow of the data set would be a look-alike of every other; an image without boxes shifts the rows."""
    table = table_of([[("cow", 20, 20)], [], [("cow", 20, 20), ("cow", 20, 20)], [("cow", 20, 20)]])
    assert has_look_alike(table, (0.5, 2.0)).tolist() == [False, True, True, False]


def herd(images: int = 40) -> ImageTable:
    """Each image has two tiny cows and two small pigs (hard), a tiny dog and a small cat (not), a cow below 16 px."""
    objects = [("cow", 20, 20), ("pig", 50, 100), ("dog", 20, 20), ("cow", 20, 22), ("pig", 50, 90), ("cat", 50, 90)]
    return table_of([[*objects, ("cow", 15, 20)]] * images)


@pytest.mark.parametrize("share", [1.0, 0.8, 0.5, 0.25])
def test_share_and_mixture_are_exact_in_both_splits(share):
    """A share met by luck, or for tiny cues alone; rows whose bin, label or padding is another stratum's."""
    corpus = build_corpus(herd(), replace(strategy(), share=share), 40, 20, seed=3)
    for examples, count in ((corpus.train, 40), (corpus.validation, 20)):
        assert examples.counts("bin")["tiny"] == pytest.approx(0.7 * count, abs=1) and len(examples) == count
        for name, hard, other in (("tiny", "cow", "dog"), ("small", "pig", "cat")):
            labels = [example.label for example in examples if example.bin == name]
            assert labels.count(hard) == pytest.approx(share * len(labels), abs=1)
            assert labels.count(hard) + labels.count(other) == len(labels)
        for example in examples:
            width, height = example.box[2] - example.box[0], example.box[3] - example.box[1]
            assert example.area_ratio < 0.01 if example.bin == "tiny" else width * height == example.area_ratio * 307200


def test_too_few_look_alikes_are_fewer_examples_and_said(caplog):
    """A share that is silently missed: of 80 tiny cows and 40 tiny dogs, 40 dogs allow 50 of 80 % others, not 120."""
    most = replace(strategy(), share=0.2, mixture={"tiny": 1.0})
    corpus = build_corpus(herd(), most, 200, 0, seed=0)
    assert len(corpus.train) == 50
    assert "50 of 200 train" in caplog.text


def test_audit_counts_the_eligible_ones():
    """A count with the objects that no strategy draws; none where the strategy does not ask."""
    assert strategy().audit(herd(10)) == {"look_alikes": {"eligible": 60, "with_look_alike": 40}}
    assert replace(strategy(), share=0.5).audit(herd(10)) == strategy().audit(herd(10))


def test_without_labels_is_refused_with_the_remedy():
    """An empty data set that says nothing of labels."""
    bare = replace(herd(), labels=("",) * len(herd().labels))
    with pytest.raises(LocusError, match=r"crop=hard_negatives: none of 240 eligible objects.*labels"):
        build_corpus(bare, strategy(), 10, 2, seed=0)


@pytest.mark.parametrize(
    ("change", "says"),
    [({"share": 0.0}, r"crop\.share=0"), ({"share": 1.5}, r"crop\.share=1\.5"), ({"size_ratio": (2, 1)}, "size_ratio"),
     ({"mixture": {"huge": 1.0}}, r"crop\.mixture names huge")],
)  # fmt: skip
def test_values_that_cannot_be_meant_are_refused(change, says):
    """A share of nothing; a subclass that forgets its parent's checks."""
    with pytest.raises(LocusError, match=says):
        replace(strategy(), **change)


def test_scenes_look_alikes_are_the_planted_ones():
    """Against the attributes of the scenes themselves; the pairs that a scene is made of are of one size."""
    source = SceneSource(60, 128, 128, [4, 6], [10, 26], lookalikes=0.7, seed=5)
    found = iter(has_look_alike(source.table(), (0.5, 2.0)))
    hard = 0
    for scene in map(source.scene, range(60)):
        for item in scene.objects:
            sizes = {
                other.size[0] * other.size[1]
                for other in scene.objects
                if sum(a != b for a, b in zip(item.attributes, other.attributes, strict=True)) == 1
            }
            own = item.size[0] * item.size[1]
            assert next(found) == any(0.5 <= size / own <= 2 for size in sizes)
            hard += any(size == own for size in sizes)
    assert hard >= 60 * 2


@pytest.mark.skipif(not COCO128.exists(), reason="needs ../shared/coco128")
def test_real_coco():
    """The real file: of 444 tiny and small objects of 16 px and more, 315 have another of their category."""
    source = CocoSource(str(COCO128 / "instances_train2017.json"), str(COCO128 / "train2017"))
    corpus = audited_corpus(source, strategy(), 99_500, 500, seed=1)
    assert corpus.audits["look_alikes"] == {"eligible": 444, "with_look_alike": 315}
    assert 240 <= len(corpus.all_examples) <= 252
    table = source.table()
    for example in corpus.all_examples:
        row = table.image_id.index(example.image_id)
        assert sum(np.array(table.labels, object)[table.box_image == row] == example.label) > 1
