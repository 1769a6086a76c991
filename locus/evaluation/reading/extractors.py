"""The two ways in which every response is read: ours, and VLMEvalKit's for comparison.

`LOCUS` reads what a response answers as a reader would take it: the final span only (`responses`), never a guess.
`VLMEVALKIT` reads by the rules of that kit before its judge (`vlmevalkit`). Neither raises, whatever the text, and both
take time linear in its length.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from locus.boxes import ordered, visible, written_box
from locus.evaluation.reading import vlmevalkit
from locus.evaluation.reading.letters import extract_letter, extract_letters
from locus.evaluation.reading.problems import quick_match, solve, solve_as_vlmevalkit
from locus.evaluation.reading.responses import Extracted, ExtractedBox, final_span, unread, whole
from locus.evaluation.reading.short import extract_box, extract_short
from locus.evaluation.reading.values import extract_value
from locus.evaluation.reading.yes_no import extract_yes_no
from locus.types import Box, Frame, Response, View

Read = Callable[[Response], Extracted]
Choose = Callable[[Response, Mapping[str, str]], Extracted]
Decide = Callable[[Response, str], Extracted]
"""Of a response and the question that it answers, empty where nobody says it."""
Corners = tuple[float, float, float, float]


@dataclass(frozen=True)
class Extractor:
    """One set of rules for reading responses.

    Example: ``LOCUS.letter(Response("The answer is B."), {"A": "red", "B": "blue"}).answer`` is ``"B"``.
    """

    name: str
    """In columns and JSON."""
    letter: Choose
    """The one option letter that a response chooses."""
    letters: Choose
    """All option letters that it chooses, in order, such as ``AC``."""
    yes_no: Decide
    """``yes`` or ``no``."""
    value: Read
    """A value as it is written."""
    short: Read
    """A word or number, normalised; the right answer goes through it, too."""
    text: Read
    """The text that is searched for an expected one."""
    box: Callable[[Response], ExtractedBox]
    """Four numbers."""
    place: Callable[[Corners, View, Box], Box | None]
    """Those numbers, the policy's view and the true box -> the box they mean in the same frame; None if outside."""
    solve: Callable[[Response, Mapping[str, str], str, int | None], tuple[Extracted, bool]]
    """What a response comes to, and whether that is the right answer: of problems with options or without."""

    # Rules of single benchmarks.
    quick_match: Callable[[Response, Mapping[str, str], str], tuple[Extracted, bool]]
    """MathVerse's, as `solve`."""
    template_letter: Choose
    """We-Math's, as `letter`: the kit relies on a template that only some prompts ask for."""
    capital: Choose
    """MME-RealWorld's, as `letter`: officially the first capital."""


def searched_text(response: Response) -> Extracted:
    """The final span of a response that was not cut."""
    return whole(final_span(response)) if response.finished else unread(response)


def whole_text(response: Response, options: Mapping[str, str] | None = None) -> Extracted:
    """The whole response, thoughts and tags too: where VLMEvalKit has no rule before its judge."""
    return whole(response.text)


def place_in_view(xyxy: Corners, view: View, truth: Box) -> Box | None:
    """In the frame the policy writes in, corners put in order, cut at the picture's edges."""
    return visible(written_box(ordered(xyxy), view, truth.width, truth.height))


def place_by_guess(xyxy: Corners, view: View, truth: Box) -> Box | None:
    """In the frame that the largest number suggests, as the RefCOCO scorer does."""
    fractions = ordered(vlmevalkit.guessed_fractions(xyxy, truth.width, truth.height))
    x1, y1, x2, y2 = (share * side for share, side in zip(fractions, (truth.width, truth.height) * 2, strict=True))
    return visible(Box(x1, y1, x2, y2, Frame.FILE, truth.width, truth.height))


LOCUS = Extractor(
    name="locus",
    letter=extract_letter,
    letters=extract_letters,
    yes_no=extract_yes_no,
    value=extract_value,
    short=extract_short,
    text=searched_text,
    box=extract_box,
    place=place_in_view,
    solve=solve,
    quick_match=solve,
    template_letter=extract_letter,
    capital=extract_letter,
)
VLMEVALKIT = Extractor(
    name="vlmevalkit",
    letter=vlmevalkit.extract_letter,
    letters=whole_text,
    yes_no=vlmevalkit.extract_yes_no,
    value=whole_text,
    short=vlmevalkit.extract_bare,
    text=whole_text,
    box=vlmevalkit.extract_box,
    place=place_by_guess,
    solve=solve_as_vlmevalkit,
    quick_match=quick_match,
    template_letter=vlmevalkit.extract_after_answer,
    capital=vlmevalkit.extract_first_capital,
)
EXTRACTORS = (LOCUS, VLMEVALKIT)
