"""Values of a response, as they are written: the half of the extractor `locus` that reads maths."""

from __future__ import annotations

import re

from locus.evaluation.reading.option_values import MATHS
from locus.evaluation.reading.responses import Extracted, Reading, boxed, ends, final_span, half_width, unread
from locus.evaluation.reading.texts import digits, last_sentence
from locus.types import Response

_CUE = re.compile(
    r"(?<![A-Za-z])(?i:answer|result)\b[^.\n:=]{0,40}?(?<!not )(?:(?i:\bis(?! not\b)|\bwould be)\b|[:=])\s*:?"
    r"|(?<![A-Za-z])(?i:solution)\b[^.\n:=]{0,40}?(?<!not )(?i:\bis(?! not\b)|\bwould be)\b\s*:?"
    r"|答案(?:是|为|:)"
)
_CUE_END = re.compile(
    r"[.;!](?=\s|[*$]*$)|\n|(?:,| )(?:because|since|as|so|which|but|given|not|and not|that is|wait"
    r"|i\.e|e\.g|namely|meaning|where|or (?:about|approximately|roughly))\b",
    re.IGNORECASE,
)
_WRAPPED = " \t\r\n*_`\"'$"
_ADVERBS = (
    r"(?i:(?:therefore|thus|hence|then|also|simply|indeed|exactly|approximately|about|equal to|given by),?\s){1,3}"
)
_WRAPPING = re.compile(rf"[\s*_`\"'$:]*(?:\\\[\s*\n\s*)?(?:{_ADVERBS}[\s*_`\"'$:]*)?")
# "This result is consistent with the figure" names no value.
_REMARK = re.compile(
    r"[\s*_]{0,9}(?i:(?:also|therefore|indeed|thus)\s)?(?i:consistent|verified|correct|complete|reasonable|based|confirmed"
    r"|valid|supported|derived|obtained|rounded|in (?:line|agreement))\b"
)
_LATEX_MARKS = re.compile(r"^(?:\\[(\[]\s*)|(?:\s*\\[)\]])$")
# A sentence that ends in a value, or in a sum and its value: "The total is 12 + 30 = 42".
_UNIT = r"(?:(?:(?:square|cubic|sq\.?) )?[a-z]{1,12}\b)?"
_SUM = rf"(?=[^\n]*=)(?:[^A-Za-z\n\\]|\\[a-z]{{1,9}}|(?<![A-Za-z])[A-Za-z](?![A-Za-z])){{1,80}}{_UNIT}"
_TELLS = re.compile(
    rf"[a-z)}}$*]\s(?:is|are|equals|gives|yields|makes|has)\s(?:{_ADVERBS})?"
    rf"((?=[^\s]*[\d\\$])[^\s]+(?: [^\s]+){{0,2}}|{_SUM})$"
)
_LEAD = re.compile(
    r"^(?i:(?:so|it follows|thus|hence|therefore|then|finally|we|i|this|that|which|get|have|think|obtain|find"
    r"|conclude|gives?|yields?|means)\b[\s,:]{0,3}){1,9}(?=[^\s]*[\d\\$]|∠?[A-Za-z]{1,3}\s?=)"
)
_COUNT = re.compile(
    r"\b(?:there (?:are|is|were)|(?:i|we) (?:can )?(?:count|see|find|need)) (\d+(?:\.\d+)?)(?: [a-z-]+){1,4}$"
)
_DOUBT = re.compile(
    r"\b(?:cannot|unable|sorry|unclear|unknown(?! (?:angle|side|length|number|value))|unsure|impossible"
    r"|if|may|might|could|between \S{1,20} and|maybe|perhaps"
    r"|not (?:sure|enough|possible|clear))\b"
    r"|n't\b",
    re.IGNORECASE,
)
# "It is 45 degrees, not 60 as in a hexagon"; "the area is 36\\pi, which is about 113".
_ASIDE = re.compile(
    r",? (?:and )?(?:not|rather than|instead of)\b[^=]{0,80}$"
    r"|(?<=\d) (?:because|since)\b[^\n]{0,120}$|, (?:which|as|since|because|just|and it)\b[^=]{0,120}$"
)
_ONE_NUMBER = re.compile(r"[^\d\n]*?(?<![\w.^{/-])(-?\d+(?:,\d{3})*(?:\.\d+)?)(?![\w/:^]|\.\d)[^\d\n]*")
_SO = re.compile(r",\s(?:so|hence|thus|therefore|giving|which gives)\b")
_FORMULA = re.compile(r"\\\(.*\\\)|\$[^$]+\$")
_SEVERAL = re.compile(r"[,;](?!\d{3})|\b(?:and|or)\b|\\(?:q?quad|\\|implies|Rightarrow|text)|[<>!]=")
_OUTCOME = re.compile(r"[\s$]*[-+]?[\s$]*[\d.\\][^xyz]*")
_VARIABLE = re.compile(r"(?<![\\A-Za-z])[A-Za-z]")
_WORD = re.compile(r"(?<!\\)(?<![A-Za-z\\])[A-Za-z]{3,}")


PARAGRAPH = 200
"""Characters of a last line from which on only its last sentence says the value."""


def extract_value(response: Response) -> Extracted:
    r"""What stands in the last ``\boxed{}``, else after the last "answer is", else a last line that is only a value.

    The text as it is written, LaTeX kept: whether two values are equal is asked elsewhere.
    """
    value = named_value(half_width(final_span(response)), response.finished)
    return Extracted(value, Reading.OK) if value else unread(response)


def named_value(span: str, finished: bool = True) -> str | None:
    """As `extract_value`, of a final span in plain characters; None without a value."""
    value = explicit(span, finished)
    value = _last_line(span, finished) if value is None else value
    return outcome(value) if value else None


def _last_line(span: str, finished: bool) -> str | None:
    """The value that the last line is, or that it says in a short sentence; none of a refusal."""
    lines = [line for line in ends(span).split("\n") if line.strip(_WRAPPED) not in ("", "\\[", "\\]")]
    line = lines[-1] if lines else ""
    sentence = _SO.split(last_sentence(line))[-1]
    value = _line(line, len(lines) == 1, finished) if len(line) < PARAGRAPH else None
    if value is not None or sentence == line:
        return value
    value = _line(sentence, len(lines) == 1, finished)
    number = _ONE_NUMBER.fullmatch(sentence) if value is None and finished and not _DOUBT.search(sentence) else None
    return number[1] if number else value


def _line(line: str, only: bool, finished: bool) -> str | None:
    """The value that a line is or tells; ``only``: there is no other line."""
    last = _unwrapped(_plain_maths(_ASIDE.sub("", line)))
    if not last or len(last) >= PARAGRAPH or _DOUBT.search(last):
        return None
    alone = only and len(last.split()) == 1
    counted = _COUNT.search(digits(last))
    if counted and finished:
        return counted[1]
    told = _TELLS.search(last)
    last = outcome(_unwrapped(told[1] if told else _LEAD.sub("", last)))
    short = len(last.split()) <= 6 and len(_WORD.findall(last)) < (3 if only else 2)
    return last if short and last and (finished or alone) else None


def _plain_maths(sentence: str) -> str:
    r"""A sentence without the marks around its formulas: "is \( 2 + 3 = 5 \) cm" is "is 2 + 3 = 5 cm"."""
    return re.sub(r" {2,9}", " ", re.sub(r"\\[()]|(?<!\\)\$", " ", sentence)) if _FORMULA.search(sentence) else sentence


def _told(sentence: str) -> str:
    """The value that a sentence ends in; the sentence itself where it does not."""
    told = _TELLS.search(_plain_maths(sentence).strip(_WRAPPED + ".")) if len(_WORD.findall(sentence)) > 2 else None
    return _unwrapped(told[1]) if told else sentence


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
    value = _told(_unwrapped(text[start : end.start() if end else len(text)]))
    words = _WORD.findall(value)  # one behind a number says something of it: "The solution is unique."
    remark = inside and (len(words) > 1 or (words and MATHS.search(inside) and not MATHS.search(value)))
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
