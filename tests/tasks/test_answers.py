"""The parser: a table of odd answers, seeded fuzz, and linear time."""

from __future__ import annotations

import random
import time
from collections import Counter

import numpy as np
import pytest

from locus.tasks.answers import parse_answer
from locus.types import ParsedAnswer, Status

BOX = (1.0, 2.0, 30.0, 40.0)
GOOD = "<think>the red one</think><answer>[1, 2, 30, 40]</answer>"
OK, TRUNCATED, NO_TAG, NO_BOX, INVALID = Status


def well_formed(answer: str) -> str:
    """A completion whose structure is right, around this answer."""
    return f"<think>t</think><answer>{answer}</answer>"


# What stands inside a perfect structure: answer, status, xyxy, well-formed.
ANSWERS = [
    ("[1, 2, 30, 40]", OK, BOX, True),
    ("  [1,2,30,40]\n", OK, BOX, True),
    ("[ 1 ,\t2\n,30 , 40 ]", OK, BOX, True),
    ("[1.0, 2., 3e1, 4.0E+1]", OK, BOX, True),
    ("[+1, .5, 30, 40]", OK, (1.0, 0.5, 30.0, 40.0), True),
    ("[-5, -2.5, 30, 40]", OK, (-5.0, -2.5, 30.0, 40.0), True),
    ("[1e-3, 0, 30, 40]", OK, (0.001, 0.0, 30.0, 40.0), True),
    ("[007, 2, 30, 40]", OK, (7.0, 2.0, 30.0, 40.0), True),
    ("[0, 0, 5000, 9000]", OK, (0.0, 0.0, 5000.0, 9000.0), True),  # outside any frame, yet a box
    # A box, with company: it counts, the format does not.
    ("It is [1, 2, 30, 40].", OK, BOX, False),
    ("[[1, 2, 30, 40]]", OK, BOX, False),
    ("[1, 2, 30, 40] or [5, 6, 70, 80]", OK, BOX, False),
    ('```json\n[{"bbox_2d": [1, 2, 30, 40], "label": "cup"}]\n```', OK, BOX, False),
    ('{"bbox_2d": [1, 2, 30, 40]}', OK, BOX, False),
    ("(1, 2), (30, 40)", OK, BOX, False),
    ("(1,2)(30,40)", OK, BOX, False),
    ("<answer>[1, 2, 30, 40]", OK, BOX, False),  # a nested tag
    ("[9] [1, 2, 30, 40]", OK, BOX, False),
    # Four numbers that are no box.
    ("[30, 40, 1, 2]", INVALID, None, False),  # corners swapped
    ("[30, 2, 1, 40]", INVALID, None, False),
    ("[1, 2, 1, 40]", INVALID, None, False),  # zero width
    ("[1, 2, 30, 2]", INVALID, None, False),
    ("[0, 0, 0, 0]", INVALID, None, False),
    ("[1, 2, 1e999, 40]", INVALID, None, False),  # infinity
    ("[-1e999, 2, 30, 40]", INVALID, None, False),
    # Not four numbers.
    ("", NO_BOX, None, False),
    ("[]", NO_BOX, None, False),
    ("[1, 2, 30]", NO_BOX, None, False),
    ("[1, 2, 30, 40, 50]", NO_BOX, None, False),
    ("[1 2 30 40]", NO_BOX, None, False),
    ("1, 2, 30, 40", NO_BOX, None, False),
    ("[1, 2, 30, 40", NO_BOX, None, False),
    ("[NaN, 2, 30, 40]", NO_BOX, None, False),
    ("[1, 2, inf, 40]", NO_BOX, None, False),
    ("[1, 2, 30, 40px]", NO_BOX, None, False),
    ("[1, 2, 30, 4_0]", NO_BOX, None, False),  # float("4_0") is 40 in Python
    ("[0x1, 2, 30, 40]", NO_BOX, None, False),
    ("[1.2.3, 2, 30, 40]", NO_BOX, None, False),
    ("[--1, 2, 30, 40]", NO_BOX, None, False),
    ("[1, 2, 30, 40e]", NO_BOX, None, False),
    ("[., 2, 30, 40]", NO_BOX, None, False),
    ("[\u0661, \u0662, \u0663\u0660, \u0664\u0660]", NO_BOX, None, False),  # Arabic digits, which float() takes
    ("[\uff11, \uff12, \uff13\uff10, \uff14\uff10]", NO_BOX, None, False),  # full-width digits
    ("\uff3b1, 2, 30, 40\uff3d", NO_BOX, None, False),  # full-width brackets
    ("[1\uff0c2\uff0c30\uff0c40]", NO_BOX, None, False),  # full-width commas
    ("[1, 2, 30, \u221240]", NO_BOX, None, False),  # a typographic minus
    ("\x00[1, 2,\x00 30, 40]", NO_BOX, None, False),
]


@pytest.mark.parametrize("answer, status, xyxy, formed", ANSWERS)
def test_answers(answer, status, xyxy, formed):
    """What a policy has been seen to write, or may: a box only where four plain numbers in brackets make one."""
    parsed = parse_answer(well_formed(answer))
    assert parsed == ParsedAnswer(status, xyxy, formed)


# Whole completions around one good box: text, status, well-formed.
STRUCTURES = [
    (GOOD, OK, True),
    ("  " + GOOD + "\n", OK, True),
    ("<think>a\nb</think>\n\n<answer>[1, 2, 30, 40]</answer>", OK, True),
    ("<think></think><answer>[1, 2, 30, 40]</answer>", OK, True),
    ("<think>[5, 6, 7, 8]</think><answer>[1, 2, 30, 40]</answer>", OK, True),
    ("<answer>[1, 2, 30, 40]</answer>", OK, False),
    ("so</think><answer>[1, 2, 30, 40]</answer>", OK, False),  # nothing opened it
    ("<think>so<answer>[1, 2, 30, 40]</answer>", OK, False),
    ("<think>a</think><think>b</think><answer>[1, 2, 30, 40]</answer>", OK, False),
    ("<think><think>a</think></think><answer>[1, 2, 30, 40]</answer>", OK, False),
    ("<answer>[1, 2, 30, 40]</answer><think>late</think>", OK, False),
    ("<think><answer>[1, 2, 30, 40]</answer></think>", OK, False),  # nested
    ("</think>a<think><answer>[1, 2, 30, 40]</answer>", OK, False),
    ("Sure. " + GOOD, OK, False),
    (GOOD + " Done.", OK, False),
    ("<think>a</think> so <answer>[1, 2, 30, 40]</answer>", OK, False),
    ("<Think>a</Think><answer>[1, 2, 30, 40]</answer>", OK, False),
    ("<think>a</think><answer>[5, 6, 70, 80]</answer><answer>[1, 2, 30, 40]</answer>", OK, False),  # the last counts
    (GOOD + "<answer>[5, 6", OK, False),  # a second answer, cut: the last complete one counts
    (GOOD + "</answer>", OK, False),  # closed twice
    ("<think>a</think><answer>[1, 2, 30, 40]", NO_TAG, False),
    ("<think>a</think>[1, 2, 30, 40]</answer>", NO_TAG, False),
    ("</answer>[1, 2, 30, 40]<answer>", NO_TAG, False),
    ("<think>a</think>< answer >[1, 2, 30, 40]</ answer >", NO_TAG, False),
    ("<think>a</think><ANSWER>[1, 2, 30, 40]</ANSWER>", NO_TAG, False),
    ("[1, 2, 30, 40]", NO_TAG, False),
    ("", NO_TAG, False),
    (" ", NO_TAG, False),
    ("\ud800<answer>", NO_TAG, False),  # a lone surrogate
]


@pytest.mark.parametrize("text, status, formed", STRUCTURES)
def test_structures(text, status, formed):
    """Format reward for two answers, a missing close or nested tags is what a policy learns to game."""
    parsed = parse_answer(text)
    assert parsed == ParsedAnswer(status, BOX if status is OK else None, formed)


def test_truncated_is_not_an_error_of_format():
    """Cut by the token limit is told from finished without an answer; a whole answer stays one, even when cut after."""
    for text in ("", "<think>I see", "<think>a</think><answer>[1, 2, 30"):
        assert parse_answer(text, finished=False) == ParsedAnswer(Status.TRUNCATED, None, False)
        assert parse_answer(text, finished=True).status is Status.NO_ANSWER_TAG
    assert parse_answer(GOOD, finished=False) == ParsedAnswer(Status.OK, BOX, True)
    assert parse_answer(well_formed("cup"), finished=False).status is Status.NO_BOX


@pytest.mark.parametrize("opened", ["<think>", "<think>\n", "\n<think>\n"])
def test_what_the_template_opened_is_scored_with_the_completion(opened):
    """A template that opens <think> would otherwise deny every completion its format reward."""
    rest = "the red one</think><answer>[1, 2, 30, 40]</answer>"
    assert parse_answer(opened + rest) == ParsedAnswer(Status.OK, BOX, True)
    assert not parse_answer(opened + GOOD).well_formed  # opened twice
    assert parse_answer(rest).status is Status.OK and not parse_answer(rest).well_formed


@pytest.mark.parametrize(
    "raw, status",
    [
        (GOOD.encode(), Status.OK),
        (b"\xff\xfe" + GOOD.encode(), Status.OK),
        (b"", Status.NO_ANSWER_TAG),
        (b"\x80" * 50, Status.NO_ANSWER_TAG),
        (GOOD.encode("utf-16"), Status.NO_ANSWER_TAG),
        (b"<answer>[1, 2, 3\xc3, 40]</answer>", Status.NO_BOX),
    ],
)
def test_bytes(raw, status):
    """Undecodable bytes are an answer like any other."""
    parsed = parse_answer(raw.decode("utf-8", errors="replace"))
    assert parsed.status is status and parsed.well_formed == (raw == GOOD.encode())


FRAGMENTS = (
    *("<think>", "</think>", "<answer>", "</answer>", "<answer", "answer>", "<", ">", "/"),
    *("[1, 2, 30, 40]", "[9, 9, 1, 1]"),
    *("[", "]", "(", ")", "(1,2)", ",", " ", "\n", "1", "2.5", "-3", "1e999", "e9", ".", "nan"),
    *('{"bbox_2d": ', "}", "\x00", "\u0663", "\uff3b", "\ud800", "\U0001f600", "a cup"),
)


def consistent(parsed: ParsedAnswer) -> bool:
    """A box if and only if the status is ok, of finite numbers and positive area; well-formed only with one."""
    if (parsed.xyxy is not None) != (parsed.status is Status.OK) or (parsed.well_formed and parsed.xyxy is None):
        return False
    if parsed.xyxy is None:
        return True
    x1, y1, x2, y2 = parsed.xyxy
    return bool(np.isfinite(parsed.xyxy).all()) and x2 > x1 and y2 > y1


def test_fuzz_of_fragments():
    """Tags, numbers and brackets in any order: never an exception, never a status that its box contradicts."""
    rng, seen = random.Random(0), Counter()
    for _ in range(20_000):
        text = "".join(rng.choices(FRAGMENTS, k=rng.randrange(12)))
        if rng.random() < 0.5:
            text = well_formed(text)
        parsed = parse_answer(rng.choice(("", "<think>\n")) + text, rng.random() < 0.5)
        assert consistent(parsed), (text, parsed)
        seen[parsed.status] += 1
    assert min(seen[status] for status in Status) > 50  # the fuzz reaches every branch


def test_fuzz_of_bytes():
    """Random bytes, alone and inside an answer, as bytes and as text of any code point."""
    rng = random.Random(1)
    for _ in range(5_000):
        raw = rng.randbytes(rng.randrange(60))
        plain = raw.decode("utf-8", "replace")
        for text in (plain, f"<answer>[{plain}]</answer>", raw.decode("latin-1"), raw.decode("utf-16", "ignore")):
            assert consistent(parse_answer(text)), text


LONG = {
    "digits in a bracket": lambda n: "<answer>[" + "1" * n + "</answer>",
    "a number of many digits": lambda n: "<answer>[" + "1" * n + ", 2, 3, 4]</answer>",
    "many decimals": lambda n: "<answer>[1." + "1" * n + "e</answer>",
    "space in a bracket": lambda n: "<answer>[1" + " " * n + "2</answer>",
    "space after a comma": lambda n: "<answer>[1," + " " * n + "x</answer>",
    "space after a corner": lambda n: "<answer>(1, 2)" + " " * n + "x</answer>",
    "space after a corner and a comma": lambda n: "<answer>(1, 2)," + " " * n + "x</answer>",
    "open brackets": lambda n: "<answer>" + "[" * n + "</answer>",
    "open parentheses": lambda n: "<answer>" + "(" * n + "</answer>",
    "unfinished boxes": lambda n: "<answer>" + "[1, 2, 3" * (n // 8) + "</answer>",
    "unfinished corners": lambda n: "<answer>" + "(1, 2)" * (n // 6) + "</answer>",
    "answers opened": lambda n: "<answer>" * (n // 8),
    "answers closed": lambda n: "</answer>" * (n // 9),
    "thoughts opened": lambda n: "<think>" * (n // 7) + GOOD,
    "plain text": lambda n: "a" * n + GOOD,
}


def seconds(text: str) -> float:
    """The least of three timings."""
    times = []
    for _ in range(3):
        start = time.perf_counter()
        parse_answer(text)
        times.append(time.perf_counter() - start)
    return min(times)


@pytest.mark.parametrize("case", LONG)
def test_time_is_linear(case):
    """A pattern that backtracks: ten times the text takes a hundred times as long, a megabyte takes half an hour.

    Sizes are such that quadratic time is seen (100x) and does not hang the test; 40x leaves room for a busy machine.
    """
    make = LONG[case]
    small, large = seconds(make(2_000)), seconds(make(20_000))
    assert large < 40 * small + 2e-3, f"{small:.2g} s for 2,000 characters, {large:.2g} s for 20,000"
    start = time.perf_counter()
    parse_answer(make(1_000_000))
    assert time.perf_counter() - start < 5
