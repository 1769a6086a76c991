"""Rationales by a teacher: a vision-language model that is shown the true box. Layer 2."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from locus.chat_endpoint import ChatEndpoint
from locus.data.cue_rendering import whole_pixels
from locus.data.dataset import CueDataset
from locus.data.sources import ImageSource
from locus.errors import LocusError
from locus.sft.targets import Targets, rationale_of
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


class TeacherTargets(Targets):
    """Asks a chat endpoint for each example's rationale, several at a time; replies are kept and never asked for twice.

    The teacher sees the full image with the target box drawn in, and the cue.
    """

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
            raise LocusError(f"targets.workers={workers}: give at least 1")
        self.source, self.workers = source, workers
        self.endpoint = ChatEndpoint("targets", url, model, cache, key_variable, temperature, tries, timeout, wait)

    def rationales(self, examples: Sequence[CueExample]) -> Iterator[str]:
        """As in `Targets`; raises LocusError when an image cannot be read, and as `ChatEndpoint.ask` does."""
        dataset = CueDataset(examples, self.source)
        with ThreadPoolExecutor(self.workers) as pool:
            yield from pool.map(lambda index: self._ask(dataset[index]), range(len(dataset)))

    def _ask(self, sample: CuePixels) -> str:
        example_id = sample.example.example_id
        try:
            return self.endpoint.ask(messages_of(sample), {"example_id": example_id}, reasoning)
        except LocusError as error:
            raise LocusError(f"example {example_id}: {error}") from error


def messages_of(sample: CuePixels) -> list[dict[str, Any]]:
    """Chat messages of one example: the instruction, the image with the target box, the cue."""
    # A photograph as PNG is several times as large; a cue of few pixels would not survive JPEG.
    urls = data_url(with_box(sample), "JPEG", quality=95, subsampling=0), data_url(sample.cue, "PNG")
    content: list[dict[str, Any]] = []
    for number, url in enumerate(urls, 1):
        content += [{"type": "text", "text": f"Image {number}:"}, {"type": "image_url", "image_url": {"url": url}}]
    return [{"role": "system", "content": INSTRUCTION}, {"role": "user", "content": content}]


def with_box(sample: CuePixels) -> Image.Image:
    """A copy of the full image with a red rectangle around the target box; the box's own pixels stay as they are."""
    image = sample.image.convert("RGB")
    line = max(2, round(max(image.size) / 400))
    x1, y1, x2, y2 = whole_pixels(np.array(sample.example.box), *image.size).astype(int).tolist()
    outer = (x1 - line, y1 - line, x2 + line - 1, y2 + line - 1)  # PIL's corners are both inside
    ImageDraw.Draw(image).rectangle(outer, outline=RED, width=line)
    return image


def data_url(picture: Image.Image, kind: str, **options: int) -> str:
    """The picture as a file of this kind in a data URL, as chat endpoints take it."""
    picture.save(buffer := io.BytesIO(), kind, **options)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def reasoning(reply: str) -> str:
    """A teacher's reply -> the rationale: what follows the teacher's own thoughts, where it sends them, too.

    Raises ValueError for a reply that is no rationale.
    """
    return rationale_of(reply.rpartition("</think>")[2])
