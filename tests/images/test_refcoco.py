"""RefCOCO-style files as training data: the referred boxes, their sentences as labels, and the prompts made of them."""

from __future__ import annotations

import json
import os
import pickle
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from locus.errors import LocusError
from locus.images.refcoco import RefcocoSource, references_file
from locus.tasks.cue_search.audits import audited_corpus
from locus.tasks.cue_search.crops import CropStrategy
from locus.tasks.cue_search.task import CueSearch
from locus.tasks.cue_search.text_cues import LabelTextCue
from locus.tasks.datamodule import SampleMaker
from tests.support.models import FAMILIES, builder

CROPS = CropStrategy(bins={"all": (0, 1)}, mixture={"all": 1}, min_side=4, scale={}, padding={})
IMAGES = [{"id": number, "file_name": f"{number}.png", "width": 160, "height": 120} for number in (9, 2)]
BOXES = {90: (9, [10, 20, 30, 40]), 20: (2, [1, 2, 20, 20]), 21: (2, [100, 60, 60, 60.5]), 22: (2, [60, 5, 25, 25])}
"""ann_id -> image_id, xywh; that of 21 sticks out by half a pixel."""


def reference(number: int, annotation: int, *sentences: Any, split: str = "train") -> dict[str, Any]:
    rows = [{"sent_id": place, "raw": text, "sent": text} for place, text in enumerate(sentences)]
    return {"ref_id": number, "ann_id": annotation, "image_id": BOXES[annotation][0], "split": split, "sentences": rows}


REFERENCES = [
    reference(4, 90, "left cat", "the grey cat"),
    reference(2, 21, "word " * 25, " plate at the right "),
    reference(3, 20, "café cup"),
    reference(1, 22, "word " * 25, ""),
    reference(5, 20, "the cup in the corner", split="val"),
]


def python2(pickled: bytes) -> bytes:
    """The same as Python 2 and refer's files have it: texts up to 255 bytes are bytes, by other opcodes."""
    return re.sub(rb"X(.)\0\0\0", rb"T\1\0\0\0", pickled, flags=re.DOTALL)


def write(folder: Path, references: Any = REFERENCES, name: str = "refs(unc).json") -> RefcocoSource:
    """refer's folder with its pictures in another."""
    annotations = [{"id": key, "image_id": image, "bbox": xywh} for key, (image, xywh) in BOXES.items()]
    (folder / "instances.json").write_text(json.dumps({"images": IMAGES, "annotations": annotations}))
    data = json.dumps(references).encode() if name.endswith("json") else python2(pickle.dumps(references, protocol=2))
    (folder / name).write_bytes(data)
    (folder / "images").mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    for image in IMAGES:
        pixels = rng.integers(0, 255, (image["height"], image["width"], 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "images" / image["file_name"])
    return RefcocoSource(str(folder), str(folder / "images"))


# --- The source -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["refs(unc).json", "refs(unc).p"])
def test_boxes_labels_and_sizes(tmp_path, name):
    """Widths taken for corners, labels and boxes that come apart, or another split's sentences trained on."""
    source = write(tmp_path, name=name)
    table = source.table()
    assert table.image_id == ("coco-2", "coco-9") and table.path == ("2.png", "9.png")
    assert table.width.tolist() == [160, 160] and table.height.tolist() == [120, 120]
    assert table.box_image.tolist() == [0, 0, 1] and table.labels == ("café cup", "plate at the right", "left cat")
    assert table.boxes.tolist() == [[1, 2, 21, 22], [100, 60, 160, 120], [10, 20, 40, 60]]
    assert source.audit == {"references_without_expression": 1, "boxes_clipped": 1, "boxes_without_area": 0}
    assert source.open("9.png").size == (160, 120)
    (label,) = RefcocoSource(str(tmp_path), "", "val").table().labels
    assert label == "the cup in the corner"
    backward = write(tmp_path, REFERENCES[::-1], name).table()
    assert backward.labels == table.labels and np.array_equal(backward.boxes, table.boxes)


def test_an_object_referred_to_twice_is_one_crop(tmp_path):
    """Two prompts with one target, counted as two objects."""
    source = write(tmp_path, [*REFERENCES, reference(6, 90, "the cat that sleeps")])
    assert source.table().labels[2:] == ("left cat", "the cat that sleeps")
    corpus = audited_corpus(source, CROPS, 2, 1, 1)
    assert corpus.audits["duplicate_boxes"]["dropped"] == 1 and corpus.audits["broken_images"]["dropped"] == 0
    assert {example.label for example in corpus.all_examples} <= {"café cup", "plate at the right", "left cat"}


def test_a_split_that_there_is_not(tmp_path):
    """``valid`` for ``val``: trained on the other splits alone."""
    write(tmp_path)
    with pytest.raises(LocusError, match=r"has no references of the splits valid; pass data\.splits"):
        RefcocoSource(str(tmp_path), str(tmp_path / "images"), ("train", "valid")).table()


def test_which_references_of_a_folder(tmp_path):
    """Google's splits for UNC's, or a pickle for the JSON that was mended."""
    for name in ("refs(google).p", "refs(umd).p", "refs(google).json", "refs(unc).json"):
        (tmp_path / name).write_text("[]")
    for name in ("refs(unc).json", "refs(google).json", "refs(umd).p", "refs(google).p"):
        assert references_file(tmp_path).name == name
        (tmp_path / name).unlink()
    assert references_file(tmp_path) is None


def test_a_pickle_that_would_run_is_refused(tmp_path):
    """A downloaded file that runs a command."""

    class Runs:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(tmp_path / "made"),)

    with pytest.raises(LocusError, match=r"refs\(unc\)\.p and .* names posix\.mkdir"):
        write(tmp_path, [Runs()], "refs(unc).p").table()
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    ("file", "content", "says"),
    [
        ("refs(unc).json", None, r"no refs\*\.json and no refs\*\.p there"),
        ("instances.json", None, "instances.json cannot be read .*FileNotFound"),
        ("instances.json", b"{", "instances.json cannot be read .*JSONDecode"),
        ("instances.json", b'{"images": [], "annotations": []}', r"refs\(unc\)\.json, row 1: .* not in instances.json"),
        ("refs(unc).json", b"[{", r"refs\(unc\)\.json and .* cannot be read"),
        ("refs(unc).json", b"[]", r"has no references of the splits train; pass data\.splits"),
        ("refs(unc).json", b"[{}]", r"row 1: split is empty"),
        ("refs(unc).p", pickle.dumps(REFERENCES, 2)[:-20], r"refs\(unc\)\.p and .* cannot be read"),
        ("refs(unc).p", b"no pickle", r"refs\(unc\)\.p and .* cannot be read"),
    ],
)
def test_wrong_files_are_named(tmp_path, file, content, says):
    """A traceback of json or pickle, or an empty corpus, for a file that is missing, cut off or of another split."""
    source = write(tmp_path)
    if content is None or file.endswith(".p"):
        (tmp_path / (file if content is None else "refs(unc).json")).unlink()
    if content is not None:
        (tmp_path / file).write_bytes(content)
    with pytest.raises(LocusError, match=says):
        source.table()


@pytest.mark.parametrize(
    ("change", "says"),
    [({"sentences": None}, r"refs\(unc\)\.json, row 1: sentences is not a list"),
     ({"sentences": [{"sent": "<b>"}, 7]}, "none of 1 references has a sentence")],
)  # fmt: skip
def test_wrong_sentences_are_named(tmp_path, change, says):
    """A label that is no text, or a corpus of nothing without a word why."""
    with pytest.raises(LocusError, match=says):
        write(tmp_path, [REFERENCES[0] | change]).table()


@pytest.mark.parametrize(("old", "new"), [("[10, 20, 30, 40]", "[10, 20, 30]"), ('"width": 160', '"width": null')])
def test_wrong_numbers_are_named(tmp_path, old, new):
    """A traceback of unpacking for instances that were written by hand."""
    source = write(tmp_path, REFERENCES[:1])
    instances = tmp_path / "instances.json"
    instances.write_text(instances.read_text().replace(old, new))
    with pytest.raises(LocusError, match=r"refs\(unc\)\.json, row 1: .* numbers; correct it"):
        source.table()


# --- The cue --------------------------------------------------------------------------------------------------
def test_labels_are_the_expressions_of_a_prompt(tmp_path):
    """A prompt that shows the crop, or words of another box."""
    source = write(tmp_path)
    corpus = audited_corpus(source, CROPS, 2, 1, 1)
    cue = LabelTextCue().over(source, corpus.train)
    assert cue.audit(corpus.all_examples) == {"expressions": len(corpus.all_examples), "ambiguous": 0}
    family = next(iter(FAMILIES))
    make = SampleMaker(CueSearch(corpus, source, cue=cue, validation_cue=cue), builder(family), FAMILIES[family][1])
    table, examples = source.table(), corpus.all_examples
    assert len(examples) > 1
    for sample in map(make, examples):
        words = make.task.row(sample.example)["expression"]
        assert table.labels[table.boxes.tolist().index(list(sample.example.box))] == words
        assert f": {words}\n" in make.builder.decode(sample.prompt.input_ids)
        assert len(sample.prompt.image_grid_thw) == 1


def test_labels_that_are_no_expressions(tmp_path):
    """A story or an empty label in the prompt; one expression for two boxes of an image that nobody counts."""
    first, *_ = audited_corpus(write(tmp_path), CROPS, 2, 1, 1).all_examples
    for label, says in (("word " * 25, "has 25 words"), ("", "is empty")):
        with pytest.raises(LocusError, match=rf"label {label!r} of example {first.example_id} {says}.*data=refcoco"):
            LabelTextCue().audit([first, replace(first, label=label)])
    twin, far = replace(first, example_id="twin"), replace(first, example_id="far", image_id="far")
    assert LabelTextCue().audit([first, twin, far]) == {"expressions": 3, "ambiguous": 2}
