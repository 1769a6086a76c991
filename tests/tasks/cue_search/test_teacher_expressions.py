"""Referring expressions by a teacher behind a chat endpoint on this machine."""

from __future__ import annotations

import json

import numpy as np
import pytest

from locus.errors import LocusError
from locus.tasks.cue_search.corpus import Corpus
from locus.tasks.cue_search.cues import render_cue
from locus.tasks.cue_search.teacher import EXPRESSION_INSTRUCTION, TeacherExpressions, expression_of
from locus.tasks.cue_search.text_cues import FileTextCue
from tests.support.chat_server import endpoint
from tests.support.runs import SMALLEST, command, refused, succeeded
from tests.support.taught_examples import BOX, Noise, examples, picture

TOO_LONG = "word " * 25
ASKED = [text for text in SMALLEST if text.startswith(("data", "crop"))] + [
    "data.train_examples=4", "data.validation_examples=2", "audit.ambiguity_sample=0", "cue=text_endpoint",
    "cue.model=m", "cue.workers=1",
]  # fmt: skip


def test_the_teacher_sees_both_images_and_no_box(tmp_path):
    """A rectangle drawn into what the expression describes, the pictures exchanged, or a box that gives the place
    away; a too long answer that is kept."""
    with endpoint(TOO_LONG, "<think>A cup?</think>\nthe noise") as (url, seen):
        teacher = TeacherExpressions(Noise(), url, "m", str(tmp_path / "replies.jsonl"), wait=0)
        assert list(teacher.expressions(examples(1))) == ["the noise"] and len(seen) == 2
    (message,) = seen[0]["messages"]
    image, cue, instruction = message["content"]
    assert instruction["text"] == EXPRESSION_INSTRUCTION and message["role"] == "user"
    original = Noise().open("i.png")
    assert list(picture(cue, "png").getdata()) == list(render_cue(original, BOX).getdata())
    loss = np.abs(np.asarray(picture(image, "jpeg")).astype(int) - np.asarray(original))
    loss[16:56, 24:64] = 0  # JPEG's blocks of the texture
    assert loss.max() < 8


@pytest.mark.parametrize(
    ("reply", "expression"),
    [('"The red cup on the left."\n', "The red cup on the left"), ('"a plate".', "a plate"), ("a cup", "a cup")],
)
def test_an_expression_ends_like_the_others(reply, expression):
    """Quotation marks that the student would see in its prompt; a full stop before the prompt's own."""
    assert expression_of(reply) == expression


@pytest.mark.parametrize(("reply", "says"), [(TOO_LONG, "25 words"), ("", "is empty"), ("a\ncup", "one line")])
def test_no_expression_is_one_error(tmp_path, reply, says):
    """A bad prompt for want of a check, or words that no teacher wrote in its place; settings that go unnamed."""
    with endpoint(reply) as (url, seen):
        teacher = TeacherExpressions(Noise(), url, "m", str(tmp_path / "new" / "replies.jsonl"), tries=2, wait=0)
        with pytest.raises(LocusError, match=rf"example e-0: cue m at .*{says}.*check cue\.url"):
            list(teacher.expressions(examples(1)))
    assert len(seen) == 2 and not (tmp_path / "new").exists()
    with pytest.raises(LocusError, match=r"cue\.workers=0"):
        TeacherExpressions(Noise(), "http://localhost:1", "m", "replies.jsonl", workers=0)


def test_prepare_writes_what_text_file_reads(tmp_path):
    """Validation left without words; answers paid for twice; a half file, or one that the cue does not take."""
    cache = f"cue.cache={tmp_path / 'replies.jsonl'}"
    with endpoint("thing one", "thing two", 400) as (url, _):
        options = [f"hydra.run.dir={tmp_path / 'first'}", cache, f"cue.url={url}"]
        refused(command("prepare", *ASKED, *options), "cue m at", "status 400", "resumes")
    assert not (tmp_path / "first" / "expressions.jsonl").exists()
    with endpoint("thing three", "thing four", "thing five", "thing six") as (url, seen):
        options = [f"hydra.run.dir={tmp_path / 'second'}", cache, f"cue.url={url}"]
        succeeded(command("prepare", *ASKED, *options))
    assert len(seen) == 4
    corpus = Corpus.load(tmp_path / "second")
    file = tmp_path / "second" / "expressions.jsonl"
    cue, every = FileTextCue(str(file)), [*corpus.train, *corpus.validation]
    assert [cue.expression(one) for one in every] == [
        f"thing {n}" for n in ("one", "two", "three", "four", "five", "six")
    ]
    assert cue.audit(corpus.validation) == {"expressions": 2, "ambiguous": 0}
    assert [json.loads(line)["example_id"] for line in file.read_text().splitlines()] == [
        one.example_id for one in every
    ]
