"""A served policy: the answers of the same weights in this process, pictures without loss, failures and their end."""

from __future__ import annotations

import base64
import io
import json
import struct
import threading
import zlib
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from locus.errors import LocusError
from locus.evaluation.benchmark import Item, Picture
from locus.evaluation.endpoint import EndpointPolicy, as_done
from locus.evaluation.evaluator import Evaluator
from locus.evaluation.predictions import Prediction
from locus.files.chat_endpoint import ChatServer
from locus.policy.prompts import PixelLimits, PromptBuilder
from locus.types import Frame, Sampling
from tests.support.benchmark_files import picture
from tests.support.chat_server import endpoint
from tests.support.models import FAMILIES, backbone, builder, tiny_vlm
from tests.support.policy_server import policy_server

GREEDY = Sampling(temperature=0.0, max_new_tokens=6)


def noise(seed: int, size: tuple[int, int] = (64, 48)) -> Picture:
    return Picture(f"picture-{seed}", picture(seed, size))


def items() -> list[Item]:
    """Questions about one picture, two, none, and one that is resized."""
    a, b, c = noise(1), noise(2, (96, 80)), noise(3, (300, 20))
    shown = [(a,), (b,), (a, c), (), (c,), (a,)]
    return [Item(str(n), f"Where is the red star? {n}", "A", pictures) for n, pictures in enumerate(shown)]


def served(url: str, family: str = "qwen3_vl", make: PromptBuilder | None = None, **settings: object) -> EndpointPolicy:
    server = ChatServer("endpoint", url, "tiny", tries=settings.pop("tries", 3), wait=0.01)
    return EndpointPolicy(server, GREEDY, FAMILIES[family][1], make or builder(family), **settings)


def answers(policy: EndpointPolicy | Evaluator, asked: list[Item]) -> list[Prediction]:
    """Without the numbers of batches, which both ways count otherwise."""
    return [replace(one, batch=None) for one in sorted(policy.predict(asked), key=lambda one: one.batch)]


@pytest.mark.parametrize("family", FAMILIES)
def test_answers_of_the_same_weights_in_process(family):
    """Other prompts, pictures, frames or sizes than in process: a served policy would be scored as another one."""
    policy = tiny_vlm(family)
    make = PromptBuilder(backbone(family).processor(), PixelLimits(max_pixels=5000))  # resizes b and c
    expected = answers(Evaluator(policy, make, GREEDY, 10_000, "Think."), items())
    assert len({one.response for one in expected}) > 4 and len({one.size for one in expected}) == 4
    with policy_server(policy, backbone(family).processor(), "tiny") as server:
        found = answers(served(server.url, family, make, instruction="Think.", requests=3), items())
    assert found == expected
    assert 1 < server.at_once <= 3 and {request["max_tokens"] for request in server.requests} == {6}


def test_failures_pass():
    """A busy server, one that dies, and one that is back: nothing is lost, nothing asked twice but what failed."""
    policy = tiny_vlm("qwen3_vl")
    fails = [500, None, 429, 503, None, 500]
    with policy_server(policy, backbone("qwen3_vl").processor(), "tiny", lambda n: (fails + [None] * 99)[n]) as server:
        whole = answers(served(server.url, requests=1), items())
        assert [one.id for one in whole] == list("012345") and len(server.requests) == 6 + 4
    done = []
    with (
        policy_server(policy, backbone("qwen3_vl").processor(), "tiny", lambda n: 500 if n > 2 else None) as server,
        pytest.raises(LocusError, match=r"item 3: endpoint tiny .*status 500.*the same command resumes"),
    ):
        for one in served(server.url, requests=1).predict(items()):
            done.append(one)
    assert [replace(one, batch=None) for one in done] == whole[:3] and [one.batch for one in done] == [0, 1, 2]


def test_pictures_arrive_without_loss(tmp_path):
    """The bytes of the file where everybody reads them alike; where readers differ, the pixels of this process."""
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 4), dtype=np.uint8)
    turned = Image.Exif()
    turned[0x0112] = 6
    kept = {"a.jpg": Image.fromarray(pixels[..., :3]), "b.webp": Image.fromarray(pixels[..., :3])}
    made = {"c.png": Image.fromarray(pixels, "RGBA"), "d.jpg": Image.fromarray(pixels[..., :3])}
    made["e.gif"] = Image.fromarray(pixels[..., :3]).quantize(16)
    for name, image in {**kept, **made}.items():
        image.save(tmp_path / name, **({"exif": turned} if name == "d.jpg" else {}))
    (tmp_path / "f.png").write_bytes(png_of_48_bits(pixels[..., :3].astype(">u2") * 256 + 200))
    made["f.png"] = Picture("f.png", tmp_path / "f.png").open()
    for name in (*kept, *made):
        one = Picture(name, tmp_path / name)
        kind, data = one.file()
        assert (data == (tmp_path / name).read_bytes()) == (name in kept), name
        with Image.open(io.BytesIO(data)) as image:
            assert image.format == kind and not image.getexif()
            assert np.array_equal(np.asarray(image.convert("RGB")), np.asarray(one.open())), name


def png_of_48_bits(pixels: np.ndarray) -> bytes:
    """Of 16 bits a colour, which Pillow reads and does not write."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width, _ = pixels.shape
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def reply(**changes: object) -> bytes:
    """A whole reply of a server as bytes."""
    usage = changes.pop("usage", {"prompt_tokens": 5, "completion_tokens": 2})
    choice = {"message": {"content": "A", **changes.pop("message", {})}, "finish_reason": "stop"} | changes
    return json.dumps({"choices": [choice], "usage": usage}).encode()


def test_another_prompt_is_refused():
    """Boxes read in the size of a picture that the policy did not see: the error says what to do, once."""
    with (
        endpoint(reply()) as (url, seen),
        pytest.raises(LocusError, match=r"item 0: .*has 5 tokens, .*endpoint\.check"),
    ):
        answers(served(url, requests=1), items())
    with endpoint(reply(usage=None)) as (url, _), pytest.raises(LocusError, match="has an unknown number of tokens"):
        answers(served(url, requests=4), items())
    with endpoint("A") as (url, _), pytest.raises(LocusError, match="gives no answer .*ended by None"):
        answers(served(url, requests=1, tries=1), items())
    with endpoint(reply()) as (url, seen):
        assert {one.response for one in answers(served(url, check=False), items())} == {"A"}
        foreign = EndpointPolicy(ChatServer("endpoint", url, "tiny"), GREEDY, extra={"top_k": 1})
        found = answers(foreign, items())[0]
        small = EndpointPolicy(ChatServer("endpoint", url, "tiny"), GREEDY, pixels=PixelLimits(max_pixels=1000))
        assert answers(small, items()[:1])[0].size is None
    assert (found.frame, found.size, found.tokens, found.finished) == (None, None, 2, True)
    sent = seen.pop()["messages"][0]["content"][0]["image_url"]["url"]
    with Image.open(io.BytesIO(base64.b64decode(sent.partition(",")[2]))) as shown:
        assert shown.size == PixelLimits(max_pixels=1000).size(64, 48) == (36, 27), "limits also hold where no backbone"
    assert seen[-1]["top_k"] == 1 and seen[-1]["messages"][0]["content"][-1]["type"] == "text"
    asked = [request["messages"][0]["content"][0] for request in seen]  # several at a time, so in any order
    sent = next(part for part in asked if part["type"] == "image_url")["image_url"]["url"]
    assert base64.b64decode(sent.partition(",")[2]) in {one.pictures[0].source for one in items() if one.pictures}


def test_boxes_in_the_files_pixels_need_the_files_picture():
    """A box of the picture that was sent, read in pixels of the file: nothing says by how much it was made smaller."""
    with endpoint(reply()) as (url, seen):

        def asked(limit: int | None, **settings: object) -> list[Prediction]:
            server = ChatServer("endpoint", url, "tiny")
            pixels = PixelLimits(max_pixels=limit)
            return answers(EndpointPolicy(server, GREEDY, Frame.FILE, pixels=pixels, **settings), items()[:1])

        with pytest.raises(LocusError, match=r"item 0: .*backbone\.frame=file.*pixels\.max_pixels"):
            asked(1000)
        assert not seen and asked(None)[0].frame == asked(1000, check=False)[0].frame == "file"


def test_what_a_reply_says():
    """A cut answer taken for a whole one, an aborted one for an answer, thoughts that a parser has taken away."""
    with endpoint(reply(finish_reason="length")) as (url, _):
        assert not answers(served(url, check=False), items())[0].finished
    with endpoint(reply(finish_reason="abort"), reply()) as (url, seen):
        assert answers(served(url, check=False), items()[:1])[0].response == "A" and len(seen) == 2
    filtered = json.dumps({"choices": [{"message": None, "finish_reason": "content_filter"}]}).encode()
    with endpoint(filtered, reply()) as (url, seen):
        assert answers(served(url, check=False), items()[:1])[0].response == "A" and len(seen) == 2
    thoughts = reply(message={"reasoning": "Let me see."})
    with endpoint(thoughts) as (url, seen), pytest.raises(LocusError, match="reasoning parser"):
        answers(served(url, check=False, requests=1), items())
    assert len(seen) == 1


def test_bound_of_requests():
    """A long first answer that holds the others up, one that failed that takes those behind it along, and more tasks
    taken than there is room for."""
    free, taken = threading.Event(), []

    def tasks():
        for number in range(40):
            taken.append(number)
            yield number

    def work(number: int) -> int:
        if number == 0:
            assert free.wait(10)
        if number == 39:
            free.set()
        return number

    done = []
    for one in as_done(work, tasks(), 4):
        done.append(one)
        assert len(taken) <= len(done) + 4
    assert sorted(done) == list(range(40)) and done.index(0) > 30
    free.clear()
    done = []

    def failing(number: int) -> int:
        if number == 1:
            free.set()
            raise ZeroDivisionError
        assert free.wait(10)
        return number

    with pytest.raises(ZeroDivisionError):
        for one in as_done(failing, iter(range(40)), 3):
            done.append(one)
    assert sorted(done) == [0, 2], "those under way are kept, and none begins"
    made = as_done(int, (str(10 // (3 - number)) for number in range(9)), 2)
    done = [next(made) for _ in range(3)]
    with pytest.raises(ZeroDivisionError):
        next(made)
    assert sorted(done) == [3, 5, 10], "a task that cannot be read takes none along"
