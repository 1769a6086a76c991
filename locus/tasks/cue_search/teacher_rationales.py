"""Rationales by a teacher: a vision-language model that is shown the true box. Layer 2."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from locus.tasks.cue_search.cues import whole_pixels
from locus.tasks.cue_search.rationales import Targets, rationale_of
from locus.tasks.cue_search.teacher import ChatTeacher, both_images
from locus.types import CueExample, CuePixels

INSTRUCTION = (
    "Image 2 is a cropped region from Image 1. A student sees both images and has to find where Image 2 is located in "
    "Image 1. To you, but not to the student, a red rectangle in Image 1 shows the true location. Write the student's "
    "reasoning that leads to this location, in two or three sentences of plain text: what Image 2 shows, where in "
    "Image 1 the same is seen, and by which details or surroundings it is told from similar places. Write as if it had "
    "been found by looking: do not mention the red rectangle, nor that the location is marked, known or given. "
    "Give no coordinates and no tags; reply with the reasoning alone."
)
"""The paper says what its teacher does (a 2-3 sentence rationale given the true box), not how it is asked: this prompt
is written to that description and is not the paper's."""
RED = (255, 0, 0)


class TeacherTargets(ChatTeacher, Targets):
    """Asks a chat endpoint for each example's rationale; it sees the full image with the target box, and the cue."""

    group = "targets"

    def rationales(self, examples: Sequence[CueExample]) -> Iterator[str]:
        """As in `Targets`; raises LocusError as `ChatTeacher.answers` does."""
        return self.answers(examples, messages_of, reasoning)


def messages_of(sample: CuePixels) -> list[dict[str, Any]]:
    """Chat messages of one example: the instruction, the image with the target box, the cue."""
    content = both_images(with_box(sample), sample.cue)
    return [{"role": "system", "content": INSTRUCTION}, {"role": "user", "content": content}]


def with_box(sample: CuePixels) -> Image.Image:
    """A copy of the full image with a red rectangle around the target box; the box's own pixels stay as they are."""
    image = sample.image.convert("RGB")
    line = max(2, round(max(image.size) / 400))
    x1, y1, x2, y2 = whole_pixels(np.array(sample.example.box), *image.size).astype(int).tolist()
    outer = (x1 - line, y1 - line, x2 + line - 1, y2 + line - 1)  # PIL's corners are both inside
    ImageDraw.Draw(image).rectangle(outer, outline=RED, width=line)
    return image


def reasoning(reply: str) -> str:
    """A teacher's reply -> the rationale: what follows the teacher's own thoughts, where it sends them, too.

    Raises ValueError for a reply that is no rationale.
    """
    return rationale_of(reply.rpartition("</think>")[2])
