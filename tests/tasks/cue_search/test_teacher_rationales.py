"""Rationales by a teacher behind a chat endpoint on this machine."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from locus.errors import LocusError
from locus.tasks.cue_search.cues import render_cue
from locus.tasks.cue_search.teacher import TeacherRationales, reasoning
from tests.support.chat_server import endpoint
from tests.support.runs import SMALLEST, command, refused, succeeded, train
from tests.support.taught_examples import BOX, Noise, examples, picture

WORDS = ["one", "two", "three", "four", "five", "six"]
SAID = "Image 2 shows a sign. It hangs beside the door."
REPLY = f"<think>{SAID}</think>\n<answer>[30, 20, 60, 50]</answer>"


def teacher(url: str, folder: Path, **settings: Any) -> TeacherRationales:
    return TeacherRationales(Noise(), url, "m", str(folder / "new" / "replies.jsonl"), wait=0, **settings)


def test_the_teacher_sees_both_images_and_reads_the_box(tmp_path, monkeypatch):
    """A teacher that is not told the place, or told another one; a mark drawn into what it describes."""
    monkeypatch.setenv("A_KEY", "secret")
    with endpoint(REPLY) as (url, seen):
        rationales = teacher(url, tmp_path, key_variable="A_KEY", temperature=0.5)
        assert list(rationales.rationales(examples(1))) == [SAID]
    (request,) = seen
    assert request["model"] == "m" and request["temperature"] == 0.5 and request["key"] == "Bearer secret"
    (message,) = request["messages"]
    image, cue, instruction = message["content"]
    assert message["role"] == "user" and instruction["text"].count("[30, 20, 60, 50]") == 2
    original = Noise().open("i.png")
    assert list(picture(cue, "png").getdata()) == list(render_cue(original, BOX).getdata())
    loss = np.abs(np.asarray(picture(image, "jpeg")).astype(int) - np.asarray(original))
    assert loss[20:50, 30:60].mean() < 12  # of JPEG
    loss[16:56, 24:64] = 0  # its blocks of the texture
    assert loss.max() < 8


def test_the_teacher_is_asked_again_only_where_that_helps(tmp_path):
    """A preparation of days that ends at the first busy server, or keeps an empty reply for a rationale."""
    with endpoint(500, b"no json", SAID, "<answer>[1, 2, 3, 4]</answer>", REPLY) as (
        url,
        seen,
    ):
        assert list(teacher(url, tmp_path).rationales(examples(1))) == [SAID] and len(seen) == 5
        assert list(teacher(url, tmp_path).rationales(examples(1))) == [SAID] and len(seen) == 5


@pytest.mark.parametrize(
    ("reply", "says", "asked"),
    [
        ("<think> </think><answer>[1, 2, 3, 4]</answer>", "the rationale is empty", 3),
        ("<think>I am cut off", "no <think> block", 3),
        ("<think>a<answer>b</think>", "the rationale holds <answer>", 3),
        (401, "status 401", 1),
        (503, "status 503", 3),
    ],
)
def test_no_rationale_is_one_error(tmp_path, reply, says, asked):
    """Examples left out without a word; a refused key tried for each of 100,000 examples."""
    with endpoint(reply) as (url, seen):
        rationales = teacher(url, tmp_path, tries=3, workers=1)
        with pytest.raises(LocusError, match=rf"example e-0: rationales m at {url}.*{says}.*check rationales.url"):
            list(rationales.rationales(examples(20)))
    # The one worker may have begun the next example before the first one's error was seen.
    assert asked <= len(seen) <= 3 * asked and not (tmp_path / "new").exists()


def test_wrong_settings_are_named(tmp_path):
    """A file read as if it were a server; a pool's own traceback."""
    with pytest.raises(LocusError, match="rationales.url"):
        teacher("localhost:8000", tmp_path)
    with pytest.raises(LocusError, match="rationales.workers=0"):
        teacher("http://localhost:1", tmp_path, workers=0)
    with pytest.raises(LocusError, match="NO_SUCH_KEY"):
        list(teacher("http://localhost:1", tmp_path, key_variable="NO_SUCH_KEY").rationales(examples(1)))


def test_several_requests_at_a_time_keep_the_order(tmp_path):
    """100,000 requests one after the other; one example's rationale under another's id."""
    together = threading.Barrier(4)

    def reply(request: dict[str, Any]) -> str:
        together.wait(timeout=10)  # never passed unless four are under way
        part = next(part for part in reversed(request["messages"][-1]["content"]) if "image_url" in part)
        return f"<think>{picture(part, 'png').width} pixels wide.</think>"

    with endpoint(reply) as (url, seen):
        said = list(teacher(url, tmp_path, workers=4).rationales(examples(8)))
    assert said == [f"{30 - number} pixels wide." for number in range(8)] and len(seen) == 8
    lines = [json.loads(line) for line in (tmp_path / "new" / "replies.jsonl").read_text().splitlines()]
    assert {line["example_id"]: line["reply"] for line in lines} == dict(
        zip([f"e-{n}" for n in range(8)], said, strict=True)
    )


def test_reasoning_is_the_last_think_block():
    """A thinking teacher's draft taught to the student, or its box within the thought."""
    assert reasoning(f"<think>Hm.\nSo?</think>\n{REPLY}\n") == reasoning(REPLY.replace(". ", ".\n")) == SAID
    for reply in (SAID, f"{SAID}</think>", f"<think>{SAID}"):
        with pytest.raises(ValueError, match="no <think> block"):
            reasoning(reply)


def test_prepare_goes_on_from_the_replies_it_has(tmp_path):
    """The command paid for twice after a server went away; rationales that do not belong to their examples."""
    corpus = [text for text in SMALLEST if text.startswith(("data", "crop"))]
    keys = {"model": "m", "workers": 1, "tries": 1, "cache": tmp_path / "replies.jsonl"}
    asked = [*corpus, "data.train_examples=6", "audit.ambiguity_sample=0", "rationales=endpoint"]
    asked += [f"rationales.{key}={value}" for key, value in keys.items()]
    one, two, three, four, five, six = (f"<think>{word}</think>" for word in WORDS)
    with endpoint(one, two, 400) as (url, _):
        folder = f"hydra.run.dir={tmp_path / 'first'}"
        refused(command("prepare", *asked, folder, f"rationales.url={url}"), "rationales m at", "status 400", "resumes")
    assert not (tmp_path / "first" / "targets.jsonl").exists()
    with endpoint(three, four, five, six) as (url, seen):
        succeeded(command("prepare", *asked, f"hydra.run.dir={tmp_path / 'second'}", f"rationales.url={url}"))
    written = [json.loads(line) for line in (tmp_path / "second" / "targets.jsonl").read_text().splitlines()]
    assert [row["rationale"] for row in written] == WORDS and len(seen) == 4
    assert not (tmp_path / "second" / "targets.jsonl.part").exists()


@pytest.mark.slow
def test_training_may_ask_as_it_goes(tmp_path):
    """A source that the method's configuration builds otherwise than the data's; each example asked for once."""
    with endpoint(REPLY) as (url, seen):
        options = ["algorithm=sft", "rationales=endpoint", "rationales.model=m", f"rationales.url={url}"]
        options += ["rollout.sampling.max_new_tokens=96"]
        train(tmp_path / "run", *options, f"rationales.cache={tmp_path / 'replies.jsonl'}")
    assert len(seen) == 6
