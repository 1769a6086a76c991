"""An OpenAI-compatible chat endpoint: requests with retries, and a file that keeps the replies."""

from __future__ import annotations

import base64
import hashlib
import http.client
import io
import json
import os
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from PIL import Image

from locus.errors import LocusError

WAIT_AGAIN = (408, 409, 425, 429)
"""Status codes, beside 5xx, that a later try may not meet."""
UNREADABLE = (OSError, http.client.HTTPException, ValueError, KeyError, IndexError, TypeError)
"""What a reply that breaks off, or is not as the API says, raises when it is read; a later one may be whole."""
LONGEST_WAIT = 60.0
"""Seconds between two tries: a server that loads a model is back within minutes."""

T = TypeVar("T")


class ChatServer:
    """An OpenAI-compatible API: requests, tried again where that can help. Threads may share it."""

    def __init__(
        self,
        group: str,
        url: str,
        model: str,
        key_variable: str = "",
        tries: int = 5,
        timeout: float = 60,
        wait: float = 1,
    ) -> None:
        """
        Args:
            group: of the configuration, whose keys the errors name.
            url: of the API, without ``/chat/completions``.
            key_variable: name of the environment variable that holds the API key; empty for a server without one.
            tries: of each request.
            timeout: seconds that a try may take.
            wait: seconds before the second try, doubled before each further one up to `LONGEST_WAIT`.
        """
        if not url.startswith(("http://", "https://")):
            raise LocusError(f"{group}.url is {url!r}: give the API's address, such as http://localhost:8000/v1")
        self.group, self.url, self.model = group, url.rstrip("/"), model
        self.key_variable, self.tries, self.timeout, self.wait = key_variable, tries, timeout, wait

    def complete(self, messages: Sequence[dict[str, Any]], read: Callable[[Any], T], **options: Any) -> T:
        """What ``read`` makes of the reply to chat messages; an error of its kind (`UNREADABLE`) asks again.

        Args:
            messages: as the API takes them, ``role`` and ``content``.
            options: further fields of the request, such as ``temperature``.

        Raises:
            LocusError: the server refuses, or does not answer as it should after all tries.
        """
        body = {"model": self.model, **options, "messages": list(messages)}
        return self._tried(lambda: read(self._send("chat/completions", body)))

    def models(self) -> list[dict[str, Any]]:
        """What the server says of the models it serves; raises LocusError as `complete` does."""
        return self._tried(lambda: [dict(one) for one in self._send("models")["data"]])

    def _tried(self, request: Callable[[], T]) -> T:
        """The request's result; tries again where that can help."""
        if self.key_variable and self.key_variable not in os.environ:
            raise LocusError(
                f"{self.group}: environment variable {self.key_variable} ({self.group}.key_variable) is not set"
            )
        key = os.environ.get(self.key_variable, "")
        if not (key.isascii() and (key.isprintable() or not key)):  # the library's own error shows it
            raise LocusError(
                f"{self.group}: environment variable {self.key_variable} holds a character that no key has, such as a "
                "line's end: set it again"
            )
        failure = ""
        for attempt in range(self.tries):
            if attempt:
                time.sleep(min(LONGEST_WAIT, self.wait * 2 ** (attempt - 1)))
            try:
                return request()
            except LocusError:  # what no later try changes
                raise
            except urllib.error.HTTPError as error:
                failure = f"status {error.code}"
                with suppress(*UNREADABLE):
                    failure += " " + error.read(300).decode("utf-8", errors="replace")
                if error.code < 500 and error.code not in WAIT_AGAIN:
                    break
            except UNREADABLE as error:
                failure = repr(error)
        raise LocusError(
            f"{self.group} {self.model} at {self.url} gives no answer ({failure.strip()}): check {self.group}.url, "
            f"{self.group}.model and the key; replies so far are kept, so the same command resumes here"
        )

    def _send(self, path: str, body: dict[str, Any] | None = None) -> Any:
        """What the API replies, as JSON; without a body the request is a GET."""
        headers = {"Content-Type": "application/json"}
        if self.key_variable:
            headers["Authorization"] = f"Bearer {os.environ[self.key_variable]}"
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.url}/{path}", data, headers)
        with urllib.request.urlopen(request, timeout=self.timeout) as reply:
            return json.load(reply)


class ChatEndpoint:
    """Asks a chat endpoint; each reply is kept, so that the same request is sent once. Threads may share it.

    Example: ``ChatEndpoint("judge", "http://localhost:8000/v1", "my-model", "outputs/judge.jsonl").ask(messages)``.
    """

    def __init__(
        self,
        group: str,
        url: str,
        model: str,
        cache: str,
        key_variable: str = "",
        temperature: float = 0,
        tries: int = 5,
        timeout: float = 60,
        wait: float = 1,
    ) -> None:
        """
        Args:
            cache: JSON lines file of the replies; made when missing, only ever added to.
            others: as of `ChatServer`.
        """
        self.server = ChatServer(group, url, model, key_variable, tries, timeout, wait)
        self.model, self.cache, self.temperature = model, Path(cache), temperature
        self._replies: dict[str, str] | None = None
        self._lock = threading.Lock()

    def ask(
        self,
        messages: Sequence[dict[str, Any]],
        note: dict[str, str] | None = None,
        read: Callable[[str], str] = str,
    ) -> str:
        """The reply to chat messages, from the cache where the same model was sent the same contents before, at the
        same temperature or at one that the cache does not tell.

        Args:
            messages: as the API takes them, ``role`` and ``content``.
            note: written beside the reply in the cache, for whoever looks into it.
            read: reply -> what is kept and returned; a ValueError from it asks again.

        Raises:
            LocusError: the endpoint refuses, or does not answer as it should after all tries; the cache cannot be used.
        """
        contents = [message["content"] for message in messages]
        key = hashlib.sha256(json.dumps([self.model, *contents]).encode()).hexdigest()
        with self._lock, self._cache_named():
            self._replies = self._read_cache() if self._replies is None else self._replies
            if key in self._replies:
                return self._replies[key]
        reply = self.server.complete(messages, lambda whole: read(text_of(whole)), temperature=self.temperature)
        line = {"key": key, "model": self.model, "temperature": self.temperature, **(note or {}), "reply": reply}
        with self._lock, self._cache_named():
            self._replies[key] = reply
            self.cache.parent.mkdir(parents=True, exist_ok=True)
            with self.cache.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
        return reply

    @contextmanager
    def _cache_named(self) -> Iterator[None]:
        """Has errors of the file name its key."""
        try:
            yield
        except OSError as error:
            raise LocusError(
                f"{self.server.group}.cache={self.cache}: cannot be used ({error.strerror}); make room, or give a file "
                "that can be written"
            ) from error

    def _read_cache(self) -> dict[str, str]:
        replies: dict[str, str] = {}
        lines = self.cache.read_text(encoding="utf-8").split("\n") if self.cache.exists() else [""]
        if lines[-1]:  # a line cut off when a run was killed: what is added must not continue it
            with self.cache.open("a", encoding="utf-8") as file:
                file.write("\n")
        for line in lines:
            try:
                entry = json.loads(line)
                if entry.get("temperature", self.temperature) == self.temperature:  # older replies tell none
                    replies[entry["key"]] = entry["reply"]
            except (ValueError, KeyError, TypeError, AttributeError):
                continue  # asked again
        return replies


def text_of(reply: Any) -> str:
    """The text of a whole reply; raises one of `UNREADABLE` where it has none."""
    content = reply["choices"][0]["message"]["content"]
    if not isinstance(content, str):
        raise TypeError("the reply has no text")
    return content


def data_url(picture: Image.Image, kind: str, **options: int) -> str:
    """The picture as a file of this kind in a data URL, as chat endpoints take it."""
    picture.save(buffer := io.BytesIO(), kind, **options)
    return as_data_url(kind, buffer.getvalue())


def as_data_url(kind: str, data: bytes) -> str:
    """A picture's file of this kind as a data URL."""
    return f"data:image/{kind.lower()};base64,{base64.b64encode(data).decode()}"
