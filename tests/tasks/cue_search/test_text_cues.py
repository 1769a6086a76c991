"""Expressions in place of the cue: the right object's, one image in the prompt, and all else as before."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from locus.analysis.pages.rollouts import groups_of
from locus.analysis.pictures import comparison_picture
from locus.errors import LocusError
from locus.images.labels import expression_fault
from locus.images.sources import BoxesSource, CocoSource, ImageSource
from locus.policy.logprobs import PackedScorer, SeparateScorer
from locus.scenes.source import SceneSource
from locus.tasks.cue_search.audits import AuditSettings, audited_corpus
from locus.tasks.cue_search.corpus import SCHEMA, CueTable
from locus.tasks.cue_search.crops import CropStrategy, RandomCrops
from locus.tasks.cue_search.cues import PLAIN, Cue
from locus.tasks.cue_search.text_cues import AnnotatedTextCue, FileTextCue, TextCue, object_of
from locus.tasks.datamodule import SampleMaker
from locus.tasks.preflight import preflight
from locus.types import CueExample, Frame, Sample
from tests.support.models import FAMILIES, LENGTHS, SIZES, builder, completions, cue_task, example, tiny_vlm
from tests.support.paths import COCO128
from tests.support.runs import command, refused, succeeded, train

FAMILY = pytest.mark.parametrize("family", FAMILIES)
EVERYTHING = {"bins": {"all": (0, 1)}, "mixture": {"all": 1}, "min_side": 4, "scale": {}}
PADDED = CropStrategy(**EVERYTHING, padding={"all": (0.0, 0.3)})
EXAMPLE = CueExample("street-0", "street", "street.png", 200, 100, (18, 8, 42, 32), 0.02, "small", "cup")
"""A box of 20 x 20 at (20, 10), padded."""


# --- Of labels and boxes --------------------------------------------------------------------------------------
def test_a_padded_crop_finds_its_object():
    """The neighbour's expression: a crop's own box is not a box of the annotations."""
    boxes = np.array([[0, 0, 200, 100], [20, 10, 40, 30], [20, 10, 30, 30], [21, 11, 40.5, 30.5]])
    assert object_of(EXAMPLE, boxes) == 1
    assert object_of(replace(EXAMPLE, area_ratio=0.01), boxes) == 2
    assert object_of(EXAMPLE, boxes[[0, 2]]) is None and object_of(EXAMPLE, boxes[:0]) is None
    cut = CueExample("a-0", "a", "a", 200, 100, (0, 0, 22, 32), 0.03, "small")  # the file's box leaves the image
    assert object_of(cut, np.array([[-10.0, -5, 20, 30]])) == 0


def test_a_scaled_window_finds_its_object():
    """Crops that are a part of their object, or have others in them: refused, or given a neighbour's expression."""
    boxes = np.array([[0, 0, 200, 100], [20, 10, 40, 30], [24, 14, 36, 26], [40, 10, 60, 30]])
    for scale in (0.8, 1.3, 2.0):
        window = (30 - 10 * scale, 20 - 10 * scale, 30 + 10 * scale, 20 + 10 * scale)
        assert object_of(replace(EXAMPLE, box=window), boxes) == 1
    assert object_of(replace(EXAMPLE, box=(22, 12, 38, 28)), boxes[[0, 2, 3]]) is None


@pytest.fixture
def boxes_file(tmp_path) -> Path:
    """Two pictures of cups and plates, some with an expression."""
    rng = np.random.default_rng(0)
    rows = []
    for name in ("1.png", "2.png"):
        Image.fromarray(rng.integers(0, 255, (100, 200, 3), dtype=np.uint8)).save(tmp_path / name)
        for index in range(8):
            x, y = 25 * index, 40 * (index % 2)
            box = [x, y, x + 10.5 + index, y + 12.25]
            rows.append(
                {"image": name, "box": box, "label": ("cup", "plate")[index == 3], "expression": f"number {index}"}
            )
    (tmp_path / "boxes.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    return tmp_path / "boxes.jsonl"


def test_expressions_of_a_corpus(boxes_file):
    """Expressions by the order of the examples, of another image, or of the boxes before duplicates are left out."""
    source = BoxesSource(str(boxes_file))
    corpus = audited_corpus(source, PADDED, 8, 8, 1)
    cue = AnnotatedTextCue(0.95, source)
    for one in corpus.all_examples:
        index = int(one.example_id.rsplit("-", 1)[1])
        assert FileTextCue(str(boxes_file)).expression(one) == f"number {index}"
        assert cue.expression(one).startswith("the plate" if index == 3 else "the cup ")
    assert cue.audit(corpus.train) == {"expressions": 8, "ambiguous": 0}


def test_crops_without_words_are_refused(boxes_file, compose_app):
    """Random crops, boxes without labels or another data set: a prompt that asks for "the "."""
    source = BoxesSource(str(boxes_file))
    random = RandomCrops(
        **EVERYTHING, padding={}, max_object_iou=0.5, attempts=50, regions_per_image=4, aspect=(0.5, 2)
    )
    corpus = audited_corpus(source, random, 2, 2, 1)
    with pytest.raises(LocusError, match=r"label ''.*cue=text_file") as refusal:
        AnnotatedTextCue(0.95, source).audit(corpus.train)
    advice = re.search(r"task=text_cue: (cue@task\.cue=text_file task\.cue\.path=)<JSONL>", str(refusal.value))
    config = compose_app("train", ["task=text_cue", *f"{advice[1]}words.jsonl".split()])
    assert config.task.cue.path == "words.jsonl" == config.task.validation_cue.path  # not so: cue=text_file
    with pytest.raises(LocusError, match=r"street-0 .*is no labelled box of the data"):
        AnnotatedTextCue(0.95, source).expression(EXAMPLE)


def test_a_label_that_is_too_long(boxes_file):
    """A label that is a story makes an expression of more words than the paper's."""
    boxes_file.write_text(boxes_file.read_text().replace('"plate"', json.dumps("very " * 25 + "long")))
    source = BoxesSource(str(boxes_file))
    with pytest.raises(LocusError, match=r"has 27 words; 24 is the most.*fix the label"):
        AnnotatedTextCue(0.95, source).audit(audited_corpus(source, PADDED, 8, 8, 1).all_examples)


def test_the_source_is_given_later():
    """Words of another source, or of none."""
    source = SceneSource(4, 128, 128, objects=(4, 7), object_side=(10, 26))
    corpus = audited_corpus(source, PADDED, 6, 4, 1)
    assert AnnotatedTextCue(0.95).over(source, corpus.train).audit(corpus.train)["expressions"] == 6
    cue = FileTextCue("x.jsonl")
    assert cue.over(source, corpus.train) is cue and PLAIN.over(source, corpus.train) is PLAIN


def test_duplicates_are_no_rivals(boxes_file):
    """A box that is listed twice called "one of two"."""
    lines = boxes_file.read_text().splitlines()
    boxes_file.write_text("\n".join([*lines, lines[3]]))
    source = BoxesSource(str(boxes_file))
    corpus = audited_corpus(source, PADDED, 8, 8, 1)
    plates = [example for example in corpus.all_examples if example.label == "plate"]
    assert {AnnotatedTextCue(0.95, source).expression(example) for example in plates} == {"the plate"}


def test_scenes():
    """Two objects of a scene with one expression, or an object under another's label."""
    source = SceneSource(40, 128, 128, objects=(4, 7), object_side=(10, 26))
    corpus = audited_corpus(source, PADDED, 100, 20, 1)
    cue = AnnotatedTextCue(0.95, source)
    assert all(cue.expression(example) == f"the {example.label}" for example in corpus.all_examples)
    assert cue.audit(corpus.train) == {"expressions": 100, "ambiguous": 0}


@pytest.mark.skipif(not COCO128.exists(), reason="needs ../shared/coco128")
def test_real_boxes():
    """On COCO every box gets short words, and at most a tenth of them suit another box, too (73 of 929 do)."""
    source = CocoSource(str(COCO128 / "instances_train2017.json"), str(COCO128 / "train2017"))
    corpus = audited_corpus(source, PADDED, 800, 80, 1, audit=AuditSettings(check_images=False))
    cue = AnnotatedTextCue(0.95, source)
    found = cue.audit(corpus.all_examples)
    assert found["expressions"] > 800 and 0 < found["ambiguous"] < 0.1 * found["expressions"]
    assert not any(expression_fault(cue.expression(example)) for example in corpus.all_examples)


# --- Of a file ------------------------------------------------------------------------------------------------
@pytest.fixture
def file(tmp_path):
    """Writes rows, as dicts or as text, and gives the cue that reads them."""

    def write(*rows: object) -> FileTextCue:
        lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
        (tmp_path / "expressions.jsonl").write_text("\n".join(lines))
        return FileTextCue(str(tmp_path / "expressions.jsonl"))

    return write


def test_both_forms_of_a_row(file):
    """A row by id that is not found, the first box of an image for any crop of it, or the last of several sentences."""
    by_box = {"image": "street.png", "box": [20, 10, 40, 30], "expression": " the red cup "}
    other = {"image": "street.png", "box": [100, 10, 120, 30], "expression": "the blue cup"}
    plain = {"image": "street.png", "box": [20, 10, 40, 30], "label": "cup"}  # a row of data=boxes without one
    assert file(other, plain, "", by_box, by_box | {"expression": "later"}).expression(EXAMPLE) == "the red cup"
    by_id = {"example_id": "street-0", "expression": "a cup"}
    cue = file(by_box, by_id, by_id | {"expression": "later"})
    assert cue.expression(EXAMPLE) == "a cup" and cue.audit([EXAMPLE]) == {"expressions": 1, "ambiguous": 0}
    twin = replace(EXAMPLE, example_id="street-1")
    assert file(by_id, by_id | {"example_id": "street-1"}).audit([EXAMPLE, twin])["ambiguous"] == 2


def test_a_row_may_spell_its_image_in_another_way(tmp_path, file):
    """Words that are there and are said to be missing: the list of boxes has ./street.png, or the whole path."""
    rows = [{"image": name, "box": [20, 10, 40, 30], "expression": "a cup"} for name in ("./street.png", "x//../s.png")]
    assert file(rows[0]).expression(EXAMPLE) == "a cup"
    assert file(rows[1]).expression(replace(EXAMPLE, image_path="s.png")) == "a cup"
    whole = rows[0] | {"image": str(tmp_path / "pictures" / "street.png")}
    source, cue = BoxesSource("boxes.jsonl", str(tmp_path / "pictures")), file(whole)
    assert cue.over(source, CueTable(SCHEMA.empty_table())).expression(EXAMPLE) == "a cup"
    assert cue.expression(replace(EXAMPLE, image_path=whole["image"])) == "a cup"


@pytest.mark.parametrize(
    ("row", "says"),
    [({"example_id": "street-0", "expression": "word " * 25}, "has 25 words"),
     ({"example_id": "street-0", "expression": " "}, "is empty"),
     ({"example_id": "street-0", "expression": None}, "is empty"),
     ({"expression": "a cup"}, "names no crop"),
     ({"image": "street.png", "box": [1, 2, 3], "expression": "a cup"}, "names no crop"),
     ("{not json", "no JSON object"), ("[1]", "no JSON object")],
)  # fmt: skip
def test_a_wrong_row_is_named(file, row, says):
    """Words that nobody checked, found as a bad prompt hours later; an error without file and line."""
    with pytest.raises(LocusError, match=rf"expressions\.jsonl, line 2: .*{says}"):
        file({"example_id": "x", "expression": "a plate"}, row).audit([EXAMPLE])


def test_a_missing_expression_or_file_is_named(file, tmp_path):
    """An example without words, served with another's or with none."""
    with pytest.raises(
        LocusError, match=r"expressions\.jsonl: no expression for example street-0, box \[18, 8, 42, 32\]"
    ):
        file({"example_id": "x", "expression": "a plate"}).audit([EXAMPLE])
    with pytest.raises(LocusError, match=r"none\.jsonl: cannot be read .*cue\.path"):
        FileTextCue(str(tmp_path / "none.jsonl")).audit([EXAMPLE])


# --- In the prompt --------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Said(TextCue):
    """An expression for each example of `tests.support.models`, of different lengths."""

    words: str = "the striped cup"

    def over(self, source: ImageSource, examples: CueTable) -> Said:
        return self

    def audit(self, examples: Sequence[CueExample]) -> dict[str, Any]:
        return {}

    def expression(self, example: CueExample) -> str:
        return self.words + " far" * int(example.example_id.removeprefix("example-"))


EXAMPLES = [example(size, box, str(index)) for index, (size, box) in enumerate(SIZES)]


def samples(family: str, cue: Cue) -> list[Sample]:
    """Pictures of different sizes with such a cue each."""
    make = SampleMaker(cue_task(EXAMPLES, cue=cue), builder(family), FAMILIES[family][1])
    return [make(one) for one in EXAMPLES]


@FAMILY
def test_one_image_and_the_words(family: str):
    """The crop still in the prompt, words that are lost, or another target, frame or answer size."""
    make = builder(family)
    for said, shown in zip(samples(family, Said()), samples(family, PLAIN), strict=True):
        text, other = said.prompt, shown.prompt
        assert text.image_grid_thw.tolist() == other.image_grid_thw[:1].tolist()
        assert torch.equal(text.pixel_values, other.pixel_values[: int(text.image_grid_thw.prod())])
        assert int(text.mm_token_type_ids.sum()) == int(text.image_grid_thw.prod()) // 4
        words = Said().expression(said.example)
        assert f": {words}\n" in make.decode(text.input_ids)
        rows = [cue_task(EXAMPLES, cue=cue).row(said.example) for cue in (Said(), PLAIN)]
        assert [row["expression"] for row in rows] == [words, ""]
        assert (said.example, said.view, text.opened) == (shown.example, shown.view, other.opened)


@FAMILY
def test_group_forward_of_one_image(family: str):
    """Positions or image places that count on two images."""
    vlm, batch = tiny_vlm(family), completions(LENGTHS)
    records = [one.prompt for one in samples(family, Said())]
    with torch.no_grad():
        packed, separate = (score(vlm, records, batch, 1.0) for score in (PackedScorer(), SeparateScorer()))
    torch.testing.assert_close(packed.logprobs, separate.logprobs, rtol=0, atol=1e-5)
    plate = samples(family, Said("the plain plate"))[0].prompt
    with torch.no_grad():
        other = PackedScorer()(vlm, [plate, *records[1:]], batch, 1.0).logprobs
    assert (other[0] - packed.logprobs[0])[batch.mask[0]].abs().max() > 1e-3, "the words do not matter"


@FAMILY
def test_preflight(family: str):
    """A frame that is worked out from the cue's grid."""
    task = cue_task(EXAMPLES, cue=Said())
    report = preflight(task, samples(family, Said()), builder(family), FAMILIES[family][1])
    assert report.rewards["gold"] == pytest.approx(1, abs=1e-2) and report.rewards["foil"] < 0.9


def test_words_show_no_picture():
    """A crop rendered beside the words that stand for it."""
    assert Said().picture(EXAMPLES[0], Image.new("RGB", (96, 80))) is None
    assert len(cue_task(EXAMPLES, cue=Said()).prompt(EXAMPLES[0], Frame.FILE).images) == 1


# --- In pictures and tables -----------------------------------------------------------------------------------
def test_pictures_show_the_words():
    """A report that ends in an error, or shows a crop that the policy did not see."""
    tasks = [cue_task(EXAMPLES, cue=cue) for cue in (Said(), Said("a plate"))]
    asked = [(task.prompt(EXAMPLES[0], Frame.FILE), task.row(EXAMPLES[0])) for task in tasks]
    drawn, other = (comparison_picture(query, row, None, None) for query, row in asked)
    assert drawn.size == other.size and drawn.tobytes() != other.tobytes()


def test_the_browser_shows_the_words():
    """Words that are lost; a table of an older run, without the column or with nulls for its rows, that ends it."""
    row = {"prompt_id": "a", "image_path": "a.png", "bin": "tiny", "status": "ok", "target": [1.0, 1, 9, 9]}
    row |= {"box": [1.0, 1, 9, 9], "iou": 1.0, "reward": 1.0, "advantage": 0.0, "text": ""}
    old = pd.DataFrame([row | {"step": 1}])
    both = pd.DataFrame([row | {"step": 1, "expression": None}, row | {"step": 2, "expression": "the cup"}])
    for table, words in ((old, [""]), (both, ["", "the cup"])):
        shown = groups_of(table, lambda path: Image.new("RGB", (20, 20)), 10)["groups"]
        assert [group["expression"] for group in shown] == words


# --- In runs --------------------------------------------------------------------------------------------------
@pytest.mark.slow
def test_runs_with_each_cue(tmp_path):
    """An option that ends a run, or one that changes nothing; validation that follows the training's cue unasked."""
    names = ("visual", "augmented", "text", "text_file")
    file = tmp_path / "expressions.jsonl"
    rows = ({"example_id": f"scene-1-{n}-0", "expression": f"the thing number {n}"} for n in range(40))
    file.write_text("\n".join(map(json.dumps, rows)))
    for name in names:
        path = [f"cue.path={file}"] if name == "text_file" else []
        train(tmp_path / name, f"cue={name}", *path, "trainer.steps=2")
    rollouts = {name: pd.read_parquet(tmp_path / name / "rollouts.parquet") for name in names}
    assert set(rollouts["visual"]["expression"]) == set(rollouts["augmented"]["expression"]) == {""}
    assert all(text.startswith("the ") and len(text.split()) == 4 for text in rollouts["text"]["expression"])
    assert all(text.startswith("the thing number") for text in rollouts["text_file"]["expression"])
    firsts = [pd.read_parquet(tmp_path / name / "validation.parquet").query("step == 0") for name in names]
    assert all(first.equals(firsts[0]) for first in firsts[1:])  # before training all see the same
    assert not rollouts["visual"]["text"].equals(rollouts["augmented"]["text"])
    page = tmp_path / "page"
    succeeded(command("report", f"runs={tmp_path}", "browse=text", f"hydra.run.dir={page}"))  # settings some runs lack
    assert "<th>cue</th>" in (page / "report.html").read_text()
    record = json.loads((tmp_path / "text" / "run.json").read_text())
    assert record["audits"]["cue"] == {"expressions": 24, "ambiguous": 0} and "validation_cue" not in record["audits"]


@pytest.mark.slow
def test_textual_validation_and_sft(tmp_path):
    """Validation prompts and pictures that count on a cue; a report that ends at its gallery."""
    train(tmp_path, "cue=text", "cue@validation_cue=text", "algorithm=sft", "trainer.steps=1")
    record = json.loads((tmp_path / "run.json").read_text())
    assert record["audits"]["validation_cue"]["expressions"] == 4 and (tmp_path / "report.html").exists()
    refused(
        command("train", "cue=text_file", "cue.path=none.jsonl", f"hydra.run.dir={tmp_path / 'none'}"), "none.jsonl"
    )
