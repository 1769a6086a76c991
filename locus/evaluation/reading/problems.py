"""Problems, with options or without: what a response comes to, and whether that is right."""

from __future__ import annotations

import re
from collections.abc import Mapping

from locus.evaluation.maths.equality import equal
from locus.evaluation.reading import vlmevalkit
from locus.evaluation.reading.letters import extract_letter, extract_letters
from locus.evaluation.reading.responses import Extracted, whole
from locus.evaluation.reading.values import extract_value
from locus.types import Response


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
        read = extract_letter(response, options)
        return read, read.answer == gold
    read = extract_value(response)
    return read, equal(read.answer or "", gold, decimals)


def solve_as_vlmevalkit(
    response: Response, options: Mapping[str, str], gold: str, decimals: int | None = None
) -> tuple[Extracted, bool]:
    """VLMEvalKit's rule for MATH-V: a choice by its letter, else by `equal` without decimals.

    What is compared is the contents of all boxes, joined by commas, and without a box the whole response. Faults are
    kept: a box that ends in a full stop cannot be parsed there, and an "A" equals any number, since the kit works
    answers out where a variable of that name holds the right one.
    """
    if options:
        read = vlmevalkit.extract_letter(response, options)
        return read, read.answer == gold
    read = whole(vlmevalkit.boxed_contents(response.text))
    said = read.answer or ""
    if said in ("A", "a"):
        return read, re.fullmatch(r"-?\d+(\.\d+)?", gold) is not None
    broken = said.endswith(".") and said != response.text.strip()
    return read, not broken and equal(said, gold)


def quick_match(response: Response, options: Mapping[str, str], gold: str) -> tuple[Extracted, bool]:
    """VLMEvalKit's rule for MathVerse before its judge: the whole response is the right text, or all right letters."""
    read, letters = whole(response.text), letters_of(gold) if options else set()
    said = read.answer or ""
    return read, letters_of(said) == letters if len(letters) > 1 else said == gold
