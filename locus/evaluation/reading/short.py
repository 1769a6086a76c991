"""Short answers of a response: yes or no, a word or a number, a box. A part of the extractor `locus`."""

from __future__ import annotations

import math
import re

from locus.evaluation.reading.responses import (
    Extracted,
    ExtractedBox,
    Reading,
    boxed,
    ends,
    final_span,
    half_width,
    missed,
    unread,
)
from locus.evaluation.reading.texts import digits
from locus.evaluation.reading.values import explicit, outcome
from locus.types import Response

# --- Yes or no --------------------------------------------------------------------------------------------------
_YES = {"yes", "yeah", "yep", "yup", "是", "是的", "对", "对的", "有", "有的"}
_YES_NO = re.compile(
    r"(?<![a-z\d_-])(?:yes|yeah|yep|yup|no|nope|nah)(?![a-z\d_])"
    r"|(?<![\u4e00-\u9fff])(?:不是|没有|是的|对的|有的|[是对有否不])(?![\u4e00-\u9fff])"
)
_EITHER = re.compile(r"\byes ?(?:/|\bor\b|\band\b) ?no\b|\bno ?(?:/|\bor\b|\band\b) ?yes\b")
_NUMBERED = re.compile(r"\bno\. ?\d")
_SAID = re.compile(
    r"(?:\b(?:answer|response|conclusion|verdict)\b|答案)"
    r"(?:[\s*_\"'`:=({\[-]|\b(?:is|would|be|should|therefore|final)\b|[是为]){1,12}$"
)
_UNSAID = re.compile(r"(?:\bnot|n't|\bcannot)(?: say| answer| be)? [\"'*]?$")
# "There isn't a dog" says no, "I don't see any dog, but it may be hidden" does not.
_DENIAL = re.compile(
    r"(?:\bthere (?:is|are)(?:n't| not)|\bi (?:do not|don't|cannot|can't) see"
    r"|\b(?:image|picture|photo|scene) (?:does not|doesn't) (?:show|contain|include|have|feature|depict)) (?:an?|any)\b"
)
_UNSURE = re.compile(
    r"\b(?:but|however|although|though|except|unless|might|may|maybe|perhaps|possibly|could|sure|certain|if"
    r"|blurry|blurred|unclear|hard|difficult|hidden)\b|\?"
)
# "No image was provided", "no way to tell" and "no difference" answer no question about what is shown.
_NOTHING_SAID = re.compile(
    r" (?:(?:clear|obvious|real|visible|enough|actual|single|sufficient) )?"
    r"(?:image|picture|photo|way|information|context|details?|doubt|answer|difference|idea|question|problem)s?\b"
)
_AS_A_WORD = re.compile(r"[\"']? (?:appears|stands|means|(?:is|was) (?:written|printed|painted|shown))\b")
_OPENING = " \t\n*_\"'`({["
_CORRECTED = re.compile(r"\b(?:wait|actually|correction|sorry|on second thought|i mean|looking again|let me|but)\b")


def extract_yes_no(response: Response) -> Extracted:
    """``yes`` or ``no``: of the last box, after the last "answer is", else the answer word of the final span.

    A "no" before a noun ("there is no cat") counts only where nothing else answers. Two answer words that differ are
    ambiguous unless the response corrects itself between them, and so is "yes or no".
    """
    span = half_width(final_span(response))
    box = boxed(span, response.finished)
    inside = _particles(_lowered(ends(box[0])))[0] if box else []
    if len({word for word, _, _ in inside}) == 1:
        return Extracted(inside[0][0], Reading.OK)
    text = _lowered(ends(span))
    found, determiner = _particles(text)
    said = [word for word, start, _ in found if _SAID.search(text, max(0, start - 40), start)]
    words = {word for word, _, _ in found}
    if said:
        return Extracted(said[-1], Reading.OK)
    if len(words) == 1:
        return Extracted(words.pop(), Reading.OK)
    if words:
        last, start = found[-1][0], found[-2][2]
        lone = text[found[-1][1] :].strip(" .!*\"'`)") in ("yes", "no") and text[: found[-1][1]].endswith("\n")
        corrected = last != found[-2][0] and _CORRECTED.search(text, start, found[-1][1])
        return Extracted(last, Reading.OK) if lone or corrected else Extracted(None, Reading.AMBIGUOUS)
    if _EITHER.search(ends(span).lower()):
        return Extracted(None, Reading.AMBIGUOUS)
    if response.finished and (determiner or _denied(text)):
        return Extracted("no", Reading.OK)
    return unread(response)


def _lowered(text: str) -> str:
    """Lower case of the same length, "yes or no" and "No. 5" blanked out."""
    lowered = "".join(char if len(char.lower()) != 1 else char.lower() for char in text)
    for pattern in (_EITHER, _NUMBERED):
        lowered = pattern.sub(lambda match: " " * len(match[0]), lowered)
    return lowered


def _denied(text: str) -> bool:
    """Says of something that it is not there, without a doubt or an exception."""
    denials = [match for match in _DENIAL.finditer(text) if not _NOTHING_SAID.match(text, match.end())]
    return bool(denials) and not _UNSURE.search(text)


def _particles(text: str) -> tuple[list[tuple[str, int, int]], bool]:
    """Answer words of lower-case text with their places, and whether there is a "no" before a noun."""
    found, determiner = [], False
    for match in _YES_NO.finditer(text):
        start, end = match.span()
        before = text[max(0, start - 24) : start]
        if match[0] == "no" and _NOTHING_SAID.match(text, end) or _AS_A_WORD.match(text, end):
            continue
        opens = start < 4 and not before.strip(_OPENING) or "\n" in before[-3:] and not before[-3:].strip(_OPENING)
        if match[0] == "no" and not opens and re.match(r" [a-z\d]", text[end : end + 2]):
            determiner = True
        elif not _UNSAID.search(before):
            found.append(("yes" if match[0] in _YES else "no", start, end))
    return found, determiner


# --- A word or a number -----------------------------------------------------------------------------------------
_NUMERAL = re.compile(r"(?<![a-z\d_])(?<!\d[.,:/-])[-+]?(?:\d{1,15}(?:\.\d{1,15})?|\.\d{1,15})(?![a-z\d_]|[.,:/-]\d)")
_TOLD = re.compile(
    r"(?:the|it|this|that|they)\b[^.!?\n]{0,80}?(?: is| are|'s|'re) "
    r"((?:(?:on|in|at|to) )?(?:(?:an?|the) )?(?:[^\s.!?]+ ?){1,3})[.!]?"
)
_BEFORE = {"on", "to", "at", "in", "probably", "likely", "clearly", "definitely", "indeed"}
_ARTICLES = re.compile(r"\b(?:a|an|the)\b")


def extract_short(response: Response) -> Extracted:
    """A word or number, normalised: lower case, digits, no article, no unit; the gold answer goes through it too.

    An opening yes or no, else the only number, else what follows "answer is", else the whole of a response of up to
    three words.
    """
    span, finished = half_width(final_span(response)), response.finished
    value = explicit(span, finished)
    text = digits(
        re.sub(r"\\[A-Za-z]{1,20}|[*_`$\\{}\"]", " ", outcome(value) if value is not None else ends(span))
    ).strip()
    leading = re.match(r"\W{0,4}(yes|no)(?!\w|\.? ?\d)(?! [a-z])", text)
    if leading:
        return Extracted(leading[1], Reading.OK)
    numbers = {_number(match[0]) for match in _NUMERAL.finditer(text)}
    if len(numbers) == 1 and (finished or value is not None):
        return Extracted(numbers.pop(), Reading.OK)
    told = _TOLD.fullmatch(text) if len(text) < 200 else None
    text = told[1] if told else text
    words = re.findall(r"\w+(?:[.'/:,-]\w+)*", _ARTICLES.sub(" ", text[:200]))
    refused = words and words[0] in ("not", "unclear", "unknown", "unsure")
    if words and not refused and len(words) <= 3 and len(text) < 200 and (finished or value is not None):
        words = words[1:] if len(words) > 1 and words[0] in _BEFORE else words
        words = words[:-1] if len(words) > 1 and words[-1] in ("one", "side") else words
        return Extracted(" ".join(words), Reading.OK)
    if len(numbers) > 1:
        return Extracted(None, Reading.AMBIGUOUS)
    return unread(response)


def _number(text: str) -> str:
    value = float(text)
    return str(int(value)) if value.is_integer() else str(value)


# --- A box ------------------------------------------------------------------------------------------------------
_N = r"[\"']?([-+]?(?:\d{1,9}(?:\.\d{0,20})?|\.\d{1,20})(?:[eE][-+]?\d{1,3})?)[\"']?"
_FOUR = re.compile(rf"[\[(]\s*{_N}\s*,\s*{_N}\s*,\s*{_N}\s*,\s*{_N}\s*[\])]|\[\s*{_N}\s+{_N}\s+{_N}\s+{_N}\s*\]")
_PAIR = rf"[(\[]\s*{_N}\s*,\s*{_N}\s*[)\]]"
_CORNERS = re.compile(
    rf"{_PAIR}\s*(?:,|and|to|-)?\s*(?:the\s)?(?:(?:bottom|lower)[ -]right\s(?:(?:corner|at|is)\s){{0,2}})?{_PAIR}"
)
_NAMED = re.compile(
    rf"\b(?:x1|x_?min|left)\b[^\d\n-]{{1,6}}{_N}[^\dxy]{{1,8}}\b(?:y1|y_?min|top)\b[^\d\n-]{{1,6}}{_N}"
    rf"[^\dxy]{{1,8}}\b(?:x2|x_?max|right)\b[^\d\n-]{{1,6}}{_N}"
    rf"[^\dxy]{{1,8}}\b(?:y2|y_?max|bottom)\b[^\d\n-]{{1,6}}{_N}"
)
_BARE = re.compile(rf"\s*{_N}(?:\s*,\s*|\s+){_N}(?:\s*,\s*|\s+){_N}(?:\s*,\s*|\s+){_N}[\s.]*")
_KEY = re.compile(r"[\"']?\b(?:bbox_2d|bbox)\b[\"']?\s*[:=]\s*$")
_LIST = re.compile(r"(?:\"[^\"\n]{0,200}\"|[\s,{}\[\]:()0-9.;|<>_-]|\b(?:and|bbox_2d|bbox|box_start|box_end)\b)*")


def extract_box(response: Response) -> ExtractedBox:
    """Four numbers of the final span, corners put in order; of the last list of boxes the first.

    Boxes under ``bbox_2d`` or ``bbox`` count before other bracketed numbers, ``(x1, y1), (x2, y2)`` as well as
    ``[x1, y1, x2, y2]``. Boxes are one list where nothing but JSON stands between them. The frame is the policy's.
    """
    span = ends(half_width(final_span(response)))
    found = sorted([*_FOUR.finditer(span), *_CORNERS.finditer(span), *_NAMED.finditer(span)], key=re.Match.start)
    keyed = [match for match in found if _KEY.search(span, max(0, match.start() - 24), match.start())]
    found = keyed or found
    if not found and (bare := _BARE.fullmatch(span[:400].strip(" *`\n"))) and len(span) < 400:
        found = [bare]
    if not found:
        return ExtractedBox(None, missed(response))
    first = len(found) - 1
    while first and _listed(span[found[first - 1].end() : found[first].start()]):
        first -= 1
    x1, y1, x2, y2 = (float(number) for number in found[first].groups() if number is not None)
    if not all(math.isfinite(number) for number in (x1, y1, x2, y2)):
        return ExtractedBox(None, Reading.NONE)
    return ExtractedBox((min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)), Reading.OK)


def _listed(between: str) -> bool:
    return len(between) < 400 and _LIST.fullmatch(between) is not None
