"""The words of cue search: the paper's, or others that a run is asked in (``task/prompt=``)."""

from __future__ import annotations

from dataclasses import dataclass
from string import Formatter

from locus.errors import LocusError
from locus.tasks.answers import COORDINATE_WORDS, THINK_ANSWER
from locus.types import Frame

CUE_SEARCH = (
    "Image 1 is a full scene image. Image 2 is a cropped region from Image 1. Please find where Image 2 is located in "
    "Image 1, and output the bounding box as [x1, y1, x2, y2] {coordinates}."
)
"""The paper's question (appendix B.2), to the letter but for the name of other frames than pixels."""
EXPRESSION_SEARCH = (
    "Please find the object described by the following text in the image, and output the bounding box as "
    "[x1, y1, x2, y2] {coordinates}: {expression}"
)
"""The same where a referring expression stands for the cue (appendix C.3, which leaves the order of its parts open)."""


@dataclass(frozen=True)
class CuePrompt:
    """A question with ``{coordinates}``, how boxes are written in the policy's frame, and the form of the response."""

    question: str = CUE_SEARCH
    """Of the full image and the crop."""
    expression_question: str = EXPRESSION_SEARCH
    """Of the full image, with ``{expression}`` in place of the crop."""
    instruction: str = THINK_ANSWER
    """Of the form: the reward reads the box between the answer tags."""

    def __post_init__(self) -> None:
        for key, places in (("question", {"coordinates"}), ("expression_question", {"coordinates", "expression"})):
            text = getattr(self, key)
            try:
                named = {name for _, name, _, _ in Formatter().parse(text) if name is not None}
            except ValueError as error:
                raise LocusError(f"task.prompt.{key}={text!r}: {error}; double a brace that is meant") from error
            if named != places:
                wanted = " and ".join(f"{{{place}}}" for place in sorted(places))
                raise LocusError(f"task.prompt.{key}={text!r} must hold {wanted}, and no other braces")
        if "<answer>" not in self.instruction:
            raise LocusError(
                f"task.prompt.instruction={self.instruction!r} does not ask for <answer>, where the box is read"
            )

    def text(self, frame: Frame, expression: str = "") -> str:
        """The instruction q for a policy that answers in ``frame``; an expression stands for the cue."""
        question = self.expression_question if expression else self.question
        return question.format(coordinates=COORDINATE_WORDS[frame], expression=expression) + "\n" + self.instruction


PAPER = CuePrompt()
