"""Expressions by a teacher: what it is asked, the check of its answer, and the file that ``cue=text_file`` reads.

Who answers is a function from a sample to text, so that any model can be the teacher.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path

from locus.data.referring_expressions import MOST_WORDS, expression_fault
from locus.errors import LocusError
from locus.types import CueExample, CuePixels

Describe = Callable[[CuePixels], str]
"""A sample with its full image and its cue -> the teacher's answer."""

TEACHER = (
    "Image 1 is a full scene image. Image 2 is a cropped region from Image 1, the one at {box} as [x1, y1, x2, y2] "
    "in relative coordinates from 0 to 1000. Write a referring expression for what this region shows, so that a reader "
    "who sees only Image 1 finds this region and no other: what it is, what it looks like and where it is. Write one "
    "line of at most {most} words that begins in lower case and ends without a full stop. Give no coordinates."
)


def teacher_text(example: CueExample) -> str:
    """The instruction that goes to the teacher with the full image and the cue, in this order."""
    x1, y1, x2, y2 = example.box
    corners = x1 / example.width, y1 / example.height, x2 / example.width, y2 / example.height
    return TEACHER.format(box=[round(1000 * share) for share in corners], most=MOST_WORDS)


def write_expressions(
    samples: Iterable[CuePixels], describe: Describe, fallback: Callable[[CueExample], str], path: str | Path
) -> dict[str, int]:
    """Appends a row for each sample that the file does not have yet, so that a run that was cut off goes on.

    Args:
        samples: with the cue as a picture.
        describe: asks the teacher.
        fallback: the expression where the teacher's answer is none (`AnnotatedTextCue`).
        path: JSONL, rows of example_id, expression and by (teacher or fallback).

    Returns:
        How many rows each wrote in this call.
    """
    path, counts = Path(path), {"teacher": 0, "fallback": 0}
    try:
        known = (
            {json.loads(line)["example_id"] for line in path.read_text("utf-8").splitlines()}
            if path.exists()
            else set()
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise LocusError(f"{path}: no file of expressions ({error}); move it away to write a new one") from error
    with path.open("a", encoding="utf-8") as file:
        for sample in samples:
            name = sample.example.example_id
            if name in known:
                continue
            expression, by = describe(sample).strip().strip('"').removesuffix("."), "teacher"
            if expression_fault(expression):
                expression, by = fallback(sample.example), "fallback"
            counts[by] += 1
            file.write(json.dumps({"example_id": name, "expression": expression, "by": by}) + "\n")
            file.flush()
    return counts
