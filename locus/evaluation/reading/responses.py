"""What a response finally says: the text after its thoughts, plain characters, boxed contents.

Nothing here raises, whatever the text, and each function takes time linear in its length.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from enum import StrEnum

from locus.types import Response

END = 20_000
_THINK = re.compile(r"<(/?)think(?:ing)?>", re.IGNORECASE)
_ANSWER = re.compile(r"<(/?)answer>", re.IGNORECASE)
_END_OF_TURN = re.compile(r"<\|(?:im_end|endoftext|eot_id|end)\|>|</s>")
_BRACE = re.compile(r"(\\f?box(?:ed)?\s{0,9}\{)|\\[{}]|([{}])")
_BOX_TOKENS = ("<|begin_of_box|>", "<|end_of_box|>")

# Letters and signs that only look different. Superscripts stay: x² is not x2.
_WIDE = (*range(0xFF01, 0xFF5F), 0x3000, *range(0x249C, 0x24EA), *range(0x1D400, 0x1D800), *range(0x1F130, 0x1F14A))
_HALF = {
    **{code: unicodedata.normalize("NFKC", chr(code)) for code in _WIDE},
    **{0x1F170 + index: chr(ord("A") + index) for index in range(26)},
    **str.maketrans("。、【】「」‘’“”−", '.,[]""\'\'""-', "\u200b\u200c\u200d\ufeff\ufe0e\ufe0f"),
}


class Reading(StrEnum):
    """How an answer was found in a response."""

    OK = "ok"
    CONTRADICTORY = "contradictory"
    """A letter with the text of another option behind it: read by the letter, and also by the text."""
    JUDGED = "judged"
    """No rule found an answer, and the judge did."""
    AMBIGUOUS = "ambiguous"
    NONE = "none"
    OUT_OF_RANGE = "out_of_range"
    TRUNCATED = "truncated"


ANSWERED = (Reading.OK, Reading.CONTRADICTORY, Reading.JUDGED)
"""With an answer; the others have none."""


@dataclass(frozen=True)
class Extracted:
    """What an extractor read in a response."""

    answer: str | None
    """None unless ``reading`` is one of `ANSWERED`."""
    reading: Reading
    by_text: str | None = None
    """Of a contradictory choice the letter whose text stands behind ``answer``."""


@dataclass(frozen=True)
class ExtractedBox:
    """Four numbers of a response, in whatever frame its policy writes; None unless ``reading`` is ok."""

    xyxy: tuple[float, float, float, float] | None
    reading: Reading


def missed(response: Response) -> Reading:
    """The reading of a response in which nothing was found."""
    return Reading.NONE if response.finished else Reading.TRUNCATED


def unread(response: Response) -> Extracted:
    """Nothing was found in the response."""
    return Extracted(None, missed(response))


def whole(text: str) -> Extracted:
    """All of the text, if there is any."""
    return Extracted(text.strip(), Reading.OK) if text.strip() else Extracted(None, Reading.NONE)


def final_span(response: Response) -> str:
    """What a response answers with, its thoughts and tags left out.

    After the last ``</think>``; of that, the last closed ``<answer>`` block, or what follows an unclosed one. Thoughts
    that were never closed are an answer only if the response ended by itself. A policy that puts its answer block into
    its thoughts, and nothing after them, is taken at its block.
    """
    text = _END_OF_TURN.sub("", response.text)
    closings = [tag.end() for tag in _THINK.finditer(text) if tag[1]]
    rest = text[closings[-1] :] if closings else text
    if not response.finished:
        opening = _THINK.search(rest)
        rest = rest[: opening.start()] if opening else rest
    block = _answer_block(rest)
    if block is None and not rest.strip() and closings:
        block = _answer_block(text)
    return block if block is not None else _ANSWER.sub("\n", _THINK.sub("\n", rest)).strip()


def _answer_block(text: str) -> str | None:
    """Content of the last closed answer block, else of the unclosed one; None without an opening tag."""
    block, start = None, None
    for tag in _ANSWER.finditer(text):
        if not tag[1]:
            start = tag.end()
        elif start is not None:
            block, start = text[start : tag.start()], None
    if block is None and start is not None:
        block = text[start:]
    return None if block is None else block.strip()


def half_width(text: str) -> str:
    """Full-width, circled, squared and mathematical letters, digits and marks as ASCII; no invisible characters."""
    return text.translate(_HALF)


def ends(text: str) -> str:
    """A text of more than 40,000 characters without its middle; 8,192 tokens are fewer, and answers stand at an end."""
    return text if len(text) <= 2 * END else text[:END] + "\n" + text[-END:]


def boxed(text: str, finished: bool = True) -> tuple[str, int] | None:
    r"""Content of the last ``\boxed{}`` and where it ends, braces nested; None without one.

    Of boxes in boxes the innermost; ``<|begin_of_box|>`` tokens count as a box. A last box that was never closed is
    taken to the end of its line, but only of a finished response: ``\boxed{1`` cut short may become 12.
    """
    found = _braced(text, finished)
    begin, end = _BOX_TOKENS
    start = text.rfind(begin)
    if start >= 0 and (found is None or start > found[1]):
        stop = text.find(end, start)
        if stop >= 0 or finished:
            stop = stop if stop >= 0 else len(text)
            found = (text[start + len(begin) : stop], stop)
    return None if found is None else (found[0].strip(), found[1])


def _braced(text: str, finished: bool) -> tuple[str, int] | None:
    first = text.find("\\boxed")
    first = first if first >= 0 else text.find("\\fbox")
    if first < 0:
        return None
    stack: list[int] = []  # where each open brace's content begins; of a box, negated
    best = (-1, -1)
    for brace in _BRACE.finditer(text, first):
        if brace[1]:
            stack.append(-brace.end())
        elif brace[2] == "{":
            stack.append(brace.end())
        elif brace[2] and stack:
            start = stack.pop()
            if -start > best[0]:
                best = (-start, brace.start())
    unclosed = [-start for start in stack if start < 0]
    if finished and unclosed and best[0] < 0:
        line = text.find("\n", unclosed[-1])
        best = (unclosed[-1], line if line >= 0 else len(text))
    return (text[best[0] : best[1]], best[1]) if best[0] >= 0 else None
