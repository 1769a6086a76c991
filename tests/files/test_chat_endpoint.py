"""Requests to a chat endpoint: what is tried again."""

from __future__ import annotations

import json
import socket
import threading
from pathlib import Path

import pytest

from locus.errors import LocusError
from locus.files.chat_endpoint import ChatEndpoint, ChatServer
from tests.support.chat_server import endpoint

BROKEN = b"HTTP/1.1 503 Busy\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab"
WHOLE = b'HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n{"a":1}'


def test_an_error_whose_words_break_off_is_tried_again():
    """A proxy that resets while it says that the server is busy: a traceback after hours of answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            for reply in (BROKEN, WHOLE):
                with server.accept()[0] as connection:
                    connection.recv(65536)
                    connection.sendall(reply)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        asked = ChatServer("endpoint", f"http://127.0.0.1:{server.getsockname()[1]}", "m", tries=2, wait=0.01)
        assert asked.complete([], lambda reply: reply["a"]) == 1
        thread.join()


def test_a_key_with_a_lines_end_is_not_shown(monkeypatch):
    """A file of Windows' in a variable: the library's error, and so the log, has the whole key."""
    monkeypatch.setenv("A_KEY", "sk-secret\r")
    with pytest.raises(LocusError, match="A_KEY holds a character that no key has") as raised:
        ChatServer("judge", "http://127.0.0.1:1", "m", "A_KEY").models()
    assert "secret" not in str(raised.value)


MESSAGES = [{"role": "user", "content": "Which?"}]


def asked(url: str, cache: Path, temperature: float) -> str:
    """By an endpoint made anew, as the next command does."""
    return ChatEndpoint("cue", url, "m", str(cache), temperature=temperature).ask(MESSAGES)


def test_a_reply_is_kept_for_its_temperature(tmp_path):
    """Greedy answers where a run of temperature 1 was asked for; replies of before, which say none, paid for again."""
    cache = tmp_path / "replies.jsonl"
    with endpoint("cold", "warm") as (url, seen):
        replies = [asked(url, cache, temperature) for temperature in (0, 1, 0, 1)]
        assert replies == ["cold", "warm", "cold", "warm"]
        assert [one["temperature"] for one in seen] == [0, 1]
        lines = [json.loads(line) for line in cache.read_text().splitlines()]
        cache.write_text(json.dumps({key: lines[0][key] for key in ("key", "model", "reply")}) + "\n")
        assert asked(url, cache, 1) == "cold" and len(seen) == 2


@pytest.mark.parametrize("name", ["folder", "file/replies.jsonl"])
def test_a_cache_that_cannot_be_used_is_named(tmp_path, name):
    """A page of Python for a path that is a folder's, or of no right to write, and no key to change."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("")
    with endpoint("a reply") as (url, _), pytest.raises(LocusError, match=rf"^cue\.cache={tmp_path}/{name}: cannot be"):
        asked(url, tmp_path / name, 0)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_named():
    """As above, after hours."""
    with endpoint("a reply") as (url, _):
        chat = ChatEndpoint("cue", url, "m", "/dev/full")
        chat._replies = {}  # read: the file has no end
        with pytest.raises(LocusError, match=r"^cue\.cache=/dev/full: cannot be used \(No space left on device\)"):
            chat.ask(MESSAGES)
