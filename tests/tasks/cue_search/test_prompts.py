"""The prompt's exact words, and that what an oracle writes is read back."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from PIL import Image

from locus.errors import LocusError
from locus.tasks.answers import COORDINATE_WORDS, after_opened, box_text, completion_text, parse_answer
from locus.tasks.cue_search.prompts import PAPER, CuePrompt
from locus.tasks.cue_search.teacher import expression_messages, rationale_messages
from locus.tasks.cue_search.text_cues import LabelTextCue
from locus.types import Box, Frame, Status
from tests.support import documents
from tests.support.documents import SHELL
from tests.support.models import cue_task, example
from tests.support.paths import CONF, REPO

WORDS = """\
Image 1 is a full scene image. Image 2 is a cropped region from Image 1. Please find where Image 2 is located in \
Image 1, and output the bounding box as [x1, y1, x2, y2] in pixel coordinates.
A conversation between User and Assistant. The user asks a question, and the Assistant solves it. The assistant first \
thinks about the reasoning process in the mind and then provides the user with the answer. The reasoning process and \
answer are enclosed within <think> </think> and <answer> </answer> tags, respectively, i.e., <think> reasoning process \
here </think><answer> answer here </answer>."""
PAPER_RATIONALE = """\
Image 1 is a full scene image. Image 2 is a cropped region from Image 1.
The cropped region is located at [8, 12, 40, 44] in Image 1 (pixel coordinates [x1, y1, x2, y2]).
Please write a brief reasoning process (2–3 sentences) explaining how you would identify where Image 2 is located in \
Image 1 based on the visual cues in the crop. Then provide the bounding box.
Output format:
<think>your reasoning</think>
<answer>[8, 12, 40, 44]</answer>"""
PAPER_EXPRESSION = """\
You are given a full image and a cropped region from it. The cropped region highlights a specific object in the scene.
Write a short, precise referring expression (1 sentence, under 25 words) that uniquely identifies this object in the \
full image. Focus on its category, appearance, size, and spatial position relative to other objects.
Output only the referring expression, nothing else."""
"""Appendices B.2, C.2 and C.3, typed from the paper."""
SIZES = {Frame.FILE: (640, 480), Frame.PROCESSED: (644, 476), Frame.UNIT1000: (1000, 1000), Frame.UNIT: (1, 1)}


def test_the_papers_words():
    """Prompts are protocol: one changed word is another task, or another teacher."""
    one = example((96, 80), (8, 12, 40, 44))
    for frame in (Frame.PROCESSED, Frame.FILE):
        assert PAPER.text(frame) == WORDS
    for ask, paper in ((rationale_messages, PAPER_RATIONALE), (expression_messages, PAPER_EXPRESSION)):
        (message,) = ask(one, Image.new("RGB", (96, 80)), Image.new("RGB", (32, 32)))
        *images, instruction = message["content"]
        assert message["role"] == "user" and [part["type"] for part in images] == ["image_url"] * 2
        assert instruction == {"type": "text", "text": paper}


def test_relative_coordinates_are_named():
    """A policy that speaks 0-1000 and is asked for pixels: only the words of the frame differ."""
    ours = PAPER.text(Frame.UNIT1000)
    assert "pixel" not in ours and "in relative coordinates from 0 to 1000." in ours
    words = COORDINATE_WORDS[Frame.UNIT1000], COORDINATE_WORDS[Frame.PROCESSED]
    assert ours.replace(*words) == PAPER.text(Frame.PROCESSED)
    assert set(COORDINATE_WORDS) == set(Frame)


@pytest.mark.parametrize("frame", Frame)
def test_what_is_asked(frame):
    """The full image comes first, then the cue, then the question and nothing else."""
    one = example((96, 80), (8, 12, 40, 44))
    query = cue_task([one]).prompt(one, frame)
    assert [image.size for image in query.images] == [(96, 80), (32, 32)]
    assert query.images[0].crop((8, 12, 40, 44)).tobytes() == query.images[1].tobytes()
    assert query.text == PAPER.text(frame)


TEXT = (
    "Please find the object described by the following text in the image, and output the bounding box as "
    "[x1, y1, x2, y2] in pixel coordinates: the dotted red star"
)
"""Appendix C.3, whose parts these are."""


def test_an_expression_stands_for_the_cue():
    """Words that the visual prompt has not, a second image place, or another instruction: not the same task."""
    one = replace(example((96, 80), (8, 12, 40, 44)), label="the dotted red star")
    query = cue_task([one], cue=LabelTextCue()).prompt(one, Frame.PROCESSED)
    assert [image.size for image in query.images] == [(96, 80)]
    first, instruction = query.text.split("\n", 1)
    assert first == TEXT and instruction == PAPER.text(Frame.PROCESSED).split("\n", 1)[1]
    relative = PAPER.text(Frame.UNIT1000, "the {odd} cup")
    assert ": the {odd} cup\n" in relative and "in relative coordinates from 0 to 1000:" in relative


@pytest.mark.parametrize("option", ["short_instruction", "plain"])
def test_a_run_is_asked_in_other_words(option):
    """``task/prompt=`` that changes nothing, loses the frame or the expression, or parses as an answer itself."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        words = instantiate(compose("train", [f"task/prompt={option}"]).task.prompt)
    one = example((96, 80), (8, 12, 40, 44))
    task = cue_task([one], prompt=words)
    for frame, expression in ((Frame.PROCESSED, ""), (Frame.UNIT1000, "the {odd} cup")):
        text = words.text(frame, expression)
        assert text != PAPER.text(frame, expression) and COORDINATE_WORDS[frame] in text and expression in text
        assert "<answer>" in text and parse_answer(text).status is not Status.OK
        assert task.prompt(one, frame).text == words.text(frame)


@pytest.mark.parametrize("option", ["paper", "short_instruction", "plain"])
def test_the_documented_override_asks_in_words_of_ones_own(option):
    """A documented key that Hydra refuses: the paper's prompt has no such key in its file."""
    blocks = documents.blocks((REPO / "docs" / "training.md").read_text())
    commands = [words for block in blocks if block.language in SHELL for words in documents.commands(block.text)]
    found = [word for words in commands for word in words if "prompt.question" in word]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        words = instantiate(compose("train", [f"task/prompt={option}", *found]).task.prompt)
    assert words.text(Frame.UNIT1000).startswith("Find Image 2 in Image 1. Give the box [x1, y1, x2, y2] in relative")


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        ({"question": "Where is it?"}, "must hold {coordinates}"),
        ({"expression_question": "Where, {coordinates}?"}, "{coordinates} and {expression}"),
        ({"question": "Where, {coordinates}, {"}, "double a brace"),
        ({"instruction": "Think first."}, "<answer>"),
    ],
)
def test_words_that_cannot_be_answered_are_refused(words: dict, fault: str):
    """A day of runs that are not told their frame, or whose answers nobody reads."""
    with pytest.raises(LocusError, match=re.escape(fault)):
        CuePrompt(**words)


def test_the_prompt_holds_no_answer():
    """A prompt echoed into the completion must not parse as a box."""
    for frame in Frame:
        assert parse_answer(PAPER.text(frame)).status is not Status.OK


@pytest.mark.parametrize("opened", ["", "<think>", "<think>\n"])
@pytest.mark.parametrize("frame", Frame)
def test_an_answer_is_read_back(frame, opened):
    """The oracle of the pre-flight must earn full format reward, also where the template opened <think>."""
    box = Box(12.125, 0, 99.5, 474.75, frame, *SIZES[frame])
    text = after_opened(completion_text(box_text(box, 3), "It is the red one."), opened)
    parsed = parse_answer(opened + text)
    assert (parsed.status, parsed.xyxy, parsed.well_formed) == (Status.OK, box.xyxy, True)
    assert (opened + text).count("<think>") == 1


def test_box_text_by_hand():
    """Digits are those asked for; no frame is converted on the way; rounding is to the nearest."""
    box = Box(1.26, -0.74, 30.5, 1000, Frame.UNIT1000, 1000, 1000)
    assert box_text(box) == "[1, -1, 30, 1000]"
    assert box_text(box, 1) == "[1.3, -0.7, 30.5, 1000.0]"
    assert completion_text(box_text(box)) == "<think></think><answer>[1, -1, 30, 1000]</answer>"
    assert after_opened(completion_text("red", "a"), "<think>\n") == "a</think><answer>red</answer>"
    assert after_opened(completion_text("red", "a"), "") == "<think>a</think><answer>red</answer>"


def test_only_the_opening_tag_is_left_out():
    """A thought that speaks of the tag itself keeps its words."""
    assert after_opened(completion_text("red", "the <think> tag"), "<think>").startswith("the <think> tag</think>")
