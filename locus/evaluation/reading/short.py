"""Short answers of a response: a word or a number, a box. A part of the extractor `locus`."""

from __future__ import annotations

import math
import re

from locus.evaluation.reading.responses import (
    Extracted,
    ExtractedBox,
    Reading,
    ends,
    final_span,
    half_width,
    missed,
    unread,
)
from locus.evaluation.reading.texts import digits
from locus.evaluation.reading.values import explicit, outcome
from locus.tasks.answers import NAMED_SIDES, normalised
from locus.types import Response

# --- A word or a number -----------------------------------------------------------------------------------------
_NUMERAL = re.compile(r"(?<![a-z\d_])(?<!\d[.,:/-])[-+]?(?:\d{1,15}(?:\.\d{1,15})?|\.\d{1,15})(?![a-z\d_]|[.,:/-]\d)")
_TOLD = re.compile(
    r"(?:the|it|this|that|they)\b[^.!?\n]{0,80}?(?: is| are|'s|'re) "
    r"((?:(?:on|in|at|to) )?(?:(?:an?|the) )?(?:[^\s.!?]+ ?){1,3})[.!]?"
)
_BEFORE = {"on", "to", "at", "in", "probably", "likely", "clearly", "definitely", "indeed"}
_WORDS = re.compile(r"\w+(?:[.'/:,-]\w+)*")
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
    leading = re.match(r"\W{0,4}(yes(?! (?:or|and)\b)|no(?! [a-z]))(?!\w|\.? ?\d)", text)
    if leading:
        return Extracted(leading[1], Reading.OK)
    numbers = {_number(match[0]) for match in _NUMERAL.finditer(text)}
    if len(numbers) == 1 and (finished or value is not None):
        return Extracted(numbers.pop(), Reading.OK)
    told = _TOLD.fullmatch(text) if len(text) < 200 else None
    text = told[1] if told else text
    words = _WORDS.findall(_ARTICLES.sub(" ", text[:200])) or _WORDS.findall(text[:200])  # the letter A is no article
    refused = words and words[0] in ("not", "unclear", "unknown", "unsure")
    if words and not refused and len(words) <= 3 and len(text) < 200 and (finished or value is not None):
        words = words[1:] if len(words) > 1 and words[0] in _BEFORE else words
        words = words[:-1] if len(words) > 1 and words[-1] in ("one", "side") else words
        return Extracted(" ".join(words), Reading.OK)
    if len(numbers) > 1:
        return Extracted(None, Reading.AMBIGUOUS)
    return unread(response)


def extract_same(response: Response, gold: str) -> Extracted:
    """As `extract_short`; where that reads nothing, the gold answer if the final span is that and nothing else, for
    gold answers may be longer than a short one."""
    read = extract_short(response)
    if read.answer is None and response.finished and normalised(final_span(response)) == normalised(gold):
        return Extracted(gold, Reading.OK)
    return read


def _number(text: str) -> str:
    value = float(text)
    return str(int(value)) if value.is_integer() else str(value)


# --- A box ------------------------------------------------------------------------------------------------------
_N = r"[\"']?([-+]?(?:\d{1,9}(?:\.\d{0,20})?|\.\d{1,20})(?:[eE][-+]?\d{1,3})?)[\"']?"
_FOUR = re.compile(rf"[\[(]\s*{_N}\s*,\s*{_N}\s*,\s*{_N}\s*,\s*{_N}\s*[\])]|\[\s*{_N}\s+{_N}\s+{_N}\s+{_N}\s*\]")
_PAIR = rf"[(\[]\s*{_N}\s*,\s*{_N}\s*[)\]]"
_CORNERS = re.compile(
    rf"{_PAIR}\s*(?:,|and|to|-)?\s*[-*]{{0,3}}\s?(?:the\s)?"
    rf"(?:(?i:bottom|lower)[ -](?i:right)(?:\s(?:corner|at|is)){{0,2}}[\s:*]{{1,4}})?{_PAIR}"
)
_BARE = re.compile(rf"\s*{_N}(?:\s*,\s*|\s+){_N}(?:\s*,\s*|\s+){_N}(?:\s*,\s*|\s+){_N}[\s.]*")
_PLAIN = re.compile(
    rf"(?i:\b(?:box|bbox|coordinates|answer|region|location)\b)[^\d\n]{{0,30}}[:=]\s*[*_`]*\s*{_BARE.pattern}(?=\n|$|[*_`])"
    rf"|(?<=\n){_BARE.pattern}$"
)
_OTHERS = re.compile(
    r"[^.\[\]]{0,60}\b(?:second|third|fourth|2nd|3rd|4th|other|another|next)\b[^.\[\]]{0,60}", re.IGNORECASE
)
_KEY = re.compile(r"[\"']?\b(?:bbox_2d|bbox)\b[\"']?\s*[:=]\s*$")
_LIST = re.compile(
    r"(?:\"[^\"\n]{0,200}\"|'[^'\n]{0,200}'"
    r"|[\s,{}\[\]:()0-9.;|<>_-]|\b(?:and|bbox_2d|bbox|box_start|box_end)\b)*"
)


def extract_box(response: Response) -> ExtractedBox:
    """Four numbers of the final span, corners put in order; of the last list of boxes the first.

    Boxes under ``bbox_2d`` or ``bbox`` count before other bracketed numbers, ``(x1, y1), (x2, y2)`` as well as
    ``[x1, y1, x2, y2]``. Boxes are one list where nothing but JSON stands between them. The frame is the policy's.
    """
    span = ends(half_width(final_span(response)))
    found = sorted([*_FOUR.finditer(span), *_CORNERS.finditer(span), *NAMED_SIDES.finditer(span)], key=re.Match.start)
    keyed = [match for match in found if _KEY.search(span, max(0, match.start() - 24), match.start())]
    found = keyed or found
    if not found and (bare := _BARE.fullmatch(span[:400].strip(" *`\n"))) and len(span) < 400:
        found = [bare]
    found = found or list(_PLAIN.finditer(span))
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
    """Whether what stands between two boxes makes them one list: only JSON, or "the second box"."""
    between = re.sub(r"[.;]\s", " ", between)
    return len(between) < 400 and (_LIST.fullmatch(between) or _OTHERS.fullmatch(between.strip())) is not None
