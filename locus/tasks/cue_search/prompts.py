"""The cue-search prompt, as in the paper, and the text of a box. Layer 1."""

from __future__ import annotations

from typing import Any

from locus.types import Box, Frame

COORDINATE_WORDS = {
    Frame.FILE: "in pixel coordinates",
    Frame.PROCESSED: "in pixel coordinates",
    Frame.UNIT1000: "in relative coordinates from 0 to 1000",
}
"""How the answer's frame is named to the model; the paper's own words are those of pixels (Qwen2.5-VL)."""

CUE_SEARCH = (
    "Image 1 is a full scene image. Image 2 is a cropped region from Image 1. Please find where Image 2 is located in "
    "Image 1, and output the bounding box as [x1, y1, x2, y2] {coordinates}."
)
EXPRESSION_SEARCH = (
    'Image 1 is a full scene image. Please find where "{expression}" is located in Image 1, and output the bounding '
    "box as [x1, y1, x2, y2] {coordinates}."
)
"""The same question where a referring expression stands for the cue (the paper's Table 5); its wording is ours."""
THINK_ANSWER = (
    "First think about the reasoning process inside <think> </think> tags, then give the final answer inside "
    "<answer> </answer> tags, that is: <think> reasoning here </think><answer> answer here </answer>."
)


def cue_search_text(frame: Frame, expression: str = "") -> str:
    """The instruction q for a policy that answers in ``frame``; an expression stands for the cue."""
    question = EXPRESSION_SEARCH if expression else CUE_SEARCH
    return question.format(coordinates=COORDINATE_WORDS[frame], expression=expression) + "\n" + THINK_ANSWER


def cue_search_messages(frame: Frame, expression: str = "") -> list[dict[str, Any]]:
    """Chat messages with two image places, the full image, then the cue; the first alone with an expression."""
    pictures = [{"type": "image"}] * (1 if expression else 2)
    return [{"role": "user", "content": [*pictures, {"type": "text", "text": cue_search_text(frame, expression)}]}]


def box_text(box: Box, digits: int = 0) -> str:
    """``[x1, y1, x2, y2]`` in the box's own frame, with this many decimals."""
    return "[" + ", ".join(f"{value:.{digits}f}" for value in box.xyxy) + "]"


def answer_text(box: Box, thought: str = "", digits: int = 0, opened: str = "") -> str:
    """A well-formed completion for ``box`` that continues what the template opened."""
    return completion_text(box_text(box, digits), thought, opened)


def completion_text(answer: str, thought: str = "", opened: str = "") -> str:
    """A well-formed completion that continues what the template opened."""
    text = f"<think>{thought}</think><answer>{answer}</answer>"
    return text.removeprefix("<think>") if "<think>" in opened else text
