"""Asks a policy that an OpenAI-compatible server, such as vLLM, serves, the items of a benchmark.

The server makes the prompt by its own chat template and resizes the pictures by its own processor. What it makes is
checked where the backbone is known: it must count as many tokens as the backbone's processor gives, item by item, so
that a policy is never read in the size of a picture that it did not see.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, TypeVar

from locus.errors import LocusError, whole
from locus.evaluation.benchmark import Item, Picture
from locus.evaluation.predictions import Prediction, prompt_digest
from locus.evaluation.shown import Keys
from locus.files.chat_endpoint import ChatServer, as_data_url, data_url, text_of
from locus.policy.prompts import PixelLimits, PromptBuilder
from locus.types import Frame, Sampling

ENDPOINT = "endpoint"
"""The policy, and the section of the configuration, that mean a server; scores call the policy ``endpoint:<model>``."""
THOUGHTS = ("reasoning_content", "reasoning")
"""Where a server puts thoughts that it has cut out of the text."""

Work = TypeVar("Work")
Result = TypeVar("Result")


class EndpointPolicy:
    """A served policy, asked as `Evaluator` asks one in this process.

    Args:
        server: that serves it.
        sampling: temperature 0 is greedy.
        frame: in which it writes boxes; None where no box is asked for.
        builder: of the served backbone's prompts: gives a picture's size as the policy sees it, and what the template
            opens. None where nothing is known of the policy: then there is no size, and nothing is checked.
        instruction: behind every prompt, on a line of its own; empty for none.
        seed: sent where the temperature is not 0.
        requests: at a time.
        extra: further fields of every request, for this kind of server.
        check: refuse a prompt in which the server counts other tokens than the builder, and, without one, a picture
            that is sent in another size than the file's to a policy that writes boxes in the file's pixels.
        pixels: limits of the pictures that are sent; by default those of the builder.
    """

    def __init__(
        self,
        server: ChatServer,
        sampling: Sampling,
        frame: Frame | None = None,
        builder: PromptBuilder | None = None,
        instruction: str = "",
        seed: int = 0,
        requests: int = 32,
        extra: dict[str, Any] | None = None,
        check: bool = True,
        pixels: PixelLimits | None = None,
    ) -> None:
        whole(f"{ENDPOINT}.requests", requests)
        self.server, self.frame, self.builder, self.instruction = server, frame, builder, instruction
        self.pixels = pixels or (PixelLimits() if builder is None else builder.pixels)
        self.requests, self.check = requests, check
        drawn = {"seed": seed} if sampling.temperature > 0 else {}
        self.options = {
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "max_tokens": sampling.max_new_tokens,
            **drawn,
            **(extra or {}),
        }
        self._tokenizer = threading.Lock()

    def predict(self, items: Iterable[Item], shown: Sequence[Keys] = ()) -> Iterator[Prediction]:
        """Predictions as they are answered; ``batch`` is the item's place among these.

        ``shown`` is for policies that keep pictures: a server keeps its own.

        Raises LocusError for what cannot be asked or is not answered, once the requests under way have ended and what
        they gave is yielded.
        """
        yield from as_done(lambda one: self.answer(one[1], one[0]), enumerate(items), self.requests)

    def answer(self, item: Item, place: int | None = None) -> Prediction:
        """The response to one item."""
        text = item.asked(self.instruction)
        try:
            tokens, size, opened = self._expected(item, text)
            pictures = [{"type": "image_url", "image_url": {"url": self._sent(one)}} for one in item.pictures]
            messages = [{"role": "user", "content": [*pictures, {"type": "text", "text": text}]}]
            reply, ended, usage = self.server.complete(messages, _read, **self.options)
            counted = usage.get("prompt_tokens")
            if self.check and tokens not in (None, counted):
                said = "an unknown number of" if counted is None else counted
                raise LocusError(
                    f"the server's prompt has {said} tokens, the backbone's processor makes {tokens}: another model, "
                    "chat template or picture size is served; give backbone= of what is served, start the server "
                    "without settings for these, or pass endpoint.check=false where no boxes are asked for"
                )
        except LocusError as error:
            raise LocusError(f"item {item.item_id}: {error}") from error
        frame = str(self.frame) if self.frame else None
        facts = ended != "length", usage.get("completion_tokens"), prompt_digest(text), frame
        return Prediction(item.item_id, opened + reply, *facts, size, place)

    def _expected(self, item: Item, text: str) -> tuple[int | None, tuple[float, float] | None, str]:
        """Tokens of the prompt, size of the first picture as the policy sees it, and what the template opens."""
        sizes = [picture.size for picture in item.pictures]
        if self.builder is None:
            if self.check and self.frame is Frame.FILE and any(self.pixels.size(*size) != size for size in sizes):
                raise LocusError(
                    "its boxes are read in pixels of the file (backbone.frame=file), and it would see another size: "
                    "leave out pixels.min_pixels and pixels.max_pixels, give backbone= of what is served, or pass "
                    "endpoint.check=false where no boxes are asked for"
                )
            return None, None, ""
        with self._tokenizer:  # which threads must not share
            prompt = self.builder.prompt(item.item_id, self.builder.blank(sizes), text)
        return prompt.length, prompt.processed_size if item.pictures else None, prompt.opened

    def _sent(self, picture: Picture) -> str:
        """The picture in a data URL, lossless: as it lies in the benchmark, or resized by ``pixels`` as in process."""
        if self.pixels.size(*picture.size) != picture.size:
            return data_url(self.pixels(picture.open()), "PNG", compress_level=1)
        return as_data_url(*picture.file())


def _read(reply: Any) -> tuple[str, str, dict[str, Any]]:
    """Text, why it ended, and the tokens that were counted; raises what makes a `ChatServer` ask again."""
    choice = reply["choices"][0]
    message = choice["message"] or {}  # null where a filter has taken it
    if any(message.get(name) for name in THOUGHTS):
        raise LocusError("the server cuts thoughts out of the responses: start it without a reasoning parser")
    ended = choice.get("finish_reason")
    if ended not in ("stop", "length", "eos_token", "stop_sequence"):  # the last two are TGI's
        raise ValueError(f"the reply ended by {ended!r}")
    return text_of(reply), ended, reply.get("usage") or {}


def as_done(work: Callable[[Work], Result], tasks: Iterable[Work], threads: int) -> Iterator[Result]:
    """Results of ``work`` as they are made; so many tasks are under way at any time.

    A task is taken when there is room for it: however long the first one takes, the others go on. After an error no
    further one begins; those under way end, and then it is raised.
    """
    todo: queue.SimpleQueue[tuple[Work] | None] = queue.SimpleQueue()
    done: queue.SimpleQueue[tuple[Result] | BaseException] = queue.SimpleQueue()

    def run() -> None:
        while (task := todo.get()) is not None:
            try:
                done.put((work(*task),))
            except BaseException as error:  # raised where the results are taken
                done.put(error)

    # Daemons, so that an interrupt need not wait for the replies under way.
    for _ in range(threads):
        threading.Thread(target=run, daemon=True).start()
    rest, under_way = iter(tasks), 0
    failure: BaseException | None = None

    def begin(number: int) -> None:
        nonlocal under_way, failure
        try:
            for task in islice(rest, number):
                todo.put((task,))
                under_way += 1
        except Exception as error:  # a task that cannot be read
            failure = error

    try:
        begin(threads)
        while under_way:
            ended = done.get()
            under_way -= 1
            if isinstance(ended, BaseException):
                failure = failure or ended
            if failure is None:
                begin(1)
            if isinstance(ended, tuple):
                yield ended[0]
        if failure is not None:
            raise failure
    finally:
        for _ in range(threads):
            todo.put(None)
