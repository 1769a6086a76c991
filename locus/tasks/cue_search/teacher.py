"""A vision-language model behind a chat endpoint that is asked about each example: rationales and expressions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from PIL import Image, ImageDraw

from locus.errors import LocusError
from locus.files.chat_endpoint import ChatEndpoint, data_url
from locus.files.progress import tracked
from locus.files.run_files import write_lines
from locus.images.labels import MOST_WORDS, expression_fault
from locus.images.sources import ImageSource
from locus.tasks.cue_search.cues import PLAIN, open_image, whole_pixels
from locus.tasks.cue_search.rationales import Rationales, rationale_of
from locus.types import CueExample


class ChatTeacher:
    """Asks a chat endpoint, several examples at a time; replies are kept and never asked for twice.

    A subclass says what is asked, and what of the reply counts.
    """

    group: str
    """Of the configuration, whose keys the errors name."""

    def __init__(
        self,
        source: ImageSource,
        url: str,
        model: str,
        cache: str,
        key_variable: str = "",
        temperature: float = 1.0,
        workers: int = 8,
        tries: int = 5,
        timeout: float = 120,
        wait: float = 1,
    ) -> None:
        """
        Args:
            source: opens the examples' images.
            workers: requests at a time.
            others: as of `ChatEndpoint`.
        """
        if workers < 1:
            raise LocusError(f"{self.group}.workers={workers}: give at least 1")
        self.source, self.workers = source, workers
        self.endpoint = ChatEndpoint(self.group, url, model, cache, key_variable, temperature, tries, timeout, wait)

    def answers(
        self,
        examples: Sequence[CueExample],
        messages_of: Callable[[CueExample, Image.Image, Image.Image], list[dict[str, Any]]],
        read: Callable[[str], str],
    ) -> Iterator[str]:
        """One answer per example, in order.

        Args:
            messages_of: example, its full image and its cue -> what is asked.
            read: reply -> answer; a ValueError from it asks again.

        Raises:
            LocusError: an image cannot be read, and as `ChatEndpoint.ask` does.
        """

        def answer(index: int) -> str:
            example = examples[index]
            try:
                image = open_image(self.source, example)
                messages = messages_of(example, image, PLAIN.picture(example, image))
                return self.endpoint.ask(messages, {"example_id": example.example_id}, read)
            except LocusError as error:
                raise LocusError(f"example {example.example_id}: {error}") from error

        with ThreadPoolExecutor(self.workers) as pool:
            yield from pool.map(answer, range(len(examples)))


def both_images(image: Image.Image, cue: Image.Image) -> list[dict[str, Any]]:
    """Parts of a chat message: the full image as Image 1, the cue as Image 2."""
    # A photograph as PNG is several times as large; a cue of few pixels would not survive JPEG.
    urls = data_url(image, "JPEG", quality=95, subsampling=0), data_url(cue, "PNG")
    parts: list[dict[str, Any]] = []
    for number, url in enumerate(urls, 1):
        parts += [{"type": "text", "text": f"Image {number}:"}, {"type": "image_url", "image_url": {"url": url}}]
    return parts


# --- Referring expressions -----------------------------------------------------------------------------------

EXPRESSIONS_FILE = "expressions.jsonl"
EXPRESSION_INSTRUCTION = (
    "Image 1 is a full scene image. Image 2 is a cropped region from Image 1, the one at {box} as [x1, y1, x2, y2] "
    "in relative coordinates from 0 to 1000. Write a referring expression for what this region shows, so that a reader "
    "who sees only Image 1 finds this region and no other: what it is, what it looks like and where it is. Write one "
    "line of at most {most} words that begins in lower case and ends without a full stop. Give no coordinates."
)
"""The paper says what its text cues are (a generated expression under 25 words), not how they are asked for: this
prompt is written to that description and is not the paper's."""


class TeacherExpressions(ChatTeacher):
    """Asks a chat endpoint for each example's expression; it sees the full image and the cue, and reads the box."""

    group = "cue"

    def over(self, source: ImageSource) -> NoReturn:
        """Raises LocusError: a run shows the expressions of a file."""
        raise LocusError(
            f"cue=text_endpoint is for locus.prepare, which writes {EXPRESSIONS_FILE}: train with cue=text_file and "
            f"cue.path=<its folder>/{EXPRESSIONS_FILE}"
        )

    def expressions(self, examples: Sequence[CueExample]) -> Iterator[str]:
        """One expression per example, in order; raises LocusError as `ChatTeacher.answers` does."""
        return self.answers(examples, expression_messages, expression_of)


def expression_messages(example: CueExample, image: Image.Image, cue: Image.Image) -> list[dict[str, Any]]:
    """Chat messages of one example: the full image, the cue, and the instruction with the box."""
    x1, y1, x2, y2 = example.box
    corners = x1 / example.width, y1 / example.height, x2 / example.width, y2 / example.height
    text = EXPRESSION_INSTRUCTION.format(box=[round(1000 * share) for share in corners], most=MOST_WORDS)
    return [{"role": "user", "content": [*both_images(image, cue), {"type": "text", "text": text}]}]


def expression_of(reply: str) -> str:
    """A teacher's reply -> the expression: what follows its own thoughts, without quotation marks and full stop.

    Raises ValueError for a reply that cannot be an expression.
    """
    expression = reply.rpartition("</think>")[2].strip().strip('". ')
    if fault := expression_fault(expression):
        raise ValueError(f"the expression {fault}")
    return expression


def write_expressions(teacher: TeacherExpressions, examples: Sequence[CueExample], folder: str | Path) -> None:
    """Writes ``expressions.jsonl`` whole or not at all: a line of example_id and expression per example, in order.

    Raises LocusError as ``teacher`` does, and when the folder cannot be written.
    """
    expressions = tracked(teacher.expressions(examples), "expressions", len(examples), "examples")
    pairs = zip(examples, expressions, strict=True)
    rows = [{"example_id": example.example_id, "expression": text} for example, text in pairs]
    write_lines(Path(folder) / EXPRESSIONS_FILE, rows)


# --- Rationales -----------------------------------------------------------------------------------------------

RATIONALE_INSTRUCTION = (
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


class TeacherRationales(ChatTeacher, Rationales):
    """Asks a chat endpoint for each example's rationale; it sees the full image with the target box, and the cue."""

    group = "rationales"

    def rationales(self, examples: Sequence[CueExample]) -> Iterator[str]:
        """As in `Rationales`; raises LocusError as `ChatTeacher.answers` does."""
        return self.answers(examples, rationale_messages, reasoning)


def rationale_messages(example: CueExample, image: Image.Image, cue: Image.Image) -> list[dict[str, Any]]:
    """Chat messages of one example: the instruction, the image with the target box, the cue."""
    content = both_images(with_box(image, example), cue)
    return [{"role": "system", "content": RATIONALE_INSTRUCTION}, {"role": "user", "content": content}]


def with_box(image: Image.Image, example: CueExample) -> Image.Image:
    """A copy of the full image with a red rectangle around the target box; the box's own pixels stay as they are."""
    image = image.convert("RGB")
    line = max(2, round(max(image.size) / 400))
    x1, y1, x2, y2 = whole_pixels(np.array(example.box), *image.size).astype(int).tolist()
    outer = (x1 - line, y1 - line, x2 + line - 1, y2 + line - 1)  # PIL's corners are both inside
    ImageDraw.Draw(image).rectangle(outer, outline=RED, width=line)
    return image


def reasoning(reply: str) -> str:
    """A teacher's reply -> the rationale: what follows the teacher's own thoughts, where it sends them, too.

    Raises ValueError for a reply that cannot be a rationale.
    """
    return rationale_of(reply.rpartition("</think>")[2])
