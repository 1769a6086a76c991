"""A vision-language model behind a chat endpoint that is asked about each example: rationales and expressions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NoReturn

from PIL import Image

from locus.errors import LocusError
from locus.files.chat_endpoint import ChatEndpoint, data_url
from locus.files.progress import tracked
from locus.files.run_files import write_lines
from locus.images.labels import expression_fault
from locus.images.sources import ImageSource
from locus.tasks.answers import box_text
from locus.tasks.cue_search.corpus import CueTable
from locus.tasks.cue_search.cues import PLAIN, open_image
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


def messages(image: Image.Image, cue: Image.Image, instruction: str) -> list[dict[str, Any]]:
    """Chat messages as the paper has them: one turn of the full image, the cue and the instruction."""
    # A photograph as PNG is several times as large; a cue of few pixels would not survive JPEG.
    urls = data_url(image, "JPEG", quality=95, subsampling=0), data_url(cue, "PNG")
    images = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    return [{"role": "user", "content": [*images, {"type": "text", "text": instruction}]}]


# --- Referring expressions -----------------------------------------------------------------------------------

EXPRESSIONS_FILE = "expressions.jsonl"
EXPRESSION_INSTRUCTION = (
    "You are given a full image and a cropped region from it. The cropped region highlights a specific object in the "
    "scene.\n"
    "Write a short, precise referring expression (1 sentence, under 25 words) that uniquely identifies this object in "
    "the full image. Focus on its category, appearance, size, and spatial position relative to other objects.\n"
    "Output only the referring expression, nothing else."
)
"""The paper's (appendix C.3), to the letter."""


class TeacherExpressions(ChatTeacher):
    """Asks a chat endpoint for each example's expression; it sees the full image and the cue, and no box."""

    group = "cue"

    def over(self, source: ImageSource, examples: CueTable) -> NoReturn:
        """Raises LocusError: a run shows the expressions of a file."""
        raise LocusError(
            f"cue=text_endpoint is for locus.prepare, which writes {EXPRESSIONS_FILE}: train with cue=text_file and "
            f"cue.path=<its folder>/{EXPRESSIONS_FILE}"
        )

    def expressions(self, examples: Sequence[CueExample]) -> Iterator[str]:
        """One expression per example, in order; raises LocusError as `ChatTeacher.answers` does."""
        return self.answers(examples, expression_messages, expression_of)


def expression_messages(example: CueExample, image: Image.Image, cue: Image.Image) -> list[dict[str, Any]]:
    """Chat messages of one example; the same words for all."""
    return messages(image, cue, EXPRESSION_INSTRUCTION)


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
    "Image 1 is a full scene image. Image 2 is a cropped region from Image 1.\n"
    "The cropped region is located at {bbox} in Image 1 (pixel coordinates [x1, y1, x2, y2]).\n"
    "Please write a brief reasoning process (2–3 sentences) explaining how you would identify where Image 2 is located "
    "in Image 1 based on the visual cues in the crop. Then provide the bounding box.\n"
    "Output format:\n"
    "<think>your reasoning</think>\n"
    "<answer>{bbox}</answer>"
)
"""The paper's (appendix C.2), to the letter."""


class TeacherRationales(ChatTeacher, Rationales):
    """Asks a chat endpoint for each example's rationale; it sees the full image and the cue, and reads the true box."""

    group = "rationales"

    def rationales(self, examples: Sequence[CueExample]) -> Iterator[str]:
        """As in `Rationales`; raises LocusError as `ChatTeacher.answers` does."""
        return self.answers(examples, rationale_messages, reasoning)


def rationale_messages(example: CueExample, image: Image.Image, cue: Image.Image) -> list[dict[str, Any]]:
    """Chat messages of one example: the box in whole pixels of the file, as the endpoint gets the image."""
    return messages(image, cue, RATIONALE_INSTRUCTION.format(bbox=box_text(example.target)))


def reasoning(reply: str) -> str:
    """A teacher's reply -> the rationale: its last think block, which follows the teacher's own thoughts, if any.

    Raises ValueError for a reply that holds none, or one that cannot be a rationale.
    """
    before, end, _ = reply.rpartition("</think>")
    _, begin, thought = before.rpartition("<think>")
    if not begin or not end:
        raise ValueError("the reply holds no <think> block")
    return rationale_of(thought)
