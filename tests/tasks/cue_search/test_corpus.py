"""The corpus: its split, hash and files, and validation by another strategy."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from locus.errors import LocusError
from locus.images.sources import CocoSource
from locus.tasks.cue_search.audits import audited_corpus
from locus.tasks.cue_search.corpus import Corpus, shortfall
from locus.tasks.cue_search.drawing import build_corpus
from locus.types import CueExample, ImageTable
from tests.support.image_tables import grid_table, strategy
from tests.support.paths import COCO128, CONF


def test_same_seed_same_hash_other_seed_other_hash():
    """A draw that depends on anything but the seed; a hash that does not see the rows."""
    one, again = (build_corpus(grid_table(), strategy("object"), 100, 20, seed=3) for _ in range(2))
    other = build_corpus(grid_table(), strategy("object"), 100, 20, seed=4)
    assert one.content_hash == again.content_hash != other.content_hash
    assert list(one.train) == list(again.train) != list(other.train)


def test_slice_is_a_table_of_the_same_split():
    """A table that is called a sequence, and fails where one is sliced."""
    rows = build_corpus(grid_table(), strategy("object"), 100, 20, seed=3).validation
    assert list(rows[15:3:-4]) == list(rows)[15:3:-4] and rows[:2][1].split == "validation"
    assert len(rows[5:5]) == 0 and len(rows[18:99]) == 2


def test_hash_is_of_the_rows_without_paths():
    """A hash that changes with the place of the images, or that misses a column; written out independently."""
    corpus = build_corpus(grid_table(), strategy("object"), 100, 20, seed=3)
    moved = build_corpus(grid_table(folder="/elsewhere/"), strategy("object"), 100, 20, seed=3)
    assert moved.train[0].image_path.startswith("/elsewhere/") and moved.content_hash == corpus.content_hash
    lines = []
    for split, examples in (("train", corpus.train), ("validation", corpus.validation)):
        for row in map(asdict, examples):
            assert row.pop("split") == split
            del row["image_path"]
            lines.append(json.dumps([split, *row.values()]) + "\n")
    assert corpus.content_hash == hashlib.sha256("".join(lines).encode()).hexdigest()


def test_mixture_is_exact_in_both_splits_and_no_image_is_in_both():
    """A validation image seen in training; 69:31 for 70:30; an example drawn twice."""
    corpus = build_corpus(grid_table(), strategy("object"), 100, 20, seed=0)
    assert corpus.train.counts("bin") == {"small": 30, "tiny": 70}
    assert corpus.validation.counts("bin") == {"small": 6, "tiny": 14}
    assert not set(corpus.train.counts("image_id")) & set(corpus.validation.counts("image_id"))
    assert set(corpus.all_examples.counts("example_id").values()) == {1}
    assert len(corpus.validation.counts("image_id")) == 5  # a sixth of 30 images, not just the few it needs
    assert shortfall(corpus) == ""


def test_rows_agree_with_the_table():
    """Columns that come apart on the way into the corpus."""
    table = grid_table(images=4)
    for example in build_corpus(table, strategy("object"), 40, 5, seed=0).all_examples:
        image, number = int(example.image_id.split("-")[1]), int(example.example_id.rsplit("-", 1)[1])
        x1, y1, x2, y2 = table.boxes[15 * image + number]
        assert example.image_path == f"image-{image}.jpg" and example.bin == ("tiny" if number < 10 else "small")
        assert example.area_ratio == (x2 - x1) * (y2 - y1) / (640 * 480)
        assert example.box[0] <= x1 and example.box[3] >= y2 and example.label == "thing"
        assert example.target.width == 640


def test_too_few_boxes_keep_the_mixture_and_say_so(caplog):
    """A corpus silently smaller, or of another mixture, than asked: 300 tiny allow 428 at 70:30, and a tenth of
    these is validation."""
    corpus = build_corpus(grid_table(small=10), strategy("object"), 99_500, 500, seed=0)
    bins = corpus.train.counts("bin")
    assert corpus.validation.counts("bin") == {"small": 13, "tiny": 29}  # 42
    assert 350 < len(corpus.train) <= 428 - 42
    assert abs(bins["tiny"] - 0.7 * len(corpus.train)) <= 0.5 and bins["tiny"] + 29 >= 280
    assert f"{len(corpus.train)} of 99500 train and 42 of 500 validation" in caplog.text
    assert caplog.text.strip().endswith(shortfall(corpus))


def test_no_validation_when_none_is_asked_for():
    """All examples go to training; the split does not stop at an empty validation set."""
    corpus = build_corpus(grid_table(), strategy("object"), 50, 0, seed=0)
    assert len(corpus.train) == 50 and len(corpus.validation) == 0


@pytest.mark.parametrize(
    ("table", "name", "counts", "says"),
    [
        (grid_table(images=3, tiny=0, small=0), "object", (9, 1), r"empty data set: 0 boxes in 3 images.*crop=random"),
        (grid_table(images=3, tiny=0), "object", (9, 1), r"empty data set.*tiny: 0, small: 15"),
        (grid_table(images=1), "object", (9, 1), "use more images"),
        (grid_table(), "object", (0, 1), r"data\.train_examples=0"),
        (grid_table(), "object", (9, -1), r"data\.validation_examples=-1"),
    ],
)
def test_data_that_makes_no_corpus_is_refused_with_the_remedy(table, name, counts, says):
    """An empty training set that fails an hour later, in the loader."""
    with pytest.raises(LocusError, match=says):
        build_corpus(table, strategy(name), *counts, seed=0)


def test_examples_are_made_on_access():
    """Indexing as a dataset does: negative, numpy integers, and an end."""
    train = build_corpus(grid_table(), strategy("object"), 50, 5, seed=0).train
    assert isinstance(train[0], CueExample) and isinstance(train[0].box, tuple)
    assert train[np.int64(49)] == train[-1] == list(train)[49]
    with pytest.raises(IndexError):
        train[50]


def test_saved_corpus_loads_as_it_was(tmp_path):
    """Rows in another order, or another type, after a round trip; a folder named like a partition of a data set."""
    corpus = replace(
        build_corpus(grid_table(), strategy("object"), 50, 5, seed=7), audits={"source": {"boxes_crowd": 2}}
    )
    folder = tmp_path / "crop=random"
    corpus.save(folder)
    loaded = Corpus.load(folder)
    assert list(loaded.train) == list(corpus.train) and list(loaded.validation) == list(corpus.validation)
    assert loaded.summary() == corpus.summary() == json.loads((folder / "corpus.json").read_text())
    assert sorted(path.name for path in folder.iterdir()) == ["corpus.json", "corpus.parquet"]
    assert pd.read_parquet(folder / "corpus.parquet")["split"].value_counts().to_dict() == {
        "train": 50,
        "validation": 5,
    }


def test_broken_foreign_and_changed_corpora_are_refused(tmp_path):
    """Training on half a corpus, on another table, or on rows that are not those of the recorded hash."""
    good = tmp_path / "good"
    build_corpus(grid_table(), strategy("object"), 50, 5, seed=7).save(good)
    parquet = (good / "corpus.parquet").read_bytes()
    frame = pd.read_parquet(good / "corpus.parquet")

    def broken(name: str) -> Path:
        return Path(shutil.copytree(good, tmp_path / name))

    (broken("truncated") / "corpus.parquet").write_bytes(parquet[: len(parquet) // 2])
    (broken("empty") / "corpus.parquet").write_bytes(b"")
    frame[["example_id"]].to_parquet(broken("foreign") / "corpus.parquet")
    (broken("changed") / "corpus.parquet").unlink()
    build_corpus(grid_table(), strategy("object"), 50, 5, seed=8).save(tmp_path / "other")
    shutil.copy(tmp_path / "other" / "corpus.parquet", tmp_path / "changed" / "corpus.parquet")
    (broken("record") / "corpus.json").write_text("{")
    (broken("half") / "corpus.parquet").unlink()
    for name in ("truncated", "empty", "foreign", "changed", "record", "half", "nowhere"):
        with pytest.raises(LocusError, match="locus.prepare") as error:
            Corpus.load(tmp_path / name)
        assert str(tmp_path / name) in str(error.value)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_full_disk_leaves_the_corpus_that_was_there(tmp_path):
    """A half-written corpus.parquet in place of the old one when the disk is full."""
    old = build_corpus(grid_table(), strategy("object"), 50, 5, seed=7)
    old.save(tmp_path)
    (tmp_path / "corpus.parquet.part").symlink_to("/dev/full")
    with pytest.raises(LocusError, match="No space left"):
        build_corpus(grid_table(), strategy("object"), 50, 5, seed=8).save(tmp_path)
    assert Corpus.load(tmp_path).content_hash == old.content_hash


@pytest.mark.skipif(not COCO128.exists(), reason="needs ../shared/coco128")
@pytest.mark.parametrize("name", ["object", "random"])
def test_real_coco_corpus(name):
    """The real file through every stage: 230 tiny and 214 small objects of 16 px and more, so at most 328 at 70:30."""
    source = CocoSource(str(COCO128 / "instances_train2017.json"), str(COCO128 / "train2017"))
    corpus = audited_corpus(source, strategy(name), 99_500, 500, seed=1)
    assert 300 <= len(corpus.all_examples) <= 328 and len(corpus.validation) == 32
    assert corpus.audits["broken_images"]["dropped"] == 0
    for example in corpus.all_examples:
        x1, y1, x2, y2 = example.box
        assert 0 <= x1 <= x2 - 16 and 0 <= y1 <= y2 - 16 and x2 <= example.width and y2 <= example.height


def all_sizes(images: int = 40) -> ImageTable:
    """Each 640x480 image holds tiny (20 x 20), small (80 x 80) and large (200 x 200) objects."""
    boxes = [[30 * i, 10, 30 * i + 20, 30] for i in range(10)] + [[90 * i, 100, 90 * i + 80, 180] for i in range(5)]
    boxes += [[210 * i, 250, 210 * i + 200, 450] for i in range(3)]
    ids, full = tuple(f"image-{i}" for i in range(images)), np.ones(images, np.int64)
    box_image, stacked = np.repeat(np.arange(images), len(boxes)), np.tile(np.array(boxes, float), (images, 1))
    return ImageTable(ids, ids, 640 * full, 480 * full, box_image, stacked, ("thing",) * len(stacked))


def test_one_validation_set_for_all_training_crops():
    """A table of runs that are validated each on its own crops: large ones on large, tiny ones on tiny."""
    paper = strategy("object")
    corpora = {
        name: build_corpus(all_sizes(), strategy(name), 80, 20, seed=3, validation_strategy=paper)
        for name in ("large", "tiny", "mix_60_40", "object", "random")
    }
    mixtures = {name: corpus.train.counts("bin") for name, corpus in corpora.items()}
    assert mixtures["large"] == {"large": 80} and mixtures["tiny"] == {"tiny": 80}
    assert mixtures["mix_60_40"] == {"small": 32, "tiny": 48}
    first = corpora["large"].validation
    assert first.counts("bin") == {"small": 6, "tiny": 14}
    for corpus in corpora.values():
        assert list(corpus.validation) == list(first)
        assert not set(corpus.train.counts("image_id")) & set(first.counts("image_id"))
    again = build_corpus(all_sizes(), strategy("large"), 80, 20, seed=3, validation_strategy=paper)
    other = build_corpus(all_sizes(), strategy("large"), 80, 20, seed=4, validation_strategy=paper)
    assert again.content_hash == corpora["large"].content_hash
    assert list(other.validation) != list(first) and list(other.train) != list(again.train)


def test_corpora_of_one_strategy_are_those_of_earlier_versions():
    """Other examples than those that a seed gave when there was no strategy of its own for validation."""
    corpus = build_corpus(grid_table(), strategy("object"), 100, 20, seed=3)
    assert corpus.content_hash == "28a4991baf10148ced86be328282250b114294704e3dbe80e3bf1834f14b9749"


def test_training_crops_that_are_none_are_refused_before_the_draw():
    """The message of the validation's strategy, which has enough."""
    with pytest.raises(LocusError, match=r"empty data set.*large: 0"):
        build_corpus(grid_table(), strategy("large"), 80, 20, seed=3, validation_strategy=strategy("object"))


def test_scenes_mixed_has_enough_of_every_size():
    """A column of Table 6 with fewer examples than the others, or without validation ones."""

    def composed(crop: str):
        with initialize_config_dir(str(CONF), version_base="1.3"):
            return compose("prepare", ["data=scenes_mixed", f"crop={crop}"])

    data, crops = composed("object").data, ("large", "mix_60_40", "mix_90_10", "tiny", "hard_negatives")
    table = instantiate(data.source, _convert_="all").table()
    paper = instantiate(composed("object").crop, _convert_="all")
    for name in crops:
        crop = instantiate(composed(name).crop, _convert_="all")
        corpus = build_corpus(table, crop, data.train_examples, data.validation_examples, 1, paper)
        assert len(corpus.train) == data.train_examples >= 1600
        assert corpus.validation.counts("bin") == {"small": 77, "tiny": 179}  # 256 at 70:30
