"""Solutions of mathematical problems, read and compared with the right answer: by both extractors."""

from __future__ import annotations

import re
from collections.abc import Mapping

from locus.evaluation.maths.equality import equal
from locus.evaluation.reading import vlmevalkit
from locus.evaluation.reading.letters import extract_letter, extract_letters
from locus.evaluation.reading.responses import Extracted, Reading, whole
from locus.evaluation.reading.values import extract_value
from locus.types import Response

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
