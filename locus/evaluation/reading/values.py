"""Values of a response, as they are written: the half of the extractor `locus` that reads maths."""

from __future__ import annotations

import re
from collections.abc import Mapping

from locus.evaluation.maths.equality import equal
from locus.evaluation.reading import vlmevalkit
from locus.evaluation.reading.letters import extract_letter, extract_letters
from locus.evaluation.reading.responses import Extracted, Reading, boxed, ends, final_span, half_width, unread, whole
from locus.evaluation.reading.texts import digits
from locus.types import Response

_CUE = re.compile(
    r"(?<![A-Za-z])(?i:answer|result|solution)\b[^.\n:=]{0,40}?(?<!not )(?:(?i:\bis(?! not\b)|\bwould be)\b|[:=])\s*:?"
    r"|答案(?:是|为|:)"
)
_CUE_END = re.compile(
    r"[.;!](?=\s|[*$]*$)|\n|(?:,| )(?:because|since|as|so|which|but|given|not|and not|that is|wait"
    r"|i\.e|e\.g|namely|meaning|where|or (?:about|approximately|roughly))\b",
    re.IGNORECASE,
)
_WRAPPED = " \t\r\n*_`\"'$"
_ADVERBS = r"(?i:therefore|thus|hence|then|also|simply|indeed|exactly|approximately|about|equal to),?\s"
_WRAPPING = re.compile(rf"[\s*_`\"'$:]*(?:\\\[\s*\n\s*)?(?:{_ADVERBS}[\s*_`\"'$:]*)?")
# "This result is consistent with the figure" names no value.
_REMARK = re.compile(
    r"[\s*_]{0,9}(?i:(?:also|therefore|indeed|thus)\s)?(?i:consistent|verified|correct|complete|reasonable|based|confirmed"
    r"|valid|supported|derived|obtained|rounded|in (?:line|agreement))\b"
)
_LATEX_MARKS = re.compile(r"^(?:\\[(\[]\s*)|(?:\s*\\[)\]])$")
# A sentence that ends in a value, or in a sum and its value: "The total is 12 + 30 = 42".
_SUM = r"(?=[^\n]*=)(?:[^A-Za-z\n\\]|\\[a-z]{1,9}|(?<![A-Za-z])[A-Za-z](?![A-Za-z])){1,80}(?:[a-z]{1,3}\b)?"
_TELLS = re.compile(
    rf"[a-z]\s(?:is|are|equals|gives|yields|makes)\s(?:{_ADVERBS})?((?=[^\s]*[\d\\$])[^\s]+(?: [^\s]+){{0,2}}|{_SUM})$"
)
_LEAD = re.compile(
    r"^(?i:(?:so|thus|hence|therefore|then|finally|we|i|this|that|which|get|have|think|obtain|find|conclude|gives?|yields?"
    r"|means)\b[\s,:]{0,3}){1,9}(?=[^\s]*[\d\\$]|[A-Za-z]{1,3}\s?=)"
)
_COUNT = re.compile(
    r"\b(?:there (?:are|is|were)|(?:i|we) (?:can )?(?:count|see|find|need)) (\d+(?:\.\d+)?)(?: [a-z-]+){1,4}$"
)
_DOUBT = re.compile(
    r"\b(?:cannot|unable|sorry|unclear|unknown|unsure|impossible|if|may|might|could|between|maybe|perhaps"
    r"|not (?:sure|enough|possible|clear))\b"
    r"|n't\b",
    re.IGNORECASE,
)
_SEVERAL = re.compile(r"[,;](?!\d{3})|\b(?:and|or)\b|\\(?:q?quad|\\|implies|Rightarrow|text)|[<>!]=")
_OUTCOME = re.compile(r"[\s$]*[-+]?[\s$]*[\d.\\][^xyz]*")
_VARIABLE = re.compile(r"(?<![\\A-Za-z])[A-Za-z]")
_WORD = re.compile(r"(?<!\\)(?<![A-Za-z\\])[A-Za-z]{3,}")


def extract_value(response: Response) -> Extracted:
    r"""What stands in the last ``\boxed{}``, else after the last "answer is", else a last line that is only a value.

    The text as it is written, LaTeX kept: whether two values are equal is asked elsewhere.
    """
    span = half_width(final_span(response))
    value = explicit(span, response.finished)
    value = _last_line(span, response.finished) if value is None else value
    return Extracted(outcome(value), Reading.OK) if value else unread(response)


def _last_line(span: str, finished: bool) -> str | None:
    """The value that the last line is, or that it says in a short sentence; none of a refusal."""
    lines = [line for line in ends(span).split("\n") if line.strip(_WRAPPED) not in ("", "\\[", "\\]")]
    last = _unwrapped(lines[-1]) if lines and len(lines[-1]) < 200 else ""
    if not last or _DOUBT.search(last):
        return None
    alone = len(lines) == 1 and len(last.split()) == 1
    counted = _COUNT.search(digits(last))
    if counted and finished:
        return counted[1]
    told = _TELLS.search(last)
    last = outcome(_unwrapped(told[1] if told else _LEAD.sub("", last)))
    short = len(last.split()) <= 6 and len(_WORD.findall(last)) < (3 if len(lines) == 1 else 2)
    return last if short and last and (finished or alone) else None


def outcome(value: str) -> str:
    """What a sum comes to, 42 of "= 42", "12 + 30 = 42" and "A = 6 * 7 = 42"; "x = 42" and "x + y = 3" stay."""
    before, _, after = value.rpartition("=")
    worked = "=" in value and ("=" in before or not _VARIABLE.search(before))
    if not worked or _SEVERAL.search(value) or not _OUTCOME.fullmatch(after):
        return value
    return _unwrapped(after) or value


def explicit(span: str, finished: bool) -> str | None:
    """What a box or an "answer is" names, the later of the two; None without one. Remarks behind a box are passed."""
    box = boxed(span, finished)
    inside = _unwrapped(ends(box[0])) if box else ""
    text = ends(span[box[1] :] if box and inside else span)
    cues = [cue.end() for cue in _CUE.finditer(text) if not _REMARK.match(text, cue.end())]
    if not cues:
        return inside or None
    wrapping = _WRAPPING.match(text, cues[-1])
    start = wrapping.end() if wrapping else cues[-1]
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


DECIMALS = 2
"""To which MATH-V's official rule compares numbers, and values are compared with options."""


def letters_of(text: str) -> set[str]:
    """``B, D`` or ``BD`` -> {B, D}; empty for anything but capital letters."""
    return set(re.findall(r"[A-Z]", text)) if re.fullmatch(r"[A-Z](?:[\s,;&]*[A-Z])*", text.strip()) else set()


def solve(
    response: Response, options: Mapping[str, str], gold: str, decimals: int | None = None
) -> tuple[Extracted, bool]:
    """What a response comes to, and whether that is ``gold``: `locus`'s rule.

    A choice by its letter, or by the value of one option; several right letters must all be chosen; without options
    values are compared by `equal`, to this many decimals.
    """
    letters = letters_of(gold) if options else set()
    if len(letters) > 1:
        read = extract_letters(response, options)
        return read, letters_of(read.answer or "") == letters
    if options:
        read = _letter_or_value(response, options)
        return read, read.answer == gold
    read = extract_value(response)
    return read, equal(read.answer or "", gold, decimals)


def _letter_or_value(response: Response, options: Mapping[str, str]) -> Extracted:
    """The letter; where none is read but a value is, the letter of the one option of that value."""
    read = extract_letter(response, options)
    value = extract_value(response).answer
    if read.answer is not None or not value:
        return read
    letters = [letter for letter, text in options.items() if equal(value, text, DECIMALS)]
    return Extracted(letters[0], Reading.OK) if len(letters) == 1 else read


def solve_as_vlmevalkit(
    response: Response, options: Mapping[str, str], gold: str, decimals: int | None = None
) -> tuple[Extracted, bool]:
    """VLMEvalKit's rule for MATH-V: a choice by its letter, else by `equal` of the whole response, without decimals."""
    if options:
        read = vlmevalkit.extract_letter(response, options)
        return read, read.answer == gold
    read = whole(response.text)
    return read, equal(read.answer or "", gold)


def quick_match(response: Response, options: Mapping[str, str], gold: str) -> tuple[Extracted, bool]:
    """VLMEvalKit's rule for MathVerse before its judge: the whole response is the right text, or all right letters."""
    read, letters = whole(response.text), letters_of(gold) if options else set()
    said = read.answer or ""
    return read, letters_of(said) == letters if len(letters) > 1 else said == gold
