"""A vision-language model behind a chat endpoint that is asked about each example of a corpus. Layer 2."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from PIL import Image

from locus.errors import LocusError
from locus.files.chat_endpoint import ChatEndpoint, data_url
from locus.images.sources import ImageSource
from locus.tasks.cue_search.dataset import CueDataset
from locus.types import CueExample, CuePixels


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
        messages_of: Callable[[CuePixels], list[dict[str, Any]]],
        read: Callable[[str], str],
    ) -> Iterator[str]:
        """One answer an example, in order.

        Args:
            messages_of: what is asked about an example with its full image and its cue.
            read: reply -> answer; a ValueError from it asks again.

        Raises:
            LocusError: an image cannot be read, and as `ChatEndpoint.ask` does.
        """
        dataset = CueDataset(examples, self.source)

        def answer(index: int) -> str:
            example_id = examples[index].example_id
            try:
                return self.endpoint.ask(messages_of(dataset[index]), {"example_id": example_id}, read)
            except LocusError as error:
                raise LocusError(f"example {example_id}: {error}") from error

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
