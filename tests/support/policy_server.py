"""An OpenAI-compatible server on this machine that decodes with a tiny policy, by transformers' own template, processor
and ``generate``: nothing of locus is between a request and its reply but the weights."""

from __future__ import annotations

import base64
import io
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import torch
from PIL import Image

from locus.policy.vlm import VLM


@dataclass
class Served:
    """A server at work."""

    url: str
    requests: list[dict[str, Any]] = field(default_factory=list)
    """Bodies of the requests for a completion, in the order in which they came."""
    at_once: int = 0
    """Most requests that were open at one time."""


@contextmanager
def policy_server(
    policy: VLM,
    processor: Any,
    model: str,
    fails: Callable[[int], int | None] = lambda number: None,
) -> Iterator[Served]:
    """Serves the policy; ``fails`` gives the status with which the n-th request, from 0, is refused, or None."""
    lock, decoding, open_now = threading.Lock(), threading.Lock(), []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.reply({"data": [{"id": model, "object": "model", "max_model_len": 4096}]})

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                number = len(served.requests)
                served.requests.append(body)
                open_now.append(number)
                served.at_once = max(served.at_once, len(open_now))
            status = fails(number)
            try:
                if status is not None:
                    self.reply({"error": "out of order"}, status)
                    return
                with decoding:
                    answer = completion(policy, processor, body)
                self.reply(answer)
            finally:
                with lock:
                    open_now.remove(number)

        def reply(self, content: dict[str, Any], status: int = 200):
            self.send_response(status)
            self.end_headers()
            self.wfile.write(json.dumps(content).encode())

        def log_message(self, *arguments):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    served = Served(f"http://127.0.0.1:{server.server_port}/v1")
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))  # a shutdown waits for the next poll
    thread.start()
    try:
        yield served
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@torch.no_grad()
def completion(policy: VLM, processor: Any, body: dict[str, Any]) -> dict[str, Any]:
    """A greedy reply to one request."""
    assert body["temperature"] == 0, "this server is greedy"
    (message,) = body["messages"]
    shown = [part["image_url"]["url"] for part in message["content"] if part["type"] == "image_url"]
    pictures = [Image.open(io.BytesIO(base64.b64decode(url.partition("base64,")[2]))).convert("RGB") for url in shown]
    content = [{"type": "image"} if part["type"] == "image_url" else part for part in message["content"]]
    text = processor.apply_chat_template(
        [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
    )
    inputs = processor(text=[text], images=pictures or None, return_tensors="pt")
    never = policy.forbidden.tolist()
    written = policy.model.generate(
        **inputs, do_sample=False, max_new_tokens=body["max_tokens"], suppress_tokens=never, pad_token_id=0
    )[0, inputs["input_ids"].shape[1] :]
    ended = int(written[-1]) in policy.end_token_ids
    choice = {
        "message": {"role": "assistant", "content": processor.tokenizer.decode(written, skip_special_tokens=True)},
        "finish_reason": "stop" if ended else "length",
    }
    usage = {"prompt_tokens": inputs["input_ids"].shape[1], "completion_tokens": len(written)}
    return {"choices": [choice], "usage": usage}
