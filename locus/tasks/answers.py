"""The form of answers: how they are asked for, written, and read. The one parser; it never raises, whatever the bytes.

The text scored is what the chat template already opened (Qwen3-VL-Thinking opens ``<think>``) plus the completion.
"""

from __future__ import annotations

import re
import unicodedata

from locus.boxes import edges, is_valid
from locus.types import Box, Frame, ParsedAnswer, Status

# Unambiguous, so that a megabyte of digits costs linear time.
_NUMBER = r"[-+]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?"
_SEPARATED = r"\s*,\s*".join([f"({_NUMBER})"] * 4)
_BOX = re.compile(rf"\[\s*{_SEPARATED}\s*\]", re.ASCII)
_CORNERS = re.compile(
    rf"\(\s*({_NUMBER})\s*,\s*({_NUMBER})\s*\)\s*(?:,\s*)?\(\s*({_NUMBER})\s*,\s*({_NUMBER})\s*\)", re.ASCII
)
_SIDES = ("x1|x_?min|left", "y1|y_?min|top", "x2|x_?max|right", "y2|y_?max|bottom")
_QUOTED = rf"[\"']?({_NUMBER})[\"']?"
NAMED_SIDES = re.compile(
    r"[^\dxy]{1,8}".join(rf"\b(?:{names})\b[^\d\n.-]{{1,6}}{_QUOTED}" for names in _SIDES), re.ASCII
)
"""A box whose numbers are named, ``x1=701, y1=88, x2=820, y2=240``, as training and evaluation read it."""
TAGS = ("<think>", "</think>", "<answer>", "</answer>")
THINK_ANSWER = (
    "A conversation between User and Assistant. The user asks a question, and the Assistant solves it. The assistant "
    "first thinks about the reasoning process in the mind and then provides the user with the answer. The reasoning "
    "process and answer are enclosed within <think> </think> and <answer> </answer> tags, respectively, i.e., "
    "<think> reasoning process here </think><answer> answer here </answer>."
)
"""Asks for the form that the format reward wants (the paper's appendix B.2, to the letter)."""
COORDINATE_WORDS = {
    Frame.FILE: "in pixel coordinates",
    Frame.PROCESSED: "in pixel coordinates",
    Frame.UNIT1000: "in relative coordinates from 0 to 1000",
    Frame.UNIT: "in relative coordinates from 0 to 1",
}
"""How the answer's frame is named to the model; the paper's own words are those of pixels (Qwen2.5-VL)."""
FRACTION_DIGITS = 3
"""Which make a fraction of a side as fine as a thousandth of it."""


def parse_answer(text: str, finished: bool = True) -> ParsedAnswer:
    """Reads the box of the last complete answer block.

    Args:
        text: of a `Response`: what the chat template opened, then the completion.
        finished: the completion ended by itself; if not, a missing answer is `truncated`, not an error of format.

    Returns:
        Status ok with xyxy as written (no frame, no clipping), or why there is none. ``well_formed`` is the
        structure of the paper's format reward: think, then answer, each once, the answer one ``[x1, y1, x2, y2]``
        that is a valid box.
    """
    answer = answer_block(text)
    if answer is None:
        return ParsedAnswer(Status.NO_ANSWER_TAG if finished else Status.TRUNCATED, None, False)
    match = _BOX.search(answer) or _CORNERS.search(answer) or NAMED_SIDES.search(answer)
    if match is None:
        return ParsedAnswer(Status.NO_BOX, None, False)
    xyxy = edges(float(number) for number in match.groups())
    if not is_valid(xyxy):
        return ParsedAnswer(Status.INVALID_BOX, None, False)
    return ParsedAnswer(Status.OK, xyxy, _has_structure(text) and _BOX.fullmatch(answer.strip()) is not None)


def parse_text(text: str, finished: bool = True) -> ParsedAnswer:
    """Reads the text of the last complete answer block; arguments and tags as in `parse_answer`."""
    answer = answer_block(text)
    if answer is None:
        return ParsedAnswer(Status.NO_ANSWER_TAG if finished else Status.TRUNCATED, None, False)
    return ParsedAnswer(Status.OK, None, bool(answer.strip()) and _has_structure(text), answer.strip())


def normalised(text: str) -> str:
    """A short answer as it is compared: lower case, single spaces, no quotes around it, no punctuation at its end."""
    spaced = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    return spaced.lstrip(" \"'`*").rstrip(" \"'`*.,;:!?")


def answer_block(text: str) -> str | None:
    """Content of the last closed answer block, or None; by plain search: no regular expression runs over long text."""
    end = text.rfind("</answer>")
    start = text.rfind("<answer>", 0, end) if end >= 0 else -1
    return text[start + len("<answer>") : end] if start >= 0 else None


def _has_structure(text: str) -> bool:
    """``<think>…</think><answer>…</answer>``: each tag once, in order, nothing but space around the blocks."""
    if any(text.count(tag) != 1 for tag in TAGS):
        return False
    think, end_think, answer, end_answer = (text.index(tag) for tag in TAGS)
    between = text[end_think + len("</think>") : answer]
    around = text[:think] + text[end_answer + len("</answer>") :]
    return think < end_think < answer < end_answer and not between.strip() and not around.strip()


def completion_text(answer: str, thought: str = "") -> str:
    """A well-formed response."""
    return f"<think>{thought}</think><answer>{answer}</answer>"


def box_text(box: Box, digits: int = 0) -> str:
    """``[x1, y1, x2, y2]`` in the box's own frame, with this many decimals, and three more of a fraction."""
    digits += FRACTION_DIGITS if box.frame is Frame.UNIT else 0
    return "[" + ", ".join(f"{value:.{digits}f}" for value in box.xyxy) + "]"


def after_opened(response: str, opened: str) -> str:
    """A response less what the chat template already opened of it: what is left for the completion."""
    return response.removeprefix("<think>") if "<think>" in opened else response
