"""Broken images and annotations, through the commands: one line that names the file and how to fix it, and status 2.

Or, where one bad example does no harm, a counted skip. Never a traceback, never a silent run on less than was asked.
"""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.support.coco_folder import ASKED, SIZE, picture, prepared
from tests.support.runs import refused, succeeded


# --- Images ---------------------------------------------------------------------------------------------------
def missing(path: Path) -> None:
    path.unlink()


def unreadable(path: Path) -> None:
    path.write_bytes(b"not a picture")


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:1000])


def of_another_size(path: Path) -> None:
    picture(path, (SIZE[0] + 8, SIZE[1]))


BROKEN = {
    missing: "no such file",
    unreadable: "cannot be read",
    truncated: "cannot be read",
    of_another_size: "is 72x48",
}


def test_broken_images_are_counted_and_left_out(tmp_path, coco, attempt):
    """A data set that is refused for some bad files, or one that shrinks without a word, also in the run's record."""
    for image, spoil in zip(coco.images, BROKEN, strict=False):
        spoil(image)
    asked = "data.train_examples=10", "data.validation_examples=2"  # of all twelve, so that all of them are looked at
    record = prepared(tmp_path, [*coco.write(), *asked])
    broken = record["audits"]["broken_images"]
    assert broken["dropped"] == 4 and sum(record["examples"].values()) > 4
    for image, words in zip(coco.images, BROKEN.values(), strict=False):
        assert any(image.name in reason and words in reason for reason in broken["first"])
    used = pq.read_table(tmp_path / "corpus" / "corpus.parquet")["image_path"].to_pylist()
    assert not {path.name for path in coco.images[:4]} & set(used)

    succeeded(attempt(*coco.overrides, *asked, "rollout.sampling.max_new_tokens=2"))
    facts = json.loads((tmp_path / "run" / "run.json").read_text())
    assert facts["corpus_hash"] == record["hash"]
    assert facts["audits"]["broken_images"]["dropped"] == 4, "a run that draws its own corpus must count them, too"


def test_when_all_images_are_broken_the_first_is_named(coco, attempt):
    """An empty corpus, or a run that fails in its first step."""
    kinds = 3 * list(BROKEN)
    for image, spoil in zip(coco.images, kinds, strict=True):
        spoil(image)
    line = refused(attempt(*coco.write()), "none of the 6 images drawn can be used")
    assert any(path.name in line and BROKEN[spoil] in line for path, spoil in zip(coco.images, kinds, strict=True))


@pytest.mark.parametrize("spoil", [missing, truncated, of_another_size], ids=lambda spoil: spoil.__name__)
def test_a_broken_image_that_was_not_checked_is_named_when_it_is_met(coco, attempt, spoil):
    """The traceback of a decoder, in the middle of a run that asked for no check."""
    for image in coco.images:
        spoil(image)
    line = refused(attempt(*coco.write(), "audit.check_images=false"), BROKEN[spoil])
    assert any(path.name in line for path in coco.images)


def test_an_image_that_disappears_during_a_run(tmp_path, coco, attempt):
    """Broken after the audit: the image is named, and what was done until then is kept."""
    prepared(tmp_path, coco.write())
    for image in coco.images:
        image.unlink()
    refused(attempt(*coco.overrides, f"corpus={tmp_path / 'corpus'}"), "no such file", "data.images")


def test_extreme_images_are_refused_by_name(tmp_path, attempt):
    """Images of one row, which the processor refuses with words of its own, and in the middle of a run."""
    lines = []
    for number in range(4):
        picture(tmp_path / "flat" / f"{number}.png", (2048, 8))
        lines.append(json.dumps({"image": f"{number}.png", "box": [100, 0, 900, 8]}))
    (tmp_path / "flat" / "boxes.jsonl").write_text("\n".join(lines))
    data = ["data=boxes", f"data.path={tmp_path / 'flat' / 'boxes.jsonl'}", "crop=large", "crop.min_side=4"]
    data += ["data.train_examples=2", "data.validation_examples=1"]
    refused(attempt(*data), "none of the 3 images drawn can be used", ".png: is 2048x8", "ratio is above")


# --- Annotations ----------------------------------------------------------------------------------------------
def test_boxes_outside_and_without_area_are_counted(tmp_path, coco):
    """Boxes that are clipped or dropped without a word, or that reach a run as cues of no pixel."""
    coco.content["annotations"][0]["bbox"] = [1000, 1000, 20, 20]
    coco.content["annotations"][1]["bbox"] = [10, 10, 0, 12]
    coco.content["annotations"][2]["bbox"] = [10, 10, -5, 12]
    coco.content["annotations"][3]["bbox"] = [30, 10, 1000, 30]  # partly outside: clipped and kept
    record = prepared(tmp_path, coco.write())
    assert record["audits"]["source"]["boxes_without_area"] == 3 and record["audits"]["source"]["boxes_clipped"] == 1
    corpus = pq.read_table(tmp_path / "corpus" / "corpus.parquet").to_pylist()
    assert all(0 <= x1 < x2 <= SIZE[0] and 0 <= y1 < y2 <= SIZE[1] for x1, y1, x2, y2 in (row["box"] for row in corpus))


def test_only_boxes_outside_is_an_empty_data_set(coco, attempt):
    """No eligible box: which bins were looked for, and what to do."""
    for annotation in coco.content["annotations"]:
        annotation["bbox"] = [1000, 1000, 20, 20]
    refused(attempt(*coco.write()), "empty data set", "0 boxes in 12 images", "crop=random")


def test_boxes_too_small_for_the_strategy_are_an_empty_data_set(coco, attempt):
    """The strategy and its keys are named, with what was found."""
    for annotation in coco.content["annotations"]:
        annotation["bbox"] = [10, 10, 10, 10]
    refused(attempt(*coco.write()), "empty data set", "crop.min_side", "crop=")


@pytest.mark.parametrize("key", ["annotations", "images"])
def test_coco_without_annotations_or_images(coco, attempt, key):
    """An empty list: no cue, no division by zero."""
    coco.content[key] = []
    refused(attempt(*coco.write()), "empty data set" if key == "annotations" else "lists no images")


@pytest.mark.parametrize("text", ['{"images": [', "[]"])
def test_broken_annotations_are_named(coco, attempt, text):
    """A decoder's traceback for half a download."""
    coco.write()
    coco.json.write_text(text)
    refused(attempt(*coco.overrides), str(coco.json))


def test_folders_without_images(tmp_path, attempt):
    """An empty folder, one that is not there, and one of images without boxes under a strategy that needs boxes."""
    (tmp_path / "empty").mkdir()
    for name in ("empty", "nowhere"):
        refused(
            attempt("data=folder", "crop=random", f"data.path={tmp_path / name}"), str(tmp_path / name), "data.path"
        )
    for number in range(4):
        picture(tmp_path / "plain" / f"{number}.png")
    refused(attempt("data=folder", f"data.path={tmp_path / 'plain'}", *ASKED), "empty data set", "crop=random")


def test_too_few_images_for_a_validation(tmp_path, coco, attempt):
    """One image cannot be in both sets."""
    coco.content["images"], coco.content["annotations"] = coco.content["images"][:1], coco.content["annotations"][:1]
    refused(attempt(*coco.write()), "without a common image", "more images")


def test_a_corpus_that_is_none(tmp_path, scenes):
    """A folder that locus.prepare did not make, or did not finish."""
    refused(scenes(f"corpus={tmp_path / 'nowhere'}"), str(tmp_path / "nowhere"), "locus.prepare")
