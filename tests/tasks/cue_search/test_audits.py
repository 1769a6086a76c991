"""Audits: each finds what is planted and nothing else, and broken images are replaced by others."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from locus.errors import LocusError
from locus.images.sources import CocoSource, FolderSource
from locus.tasks.cue_search.audits import (
    AuditSettings,
    ambiguity,
    audited_corpus,
    best_match_elsewhere,
    duplicate_boxes,
)
from locus.types import CueExample, ImageTable
from tests.support.image_tables import strategy


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


def test_an_image_too_long_for_a_processor_is_left_out(tmp_path):
    """A panorama of a line that ends the run at the step that draws it, at each resume: the ratio may be 190."""
    for name, size in (("long", (3300, 16)), ("tall", (16, 3041)), ("just", (3040, 16)), ("sound", (640, 480))):
        Image.new("RGB", size).save(tmp_path / f"{name}.png")
    crops = replace(strategy("random"), min_side=4)
    corpus = audited_corpus(FolderSource(str(tmp_path)), crops, 12, 2, seed=0)
    assert set(corpus.all_examples.counts("image_id")) == {"just.png", "sound.png"}
    audit = corpus.audits["broken_images"]
    assert audit["dropped"] == 2 and "image long.png: is 3300x16" in " ".join(audit["first"])


def test_validation_is_the_same_where_training_crops_find_a_broken_image(tmp_path):
    """Runs of different ``crop=`` on different validation sets, since one of them draws a picture that is truncated."""
    boxes = [(20 * place, 5, 20, 20) for place in range(4)] + [(60 * place, 40, 60, 60) for place in range(2)]
    images, annotations = [], []
    for image in range(20):
        images.append({"id": image, "file_name": f"{image}.png", "width": 160, "height": 120})
        shown = boxes[:4] if image == 7 else boxes  # the broken one has no large box
        annotations += [{"image_id": image, "category_id": 1, "bbox": list(box)} for box in shown]
        Image.effect_noise((160, 120), 60).save(tmp_path / f"{image}.png")
    (tmp_path / "7.png").write_bytes((tmp_path / "7.png").read_bytes()[:2000])
    rows = [{"id": number, **row, "iscrowd": 0} for number, row in enumerate(annotations, 1)]
    content = {"images": images, "annotations": rows, "categories": [{"id": 1, "name": "cup"}]}
    (tmp_path / "instances.json").write_text(json.dumps(content))
    source = CocoSource(str(tmp_path / "instances.json"), str(tmp_path))
    small, found = replace(strategy("object"), mixture={"small": 1.0}), []
    for seed in range(6):
        corpora = [
            audited_corpus(source, crop, 30, 6, seed=seed, validation_strategy=small)
            for crop in (small, strategy("large"))
        ]
        assert list(corpora[0].validation) == list(corpora[1].validation)
        assert all("coco-7" not in corpus.all_examples.counts("image_id") for corpus in corpora)
        found.append([corpus.audits["broken_images"]["dropped"] for corpus in corpora])
    assert [1, 0] in found, "seen by the small crops of training alone"


def test_check_of_images_can_be_off_and_all_broken_is_an_error(coco_folder):
    """A wrong image folder that ends as 'empty data set'; pictures read although the check is off."""
    small = replace(strategy("object"), mixture={"small": 1.0})
    source = CocoSource(str(coco_folder / "instances.json"), str(coco_folder / "nowhere"))
    corpus = audited_corpus(source, small, 80, 10, seed=0, audit=AuditSettings(check_images=False))
    assert len(corpus.train) == 80 and "broken_images" not in corpus.audits
    with pytest.raises(LocusError, match=r"none of the \d+ images drawn can be used; image .*nowhere.*data\.images"):
        audited_corpus(source, small, 80, 10, seed=0)
