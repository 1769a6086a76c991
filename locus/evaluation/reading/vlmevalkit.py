"""The extractor ``vlmevalkit``: how VLMEvalKit's rules read a response without a judge, for comparison.

Written from a description of its behaviour (docs of revision e8e78f0), faults included: a rule that is repaired here
would not reproduce published numbers. It reads the whole response, thoughts and tags too. Where VLMEvalKit would fail,
or draw an option by chance, nothing is read.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from locus.evaluation.reading.responses import Extracted, ExtractedBox, Reading, missed, unread, whole
from locus.types import Response

_REFUSALS = (
    "Sorry, I can't help with images of people yet.",
    "I can't process this file.",
    "I'm sorry, but without the image provided",
    "Cannot determine the answer",
)
_SEPARATORS = str.maketrans(dict.fromkeys(".()[],:;!*#{}", " "))
_ANSWER_IS = re.compile(r"answer is\s{0,9}(?:\*\*)?([A-D])", re.IGNORECASE)
_BESIDE_WORDS = ';/[]"{}()=+\\_-><@`,?!'
_FIRST_PREFIXES = ("The best answer is", "The correct answer is", "The answer is", "The answer")
_FUSED_PREFIXES = ("The best option is", "The correct option is", "Best answer:", "Best option:")
_BLOCK = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)
_BOX = re.compile(r"\\(?:boxed|fbox)\s*\{")
_NUMBER = r"([-+]?\d{1,15}(?:\.\d{0,15})?)"
_FOUR = re.compile(rf"\[\s*{_NUMBER}\s*,\s*{_NUMBER}\s*,\s*{_NUMBER}\s*,\s*{_NUMBER}\s*\]")


def extract_letter(response: Response, options: Mapping[str, str]) -> Extracted:
    """The rules before a judge: letters as tokens, then "answer is X", then an option's text.

    1. A refusal phrase: none. 2. The text is split at spaces and ``.()[],:;!*#{}``; if exactly one option letter is a
    token, and first stands among the last four, it is the answer. 3. The first "answer is X", X of A to D even as the
    first letter of a word: "the answer is blue" is B. 4. The only option whose text the response holds, if the
    response is at most twice as long as all options. Else none, where VLMEvalKit asks its judge.
    """
    if any(phrase in response.text for phrase in _REFUSALS):
        return unread(response)
    tokens = response.text.translate(_SEPARATORS).split()
    present = set(tokens)
    letters = [letter for letter in options if letter in present]
    if len(letters) == 1 and tokens.index(letters[0]) > len(tokens) - 5:
        return Extracted(letters[0], Reading.OK)
    stated = _ANSWER_IS.search(response.text)
    if stated:
        letter = stated[1].upper()
        return Extracted(letter, Reading.OK) if letter in options else Extracted(None, Reading.OUT_OF_RANGE)
    lowered = response.text.lower()
    named = [letter for letter, text in options.items() if text.lower() in lowered]
    if len(named) == 1 and len(lowered) <= 2 * sum(map(len, options.values())):
        return Extracted(named[0], Reading.OK)
    return Extracted(None, Reading.AMBIGUOUS) if len(letters) > 1 else unread(response)


def extract_yes_no(response: Response, question: str = "") -> Extracted:
    """``yes`` or ``no`` if exactly one of them is a word once VQA marks are gone; ``*`` and ``:`` are none.

    Of full stops the first 32 go: the kit passes ``re.UNICODE``, which is 32, where their count belongs. The question
    does not matter.
    """
    text = response.text.lower()
    joined = re.search(r"\d,\d", text) is not None
    bare = text
    for mark in _BESIDE_WORDS:
        bare = bare.replace(mark, "" if joined or f"{mark} " in text or f" {mark}" in text else " ")
    words = set(re.sub(r"\.(?!\d)", "", bare, count=32).split()) & {"yes", "no"}
    if len(words) == 1:
        return Extracted(words.pop(), Reading.OK)
    return Extracted(None, Reading.AMBIGUOUS) if words else unread(response)


def extract_first_capital(response: Response, options: Mapping[str, str] | None = None) -> Extracted:
    """MME-RealWorld's rule: the first capital A to E anywhere, once prefixes such as "The answer is" are deleted.

    "Answer: B" is A, "Cannot say" is C. An answer block is unwrapped and upper-cased first. Without a capital, an
    answer that is a part of "(A)" to "(E)", such as "b" or ")", is the first of these. Two pairs of published prefixes
    (`_FUSED_PREFIXES`) are fused by missing commas and so delete nothing. On an empty response VLMEvalKit crashes and
    lmms-eval reads A; here it is none. The options do not matter.
    """
    lowered = response.text.lower()
    start = lowered.find("<answer>")
    end = lowered.find("</answer>", start) if start >= 0 else -1
    text = response.text[start + len("<answer>") : end].upper() if end >= 0 else response.text
    return _first_capital(response, _without(text, _FIRST_PREFIXES).strip())


def capital_behind_prefixes(response: Response) -> Extracted:
    """TreeBench's rule: as `extract_first_capital`, with the fused prefixes too, and a block's tags in small letters.

    Spaces that a deleted prefix leaves stay, so that "The answer is b" is none.
    """
    block = _BLOCK.search(response.text)
    text = (block[1].upper() if block else response.text).strip()
    return _first_capital(response, _without(text, _FIRST_PREFIXES + _FUSED_PREFIXES))


def _without(text: str, prefixes: tuple[str, ...]) -> str:
    for prefix in prefixes:
        text = text.replace(prefix, "")
    return text


def _first_capital(response: Response, text: str) -> Extracted:
    if not text:
        return unread(response)
    capital = re.search("[A-E]", text)
    if capital:
        return Extracted(capital[0], Reading.OK)
    parts = [letter for letter in "ABCDE" if text.lower() in f"({letter.lower()})"]
    return Extracted(parts[0], Reading.OK) if parts else unread(response)


def extract_after_answer(response: Response, options: Mapping[str, str] | None = None) -> Extracted:
    """We-Math's rule: the first character after the last "Answer", brackets ``<>``, ``:`` and ``.`` deleted, if A to H.

    "Answer: (B)", "answer is B" and a boxed B are none; "Answer: Both" is B. The options do not matter.
    """
    rest = re.sub(r"[<>:.]", "", response.text.rpartition("Answer")[2]).strip()
    return Extracted(rest[0], Reading.OK) if rest[:1] and rest[0] in "ABCDEFGH" else unread(response)


def extract_bare(response: Response) -> Extracted:
    """The whole response as `bare` text."""
    return whole(bare(response.text))


def bare(text: str) -> str:
    """lmms-eval's normal form of a word: lower case, no blanks around it, no full stop at its end."""
    return text.lower().strip().rstrip(".")


def boxed_contents(text: str) -> str:
    r"""What the kit's parser of formulas looks at: the contents of all ``\boxed{}``, joined by commas, else the text.

    Of boxes in boxes the outermost; a last box that is never closed goes to the end of the text.
    """
    found, start = [], 0
    while match := _BOX.search(text, start):
        depth, end = 1, match.end()
        while end < len(text) and depth:
            depth += (text[end] == "{") - (text[end] == "}")
            end += 1
        found.append(text[match.end() : end - 1 if depth == 0 else end].strip())
        start = end
    return ",".join(found) if found else text


def extract_box(response: Response) -> ExtractedBox:
    """The first bracketed list of four numbers, else the first four numbers anywhere, digits in prose too."""
    listed = _FOUR.search(response.text)
    numbers = listed.groups() if listed else [match[1] for match in re.finditer(_NUMBER, response.text)][:4]
    if len(numbers) < 4:
        return ExtractedBox(None, missed(response))
    x1, y1, x2, y2 = map(float, numbers)
    return ExtractedBox((x1, y1, x2, y2), Reading.OK)


def guessed_fractions(
    xyxy: tuple[float, float, float, float], width: float, height: float
) -> tuple[float, float, float, float]:
    """A box as fractions of its picture, the frame guessed from its largest number, as the RefCOCO scorer does.

    Up to 1.5 they are fractions, up to 1000 thousandths, above that pixels: pixels of a 640 x 480 picture are taken for
    thousandths.
    """
    x1, y1, x2, y2 = xyxy
    largest = max(xyxy)
    if largest <= 1.5:
        return xyxy
    across, down = (1000.0, 1000.0) if largest <= 1000 else (width, height)
    return x1 / across, y1 / down, x2 / across, y2 / down
