"""The extractor ``locus``: what a response answers, as a reader would take it. Layer 1.

It reads the final span of a response only (`locus.evaluation.responses`), never guesses, never raises, and takes time
linear in the response's length. The option letters are read in `locus.evaluation.extraction_letters`.
"""

from __future__ import annotations

import math
import re

from locus.evaluation.extraction_letters import extract_letter, extract_letters
from locus.evaluation.extraction_texts import digits
from locus.evaluation.items import Extracted, Reading
from locus.evaluation.responses import ExtractedBox, boxed, ends, final_span, half_width

__all__ = ["extract_box", "extract_letter", "extract_letters", "extract_short", "extract_value", "extract_yes_no"]

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
_OPENING = " \t\n*_\"'`({["
_CORRECTED = re.compile(r"\b(?:wait|actually|correction|sorry|on second thought|i mean|looking again|let me|but)\b")


def extract_yes_no(response: str, finished: bool = True) -> Extracted:
    """``yes`` or ``no``: of the last box, after the last "answer is", else the answer word of the final span.

    A "no" before a noun ("there is no cat") counts only where nothing else answers. Two answer words that differ are
    ambiguous unless the response corrects itself between them, and so is "yes or no".
    """
    span = half_width(final_span(response, finished))
    box = boxed(span, finished)
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
    if determiner and finished:
        return Extracted("no", Reading.OK)
    return _nothing(finished)


def _lowered(text: str) -> str:
    """Lower case of the same length, "yes or no" and "No. 5" blanked out."""
    lowered = "".join(char if len(char.lower()) != 1 else char.lower() for char in text)
    for pattern in (_EITHER, _NUMBERED):
        lowered = pattern.sub(lambda match: " " * len(match[0]), lowered)
    return lowered


def _particles(text: str) -> tuple[list[tuple[str, int, int]], bool]:
    """Answer words of lower-case text with their places, and whether there is a "no" before a noun."""
    found, determiner = [], False
    for match in _YES_NO.finditer(text):
        start, end = match.span()
        before = text[max(0, start - 24) : start]
        opens = start < 4 and not before.strip(_OPENING) or "\n" in before[-3:] and not before[-3:].strip(_OPENING)
        if match[0] == "no" and not opens and re.match(r" [a-z\d]", text[end : end + 2]):
            determiner = True
        elif not _UNSAID.search(before):
            found.append(("yes" if match[0] in _YES else "no", start, end))
    return found, determiner


def _nothing(finished: bool) -> Extracted:
    return Extracted(None, Reading.NONE if finished else Reading.TRUNCATED)


# --- A word or a number -----------------------------------------------------------------------------------------
_NUMERAL = re.compile(r"(?<![a-z\d_])(?<!\d[.,:/-])[-+]?(?:\d{1,15}(?:\.\d{1,15})?|\.\d{1,15})(?![a-z\d_]|[.,:/-]\d)")
_TOLD = re.compile(r"(?:the|it|this|that|they)\b[^.!?\n]{0,80}?(?: is| are|'s|'re) ((?:[^\s.!?]+ ?){1,3})[.!]?")
_ARTICLES = re.compile(r"\b(?:a|an|the)\b")


def extract_short(response: str, finished: bool = True) -> Extracted:
    """A word or number, normalised: lower case, digits, no article, no unit; the gold answer goes through it too.

    An opening yes or no, else the only number, else what follows "answer is", else the whole of a response of up to
    three words.
    """
    span = half_width(final_span(response, finished))
    value = _explicit(span, finished)
    text = digits(re.sub(r"\\[A-Za-z]{1,20}|[*_`$\\{}\"]", " ", value if value is not None else ends(span))).strip()
    leading = re.match(r"\W{0,4}(yes|no)(?!\w|\.? ?\d)(?! [a-z])", text)
    if leading:
        return Extracted(leading[1], Reading.OK)
    numbers = {_number(match[0]) for match in _NUMERAL.finditer(text)}
    if len(numbers) == 1 and (finished or value is not None):
        return Extracted(numbers.pop(), Reading.OK)
    told = _TOLD.fullmatch(text) if len(text) < 200 else None
    text = told[1] if told else text
    words = re.findall(r"\w+(?:[.'/:,-]\w+)*", _ARTICLES.sub(" ", text[:200]))
    if words and len(words) <= 3 and len(text) < 200 and (finished or value is not None):
        words = words[1:] if len(words) > 1 and words[0] in ("on", "to", "at", "in") else words
        words = words[:-1] if len(words) > 1 and words[-1] in ("one", "side") else words
        return Extracted(" ".join(words), Reading.OK)
    if len(numbers) > 1:
        return Extracted(None, Reading.AMBIGUOUS)
    return _nothing(finished)


def _number(text: str) -> str:
    value = float(text)
    return str(int(value)) if value.is_integer() else str(value)


# --- A value ----------------------------------------------------------------------------------------------------
_CUE = re.compile(
    r"(?<![A-Za-z])(?i:answer|result|solution)\b[^.\n:=]{0,40}?(?<!not )(?:(?i:\bis(?! not\b)|\bwould be)\b|[:=])\s*:?"
    r"|答案(?:是|为|:)"
)
_CUE_END = re.compile(
    r"[.;!](?=\s|[*$]*$)|\n|(?:,| )(?:because|since|as|so|which|but|given|not|and not|that is|wait)\b", re.IGNORECASE
)
_WRAPPED = " \t\r\n*_`\"'$"
_ADVERBS = r"(?i:therefore|thus|hence|then|also|simply|indeed|exactly|approximately|about|equal to),?\s"
_WRAPPING = re.compile(rf"[\s*_`\"'$:]*(?:{_ADVERBS}[\s*_`\"'$:]*)?")
# "This result is consistent with the figure" names no value.
_REMARK = re.compile(
    r"[\s*_]{0,9}(?i:(?:also|therefore|indeed|thus)\s)?(?i:consistent|verified|correct|complete|reasonable|based|confirmed"
    r"|valid|supported|derived|obtained|rounded|in (?:line|agreement))\b"
)
_LATEX_MARKS = re.compile(r"^(?:\\[(\[]\s*)|(?:\s*\\[)\]])$")
_TELLS = re.compile(r"[a-z]\s(?:is|are|equals)\s((?=[^\s]*[\d\\$])[^\s]+(?: [^\s]+){0,2})$")
_WORD = re.compile(r"(?<!\\)(?<![A-Za-z\\])[A-Za-z]{3,}")


def extract_value(response: str, finished: bool = True) -> Extracted:
    r"""What stands in the last ``\boxed{}``, else after the last "answer is", else a last line that is only a value.

    The text as it is written, LaTeX kept: whether two values are equal is asked elsewhere.
    """
    span = half_width(final_span(response, finished))
    value = _explicit(span, finished)
    if value is None:
        lines = [line for line in ends(span).split("\n") if line.strip(_WRAPPED)]
        last = _unwrapped(lines[-1]) if lines and len(lines[-1]) < 200 else ""
        told = _TELLS.search(last)
        last = _unwrapped(told[1]) if told else last
        short = len(last.split()) <= 6 if len(lines) == 1 else len(_WORD.findall(last)) < 2
        alone = len(lines) == 1 and len(last.split()) == 1 and not told
        value = last if short and last and (finished or alone) else None
    return Extracted(value, Reading.OK) if value else _nothing(finished)


def _explicit(span: str, finished: bool) -> str | None:
    """What a box or an "answer is" names, the later of the two; None without one. Remarks behind a box are passed."""
    box = boxed(span, finished)
    inside = _unwrapped(ends(box[0])) if box else ""
    text = ends(span[box[1] :] if inside else span)
    cues = [cue.end() for cue in _CUE.finditer(text) if not _REMARK.match(text, cue.end())]
    if not cues:
        return inside or None
    start = _WRAPPING.match(text, cues[-1]).end()
    end = _CUE_END.search(text, start)
    value = _unwrapped(text[start : end.start() if end else len(text)])
    remark = inside and len(_WORD.findall(value)) > 1
    cut = end is None and not finished  # "The answer is 1" may become 12
    return value if value and len(value) < 500 and not remark and not cut else inside or None


def _unwrapped(value: str) -> str:
    """Without stars, dollars, quotes and stops around it."""
    previous = None
    while value != previous:
        previous = value
        value = _LATEX_MARKS.sub("", value.strip(_WRAPPED).rstrip(".,;")).strip()
        if value.endswith("}") and value.count("}") > value.count("{"):
            value = value[:-1]
    return value


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


def extract_box(response: str, finished: bool = True) -> ExtractedBox:
    """Four numbers of the final span, corners put in order; of the last list of boxes the first.

    Boxes under ``bbox_2d`` or ``bbox`` count before other bracketed numbers, ``(x1, y1), (x2, y2)`` as well as
    ``[x1, y1, x2, y2]``. Boxes are one list where nothing but JSON stands between them. The frame is the policy's.
    """
    span = ends(half_width(final_span(response, finished)))
    found = sorted([*_FOUR.finditer(span), *_CORNERS.finditer(span), *_NAMED.finditer(span)], key=re.Match.start)
    keyed = [match for match in found if _KEY.search(span, max(0, match.start() - 24), match.start())]
    found = keyed or found
    if not found and (bare := _BARE.fullmatch(span[:400].strip(" *`\n"))) and len(span) < 400:
        found = [bare]
    if not found:
        return ExtractedBox(None, Reading.NONE if finished else Reading.TRUNCATED)
    first = len(found) - 1
    while first and _listed(span[found[first - 1].end() : found[first].start()]):
        first -= 1
    x1, y1, x2, y2 = (float(number) for number in found[first].groups() if number is not None)
    if not all(math.isfinite(number) for number in (x1, y1, x2, y2)):
        return ExtractedBox(None, Reading.NONE)
    return ExtractedBox((min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)), Reading.OK)


def _listed(between: str) -> bool:
    return len(between) < 400 and _LIST.fullmatch(between) is not None
