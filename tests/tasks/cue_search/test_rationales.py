"""Rationales of SFT: templates, files, and what ``locus.prepare`` writes for ``locus.train``."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, replace
from itertools import product
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest

from locus.errors import LocusError
from locus.policy.tiny_tokenizer import tiny_tokenizer
from locus.scenes.render import COLOURS, PATTERNS, SHAPES
from locus.tasks.answers import box_text, completion_text
from locus.tasks.cue_search.corpus import SCHEMA, CueTable
from locus.tasks.cue_search.rationales import (
    NO_RATIONALES,
    TEMPLATES,
    UNNAMED,
    FileRationales,
    LabelRationales,
    Rationales,
    TemplateRationales,
    rationale,
    write_rationales,
)
from locus.types import CueExample
from tests.support.runs import SMALLEST, command, refused, succeeded, train

ROOM = 48
"""Tokens of a completion in the default run."""


def example(name: str = "e-0", box: tuple[float, ...] = (10, 10, 20, 20), label: str = "dotted red star") -> CueExample:
    """An example on 300x150 pixels; the default box is 0.2 % of them, at the top left."""
    return CueExample(name, "i", "i.png", 300, 150, box, 0.1, "tiny", label)


def table(*examples: CueExample) -> CueTable:
    """Rows of a corpus."""
    return CueTable(pa.Table.from_pylist([asdict(one) for one in examples], schema=SCHEMA))


def of_every_template(one: CueExample) -> list[str]:
    """The example's rationale in each template: under ids that choose it."""
    found: dict[str, str] = {}
    for number in range(100):
        text = rationale(replace(one, example_id=f"e-{number}"))
        found.setdefault(text.split(one.label or UNNAMED)[0], text)
    assert len(found) == len(TEMPLATES)
    return list(found.values())


# --- Templates ------------------------------------------------------------------------------------------------
def test_a_rationale_by_hand():
    """Blanks filled with the wrong thing; another text for the same example in the next run."""
    texts = of_every_template(example())
    assert (
        "The cue is cropped from a tiny region with one dotted red star. "
        "The dotted red star that matches it is at the top left of the image." in texts
    )
    one = example()
    assert list(TemplateRationales().rationales([one, one])) == [rationale(one)] * 2
    # Python's own hash of a text differs from process to process; these are sha256 modulo 4: 0, 3, 1.
    chosen = [rationale(example(f"e-{number}")).split()[:2] for number in (1, 2, 6)]
    assert chosen == [["The", "cue"], ["To", "find"], ["There", "is"]]


@pytest.mark.parametrize(
    ("box", "says", "size"),
    [
        ((0, 0, 20, 20), "at the top left", "tiny"),
        ((140, 0, 160, 49), "at the top", "small"),
        ((280, 0, 300, 20), "at the top right", "tiny"),
        ((0, 60, 99, 90), "on the left", "large"),
        ((0, 0, 300, 150), "in the middle", "large"),
        ((201, 70, 221, 80), "on the right", "tiny"),
        ((0, 140, 20, 150), "at the bottom left", "tiny"),
        ((130, 110, 170, 150), "at the bottom", "small"),
        ((299, 149, 300, 150), "at the bottom right", "tiny"),
    ],
)
def test_templates_say_where_the_box_lies_and_how_large_it_is(box, says, size):
    """x and y exchanged, thirds of the wrong side, "at the top" for "at the top left": a policy is taught the wrong."""
    for text in of_every_template(example(box=box)):
        assert re.search(rf"\b{says}(?! left| right)\b", text), text
        assert re.search(rf"\b{size}\b", text), text
        assert 2 <= text.count(".") <= 3 and text.endswith(".")


def test_scene_rationales_are_single_tokens_and_fit_with_the_box():
    """A word that the tiny tokenizer spells in bytes: the completion is cut off before its box in every validation."""
    tokenizer = tiny_tokenizer()
    longest = max(map(len, (PATTERNS, COLOURS, SHAPES)))
    columns = ([*words] * longest for words in (PATTERNS, COLOURS, SHAPES))
    labels = [*map(" ".join, zip(*(column[:longest] for column in columns), strict=True)), ""]  # each word once
    for label, box in product(labels, ((0, 0, 20, 20), (280, 130, 300, 150), (0, 0, 300, 150))):
        for text in of_every_template(example(box=box, label=label)):
            ids = tokenizer.encode(text, add_special_tokens=False)
            assert [tokenizer.decode([token]) for token in ids] == re.findall(r", | ?\w+|\.", text)
            whole = completion_text(box_text(example(box=box).target), text)
            assert len(tokenizer.encode(whole, add_special_tokens=False)) + 1 <= ROOM, text  # with the end token


# --- Labels ---------------------------------------------------------------------------------------------------
def test_a_label_is_the_whole_thought():
    """Other words than those that the policy was taught to think in."""
    assert list(LabelRationales().rationales([example(), example(label=" a\ncup ")])) == ["dotted red star", "a cup"]
    LabelRationales().check(table(example(), example("e-1", label="cup")))


@pytest.mark.parametrize("label", ["", " ", "a<answer>b"])
def test_an_example_without_a_label_is_named(label):
    """An empty thought, or one with tags, that half of the targets teach."""
    one = example("e-1", label=label)
    for fails in (
        lambda: LabelRationales().check(table(example(), one)),
        lambda: list(LabelRationales().rationales([one])),
    ):
        with pytest.raises(LocusError, match=r"example e-1 has the label .*: use data with labels \(generated scenes"):
            fails()


# --- Files ----------------------------------------------------------------------------------------------------
GOOD = '{"example_id": "e-0", "rationale": " It is\\nthere. "}'


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "cannot be read .*pass rationales.path"),
        ("", "has no rationales; write one line"),
        ("\n\n", "has no rationales"),
        (f"{GOOD}\n{{", "line 2: .*write one"),
        (f'{GOOD}\n\n["e-1", "There."]', "line 3: not an example_id with a rationale"),
        ('{"example_id": 1, "rationale": "There."}', "line 1: not an example_id"),
        ('{"example_id": "e-1"}', "line 1: not an example_id"),
        ('{"example_id": "e-1", "rationale": " "}', "line 1: the rationale is empty"),
        ('{"example_id": "e-1", "rationale": "a</think>b"}', "line 1: the rationale holds </think>"),
        (f"{GOOD}\n{GOOD}", "line 2: a second rationale for e-0"),
        (GOOD, "no rationale for 2 of the examples, first e-1; give the targets.jsonl"),
    ],
)
def test_a_wrong_file_is_one_error(tmp_path, content, says):
    """A traceback of json, or a run that finds out in its last epoch."""
    path = tmp_path / "t.jsonl"
    if content is not None:
        path.write_text(content)
    rationales = FileRationales(str(path))
    with pytest.raises(LocusError, match=f"t.jsonl.*{says}"):
        rationales.check(table(*(example(f"e-{number}") for number in range(3))))


def test_what_is_written_is_read_again(tmp_path):
    """Rationales that slip by one example; an empty file where there are none."""
    examples = [example(f"e-{number}", label=f"blå ring\u2028{number}") for number in range(5)]
    write_rationales(TemplateRationales(), examples, tmp_path)
    written = FileRationales(str(tmp_path / "targets.jsonl"))
    chosen = [examples[3], examples[0]]
    assert list(written.rationales(chosen)) == [" ".join(rationale(one).split()) for one in chosen]
    write_rationales(NO_RATIONALES, examples, tmp_path / "none")
    assert not (tmp_path / "none").exists() and list(NO_RATIONALES.rationales(examples)) == [""] * 5
    with pytest.raises(LocusError, match="choose another hydra.run.dir"):
        write_rationales(TemplateRationales(), examples, tmp_path / "no" / "folder")


class Stopping(Rationales):
    """Fails at the third example."""

    def rationales(self, examples):
        yield from ("one", "two")
        raise LocusError("the teacher is away")


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    """Half a file that a training takes for all there is, or that replaces a whole one."""
    (tmp_path / "targets.jsonl").write_text(GOOD)
    with pytest.raises(LocusError, match="away"):
        write_rationales(Stopping(), [example()] * 3, tmp_path)
    assert (tmp_path / "targets.jsonl").read_text() == GOOD


# --- The commands ---------------------------------------------------------------------------------------------
CORPUS = [text for text in SMALLEST if text.startswith(("data", "crop"))]
SFT = ["algorithm=sft", "rollout.sampling.max_new_tokens=48"]


def prepared(folder: Path, *overrides: object) -> Path:
    """A corpus of the smallest sizes."""
    succeeded(command("prepare", *CORPUS, "audit.ambiguity_sample=0", f"hydra.run.dir={folder}", *overrides))
    return folder


def test_prepare_writes_a_rationale_for_each_training_example(tmp_path):
    """A file for the default, which has none; rationales of held-out examples, which a teacher is paid for."""
    assert not (prepared(tmp_path / "none") / "targets.jsonl").exists()
    folder = prepared(tmp_path / "corpus", "rationales=templates")
    rows = pd.read_parquet(folder / "corpus.parquet")
    written = [json.loads(line) for line in (folder / "targets.jsonl").read_text().splitlines()]
    train_rows = rows[rows["split"] == "train"]
    assert [row["example_id"] for row in written] == train_rows["example_id"].tolist() and len(written) == 24
    assert all(label in row["rationale"] for label, row in zip(train_rows["label"], written, strict=True))


@pytest.mark.slow
def test_training_on_prepared_rationales(tmp_path):
    """The two commands of the README; the same rationales made on the fly give the same run."""
    corpus = prepared(tmp_path / "corpus", "rationales=templates")
    file = [f"corpus={corpus}", "rationales=file", f"rationales.path={corpus / 'targets.jsonl'}"]
    train(tmp_path / "file", *SFT, *file)
    train(tmp_path / "fly", *SFT, f"corpus={corpus}", "rationales=templates")
    train(tmp_path / "empty", *SFT, f"corpus={corpus}")
    tables = {name: pd.read_csv(tmp_path / name / "metrics.csv") for name in ("file", "fly", "empty")}
    losses = {name: table["train/loss"].dropna().tolist() for name, table in tables.items()}
    assert losses["file"] == losses["fly"] != losses["empty"]
    lengths = {name: table["train/completion_length"].mean() for name, table in tables.items()}
    assert lengths["empty"] == 14 and 14 + 20 < lengths["file"] <= ROOM


@pytest.mark.slow
def test_wrong_targets_end_a_run_before_it_begins(tmp_path):
    """An hour of training before the first example that has no rationale, or a target that no completion can reach."""
    corpus = prepared(tmp_path / "corpus")
    (tmp_path / "t.jsonl").write_text(GOOD)
    start = [*SMALLEST, *SFT, f"corpus={corpus}"]
    ended = command(
        "train", *start, "rationales=file", f"rationales.path={tmp_path / 't.jsonl'}", f"hydra.run.dir={tmp_path / 'a'}"
    )
    refused(ended, "t.jsonl: no rationale for 24 of the examples", "locus.prepare")
    assert pd.read_parquet(tmp_path / "a" / "validation.parquet").empty
    refused(command("train", *start, "rationales=file", f"hydra.run.dir={tmp_path / 'b'}"), "pass rationales.path=")
    short = [*start, "rollout.sampling.max_new_tokens=20", "rationales=templates", f"hydra.run.dir={tmp_path / 'c'}"]
    refused(command("train", *short), "completions end at 20", "rollout.sampling.max_new_tokens")
