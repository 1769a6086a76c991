"""Requests to a chat endpoint: what is tried again."""

from __future__ import annotations

import socket
import threading

import pytest

from locus.errors import LocusError
from locus.files.chat_endpoint import ChatServer

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
