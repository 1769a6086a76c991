"""``python -m locus.prepare leak.against=...``: training images that stand in benchmarks are named, and left out."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import cast

import numpy as np
import pytest

from locus.errors import LocusError
from locus.evaluation.benchmarks.pope import POPE
from locus.evaluation.leaks import LeakCheck, find_leaks
from locus.images.sources import ImageFiles, ImageSource
from locus.tasks.cue_search.corpus import Corpus
from locus.types import ImageTable
from tests.support.benchmark_files import write_tsv
from tests.support.photos import half, photo, stored
from tests.support.runs import Ended, command, refused, succeeded

SIZE = (320, 240)
IMAGES = range(1, 9)


def name(number: int) -> str:
    return f"COCO_train2014_{number:012}.jpg"


@pytest.fixture(scope="module")
def coco(tmp_path_factory) -> Path:
    """Eight images as COCO has them; RefCOCO's references to 1 (train), 3 (val) and 5 (testA); 6 in POPE, smaller."""
    folder = tmp_path_factory.mktemp("coco")
    (folder / "train2014").mkdir()
    for number in IMAGES:
        photo(number, SIZE).save(folder / "train2014" / name(number), quality=90)
    images = [{"id": n, "file_name": name(n), "width": SIZE[0], "height": SIZE[1]} for n in IMAGES]
    boxes = [{"id": 10 * n, "image_id": n, "category_id": 1, "iscrowd": 0, "bbox": [20, 20, 180, 150]} for n in IMAGES]
    whole = {"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "thing"}]}
    (folder / "instances.json").write_text(json.dumps(whole))
    refcoco = folder / "benchmarks" / "refcoco"
    refcoco.mkdir(parents=True)
    (refcoco / "instances.json").write_text(json.dumps(whole))
    refs = [
        {"ref_id": n, "ann_id": 10 * n, "image_id": n, "split": split, "sentences": [{"sent": "it"}],
         "file_name": f"COCO_train2014_{n:012}_{n}.jpg"}
        for n, split in ((1, "train"), (3, "val"), (5, "testA"))
    ]  # fmt: skip
    (refcoco / "refs(unc).json").write_text(json.dumps(refs))
    (folder / "benchmarks" / "pope").mkdir()
    stored(half(photo(6, SIZE)), quality=60).save(file := io.BytesIO(), "JPEG", quality=60)
    row = {"index": 0, "question": "Is there a cat?", "answer": "yes", "category": "random"}
    row["image"] = base64.b64encode(file.getvalue()).decode()
    write_tsv(folder / "benchmarks" / "pope" / "POPE.tsv", [row])
    return folder


def prepared(coco: Path, out: Path, *more: str) -> Ended:
    given = f"data.annotations={coco / 'instances.json'}", f"data.images={coco / 'train2014'}"
    asked = (
        "data.train_examples=6",
        "data.validation_examples=2",
        f"hydra.run.dir={out}",
        f"benchmarks={coco / 'benchmarks'}",
    )
    return command("prepare", "data=coco", "crop=large", *given, *asked, *more)


def against(coco: Path) -> list[str]:
    return ["leak.against=[refcoco,pope]", f"leak.images={{refcoco: {coco / 'train2014'}}}"]


def lines(folder: Path) -> list[tuple[str, str, str]]:
    rows = [json.loads(line) for line in (folder / "leaks.jsonl").read_text().splitlines()]
    return [(row["image_path"], row["benchmark"], row["by"]) for row in rows]


def test_images_of_benchmarks_are_named(coco, tmp_path):
    """RefCOCO's training images among the leaks; a picture of a TSV missed, which has no name and another size."""
    done = succeeded(prepared(coco, tmp_path / "a", *against(coco)))
    assert lines(tmp_path / "a") == [
        (name(3), "refcoco", "both"), (name(5), "refcoco", "both"), (name(6), "pope", "fingerprint"),
    ]  # fmt: skip
    leaks = json.loads((tmp_path / "a" / "corpus.json").read_text())["audits"]["leaks"]
    assert (leaks["images"], leaks["refcoco"], leaks["pope"], leaks["left_out"]) == (3, 2, 1, 0)
    assert leaks["train_examples"] + leaks["validation_examples"] == 3, "each image has one example"
    assert "leaks: images 3, refcoco 2, pope 1, left_out 0" in done.stdout
    plain = succeeded(prepared(coco, tmp_path / "b"))
    assert "leaks" not in plain.stdout and not (tmp_path / "b" / "leaks.jsonl").exists()
    same = [Corpus.load(tmp_path / run).content_hash for run in "ab"]
    assert same[0] == same[1], "a check alone changes no corpus"


def test_images_of_benchmarks_are_left_out(coco, tmp_path):
    """Leaks that are named and trained on all the same; counts of the corpus that was not drawn."""
    succeeded(prepared(coco, tmp_path, *against(coco), "leak.exclude=true"))
    drawn = [one.image_path for one in Corpus.load(tmp_path).all_examples]
    assert drawn and not set(drawn) & {name(n) for n in (3, 5, 6)}
    record = json.loads((tmp_path / "corpus.json").read_text())
    assert sum(record["examples"].values()) == len(drawn) <= 5, "of eight, three are left out"
    leaks = record["audits"]["leaks"]
    assert (leaks["left_out"], leaks["train_examples"], leaks["validation_examples"]) == (3, 0, 0)


def test_numbers_alone(coco, tmp_path):
    """Pictures opened where only names were to be compared; "no leak" of pictures that have no name."""
    given = "leak.against=[refcoco]", f"leak.images={{refcoco: {coco / 'train2014'}}}", "leak.distance=null"
    succeeded(prepared(coco, tmp_path, *given))
    pope = POPE(str(coco / "benchmarks" / "pope"), "pope", rows=1)
    files = cast(ImageSource, ImageFiles(coco / "train2014"))
    with pytest.raises(LocusError, match="none of pope's 1 pictures has one in its name: leave leak.distance out"):
        find_leaks(no_images(), files, [pope], LeakCheck(["pope"], distance=None))
    assert lines(tmp_path) == [(name(3), "refcoco", "coco id"), (name(5), "refcoco", "coco id")]


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (["leak.against=[refcocoa]"], ["conf/benchmark has no refcocoa"]),
        (["leak.against=[vstar]"], ["vstar: no such file", "benchmarks=<folder of all benchmarks>"]),
        (["leak.against=[pope]", "leak.exclude=maybe"], ["leak.exclude=maybe", "true or false"]),
    ],
)
def test_wrong_input_is_one_line(coco, tmp_path, given, says):
    """A traceback, or a check that silently looks at nothing."""
    refused(prepared(coco, tmp_path, *given), *says)


def test_generated_scenes_and_benchmarks(tmp_path):
    """A check that finds nothing because there is nothing to find."""
    folder = f"hydra.run.dir={tmp_path}"
    refused(command("prepare", folder, "leak.against=[scenes_relation]"), "scenes_relation is generated")
    with pytest.raises(LocusError, match="generated scenes stand in no benchmark"):
        find_leaks(no_images(), cast(ImageSource, object()), [], LeakCheck(["pope"]))


def no_images() -> ImageTable:
    return ImageTable((), (), np.zeros(0), np.zeros(0), np.zeros(0), np.zeros((0, 4)), ())


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"against": "refcoco"}, "leak.against=refcoco: give a list"),
        ({"against": [1]}, "give a list"),
        ({"distance": 200}, "leak.distance=200"),
        ({"distance": -1}, "leak.distance=-1: give a whole number"),
        ({"images": {"refcoco": "a"}}, "names in leak.against"),
    ],
)
def test_wrong_settings(wrong, says):
    """A distance that all pictures pass; a folder of a benchmark that is not asked for."""
    with pytest.raises(LocusError, match=says):
        LeakCheck(**wrong)
