"""Corpus and audits: the split, the hash, the files, and that each audit finds what is planted and nothing else."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import asdict, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from PIL import Image

from locus.errors import LocusError
from locus.images.sources import CocoSource
from locus.tasks.cue_search.audits import ambiguity, audited_corpus, best_match_elsewhere, duplicate_boxes
from locus.tasks.cue_search.corpus import Corpus, build_corpus, shortfall
from locus.tasks.cue_search.crops import CropStrategy
from locus.types import CueExample, ImageTable

CONF = Path(__file__).parents[1] / "conf"
COCO128 = Path(__file__).parents[2] / "shared" / "coco128"


@lru_cache
def strategy(name: str) -> CropStrategy:
    """A shipped crop strategy."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return instantiate(compose("prepare", ["data=coco", f"crop={name}"]).crop, _convert_="all")


def grid_table(images: int = 30, tiny: int = 10, small: int = 5, folder: str = "") -> ImageTable:
    """Each 640x480 image holds this many tiny (20 x 20) and small (80 x 80) objects."""
    boxes = [[30 * i, 10, 30 * i + 20, 30] for i in range(tiny)]
    boxes += [[90 * i, 100, 90 * i + 80, 180] for i in range(small)]
    ids = tuple(f"image-{i}" for i in range(images))
    full = np.full(images, 640), np.full(images, 480)
    box_image = np.repeat(np.arange(images), len(boxes))
    stacked = np.tile(np.array(boxes, dtype=float).reshape(-1, 4), (images, 1))
    paths = tuple(f"{folder}{i}.jpg" for i in ids)
    return ImageTable(ids, paths, *full, box_image, stacked, ("thing",) * len(stacked))


def test_same_seed_same_hash_other_seed_other_hash():
    """A draw that depends on anything but the seed; a hash that does not see the rows."""
    one, again = (build_corpus(grid_table(), strategy("object"), 100, 20, seed=3) for _ in range(2))
    other = build_corpus(grid_table(), strategy("object"), 100, 20, seed=4)
    assert one.content_hash == again.content_hash != other.content_hash
    assert list(one.train) == list(again.train) != list(other.train)


def test_hash_is_of_the_rows_without_paths():
    """A hash that changes with the place of the images, or that misses a column; written out independently."""
    corpus = build_corpus(grid_table(), strategy("object"), 100, 20, seed=3)
    moved = build_corpus(grid_table(folder="/elsewhere/"), strategy("object"), 100, 20, seed=3)
    assert moved.train[0].image_path.startswith("/elsewhere/") and moved.content_hash == corpus.content_hash
    lines = []
    for split, examples in (("train", corpus.train), ("validation", corpus.validation)):
        for row in map(asdict, examples):
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
def test_data_that_makes_no_corpus_is_refused_with_the_mend(table, name, counts, says):
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


def test_duplicate_boxes_are_found_within_an_image_only():
    """The same box of two images taken for a duplicate; two different boxes taken for one; all copies dropped."""
    boxes = np.array([[0, 0, 100, 100], [0, 0, 100, 96], [0, 0, 100, 94], [0, 0, 100, 100], [0, 0, 100, 100]], float)
    table = ImageTable(("a", "b"), ("a", "b"), np.array([200, 200]), np.array([200, 200]),
                       np.array([0, 0, 0, 0, 1]), boxes, ("x", "y", "x", "x", "x"))  # fmt: skip
    assert duplicate_boxes(table, 0.95).tolist() == [False, True, True, True, False]  # 0.96; 94/96; 1.0
    assert duplicate_boxes(table, 0.97).tolist() == [False, False, True, True, False]


def noise(width: int, height: int, seed: int = 0) -> np.ndarray:
    """Smooth coloured noise, as pictures are smooth: no two patches alike."""
    small = np.random.default_rng(seed).integers(0, 256, (height // 4, width // 4, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


def test_planted_look_alike_is_found_where_it_is_and_a_unique_cue_is_not_flagged():
    """An audit that finds the target itself, or misses a copy at an odd offset, brighter and of other contrast."""
    pixels = noise(320, 240).copy()
    box, other = (40.0, 50.0, 64.0, 80.0), (201, 133)
    score, _ = best_match_elsewhere(Image.fromarray(pixels), box)
    assert score < 0.7
    patch = pixels[50:80, 40:64].astype(float)
    pixels[other[1] : other[1] + 30, other[0] : other[0] + 24] = (0.7 * patch + 20).astype(np.uint8)
    score, place = best_match_elsewhere(Image.fromarray(pixels), box)
    assert score > 0.9 and np.abs(np.array(place) - [201, 133, 225, 163]).max() <= 1.5


def test_match_in_a_large_image_is_told_in_pixels_of_the_file():
    """The place of a look-alike given in the reduced image's pixels."""
    pixels = np.asarray(Image.fromarray(noise(400, 300)).resize((2000, 1500), Image.Resampling.BICUBIC)).copy()
    pixels[900:1100, 1500:1750] = pixels[100:300, 50:300]
    score, place = best_match_elsewhere(Image.fromarray(pixels), (50.0, 100.0, 300.0, 300.0))
    assert score > 0.9 and np.abs(np.array(place) - [1500, 900, 1750, 1100]).max() <= 3


def test_best_match_equals_correlation_by_loops():
    """An FFT that wraps around, a transposed axis, or wrong running sums: every window by loops, at full size."""
    pixels = noise(40, 32, seed=5)
    image, (x, y, w, h) = Image.fromarray(pixels), (5, 7, 12, 14)
    cue = pixels[y : y + h, x : x + w].astype(float)
    cue -= cue.mean(axis=(0, 1))
    best = (-2.0, ())
    for top in range(32 - h + 1):
        for left in range(40 - w + 1):
            if abs(top - y) < h / 2 and abs(left - x) < w / 2:
                continue
            window = pixels[top : top + h, left : left + w].astype(float)
            window -= window.mean(axis=(0, 1))
            value = (window * cue).sum() / np.sqrt((window**2).sum() * (cue**2).sum())
            best = max(best, (value, (left, top, left + w, top + h)))
    score, place = best_match_elsewhere(image, (x, y, x + w, y + h))
    assert score == pytest.approx(best[0], abs=1e-9) and place == pytest.approx(best[1])


class Pictures:
    """A source of pictures in memory."""

    def __init__(self, pictures: dict[str, np.ndarray]) -> None:
        self.pictures = pictures

    def open(self, path: str) -> Image.Image:
        return Image.fromarray(self.pictures[path])


def test_ambiguity_counts_planted_flat_and_unique_cues():
    """A share of ambiguous cues that means nothing: one copied, one flat, two unique."""
    copied, flat = noise(200, 160, seed=1).copy(), np.full((160, 200, 3), 90, np.uint8)
    copied[100:120, 150:170] = copied[20:40, 30:50]
    source = Pictures({"copied": copied, "flat": flat, "u": noise(200, 160, seed=2), "v": noise(200, 160, seed=3)})
    rows = [CueExample(f"{p}-0", p, p, 200, 160, (30, 20, 50, 40), 0.0125, "small") for p in source.pictures]
    found = ambiguity(rows, source, sample=10, least_score=0.9, seed=0)
    assert (found["sampled"], found["ambiguous"], found["flat"]) == (4, 1, 1)
    assert found["ambiguous_first"] == [{"example_id": "copied-0", "score": 1.0, "box": [150, 100, 170, 120]}]


@pytest.fixture
def coco_folder(tmp_path) -> Path:
    """Twelve 160x120 pictures of 12 boxes each, one broken in each of four ways, and their annotations."""
    images, rows = [], []
    for i in range(12):
        images.append({"id": i, "file_name": f"{i}.png", "width": 160, "height": 120})
        Image.fromarray(noise(160, 120, seed=i)).save(tmp_path / f"{i}.png")
        for k in range(12):  # 16 x 16 is 1.3 % of the image
            bbox = [40 * (k % 4), 40 * (k // 4), 16 + k, 16]
            rows.append({"id": 12 * i + k, "image_id": i, "bbox": bbox, "category_id": 1})
    (tmp_path / "0.png").unlink()
    (tmp_path / "1.png").write_text("no image")
    (tmp_path / "2.png").write_bytes((tmp_path / "3.png").read_bytes()[:5000])
    Image.new("RGB", (120, 160)).save(tmp_path / "4.png")
    data = {"images": images, "annotations": rows, "categories": [{"id": 1, "name": "patch"}]}
    (tmp_path / "instances.json").write_text(json.dumps(data))
    return tmp_path


def test_broken_images_are_counted_and_replaced_by_others(coco_folder):
    """A run that dies on a truncated picture, a mixture or a count that shrinks with each broken file."""
    source = CocoSource(str(coco_folder / "instances.json"), str(coco_folder))
    small = replace(strategy("object"), mixture={"small": 1.0})
    corpus = audited_corpus(source, small, 80, 10, seed=0)
    used = set(corpus.all_examples.counts("image_id"))
    assert len(corpus.train) == 80 and len(corpus.validation) == 10
    assert used <= {f"coco-{i}" for i in (3, *range(5, 12))}
    audit = corpus.audits["broken_images"]
    assert audit["dropped"] == 4 == len(audit["first"])
    for name, says in (("0.png", "no such file"), ("1.png", "cannot identify"), ("2.png", "truncated"),
                       ("4.png", "is 120x160, the source's table says 160x120")):  # fmt: skip
        assert any(name in line and says in line for line in audit["first"])


def test_check_of_images_can_be_off_and_all_broken_is_an_error(coco_folder):
    """A wrong image folder that ends as 'empty data set'; pictures read although the check is off."""
    small = replace(strategy("object"), mixture={"small": 1.0})
    source = CocoSource(str(coco_folder / "instances.json"), str(coco_folder / "nowhere"))
    corpus = audited_corpus(source, small, 80, 10, seed=0, check_images=False)
    assert len(corpus.train) == 80 and "broken_images" not in corpus.audits
    with pytest.raises(LocusError, match=r"none of the \d+ images drawn can be used; image .*nowhere.*data\.images"):
        audited_corpus(source, small, 80, 10, seed=0)


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


# --- Validation by another strategy ---------------------------------------------------------------------------
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
