"""Expressions by a teacher: what it is asked, the check of its answer, and the file that ``cue=text_file`` reads."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from locus.errors import LocusError
from locus.files.run_files import write_text
from locus.images.labels import MOST_WORDS, expression_fault
from locus.tasks.cue_search.teacher import ChatTeacher, both_images
from locus.types import CueExample, CuePixels

log = logging.getLogger("locus")

EXPRESSIONS_FILE = "expressions.jsonl"
REPORT_EVERY = 1000
"""Expressions between two lines in the log."""
INSTRUCTION = (
    "Image 1 is a full scene image. Image 2 is a cropped region from Image 1, the one at {box} as [x1, y1, x2, y2] "
    "in relative coordinates from 0 to 1000. Write a referring expression for what this region shows, so that a reader "
    "who sees only Image 1 finds this region and no other: what it is, what it looks like and where it is. Write one "
    "line of at most {most} words that begins in lower case and ends without a full stop. Give no coordinates."
)
"""The paper says what its text cues are (a generated expression under 25 words), not how they are asked for: this
prompt is written to that description and is not the paper's."""


class TeacherExpressions(ChatTeacher):
    """Asks a chat endpoint for each example's expression; it sees the full image and the cue, and reads the box."""

    group = "expressions"

    def expressions(self, examples: Sequence[CueExample]) -> Iterator[str]:
        """One expression an example, in order; raises LocusError as `ChatTeacher.answers` does."""
        return self.answers(examples, messages_of, expression_of)


def messages_of(sample: CuePixels) -> list[dict[str, Any]]:
    """Chat messages of one example: the full image, the cue, and the instruction with the box."""
    example = sample.example
    x1, y1, x2, y2 = example.box
    corners = x1 / example.width, y1 / example.height, x2 / example.width, y2 / example.height
    text = INSTRUCTION.format(box=[round(1000 * share) for share in corners], most=MOST_WORDS)
    return [{"role": "user", "content": [*both_images(sample.image, sample.cue), {"type": "text", "text": text}]}]


def expression_of(reply: str) -> str:
    """A teacher's reply -> the expression: what follows its own thoughts, without quotation marks and full stop.

    Raises ValueError for a reply that is no expression.
    """
    expression = reply.rpartition("</think>")[2].strip().strip('". ')
    if fault := expression_fault(expression):
        raise ValueError(f"the expression {fault}")
    return expression


def write_expressions(teacher: TeacherExpressions, examples: Sequence[CueExample], folder: str | Path) -> None:
    """Writes ``expressions.jsonl`` whole or not at all, a line of example_id and expression an example in their order.

    Raises LocusError as ``teacher`` does, and when the folder cannot be written.
    """
    path = Path(folder) / EXPRESSIONS_FILE
    lines: list[str] = []
    for example, expression in zip(examples, teacher.expressions(examples), strict=True):
        lines.append(json.dumps({"example_id": example.example_id, "expression": expression}) + "\n")
        if len(lines) % REPORT_EVERY == 0:
            log.info("%d of %d expressions", len(lines), len(examples))
    try:
        write_text(path, "".join(lines))
    except OSError as error:
        raise LocusError(f"{path}: cannot be written ({error}); make room or choose another hydra.run.dir") from error
