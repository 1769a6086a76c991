"""Option letters of a response: the half of the extractor `locus` that reads choices.

What a response says outright (a box, "the answer is B", a line that is only a letter) counts before what it mentions,
the last such statement before earlier ones, and letters before the options' texts, because a text may be the letter of
another option. An article is never a letter, and no letter is ever guessed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from locus.evaluation.reading import patterns
from locus.evaluation.reading.named_letters import (
    claims,
    in_texts,
    is_denied,
    is_letter,
    is_refused,
    listing,
    lone_letters,
    lone_lines,
    mentions_in,
    plain,
)
from locus.evaluation.reading.option_values import COUNTED, MATHS, are_values, by_value, is_value
from locus.evaluation.reading.paraphrases import by_difference
from locus.evaluation.reading.responses import Extracted, Reading, boxed, ends, final_span, half_width, missed
from locus.evaluation.reading.texts import by_start, by_text, last_sentence
from locus.evaluation.reading.values import named_value
from locus.types import Response

SHORT = 100
"""Characters of a response that only says its answer."""


def extract_letter(response: Response, options: Mapping[str, str]) -> Extracted:
    """The one option letter that a response chooses; any letter is an option where ``options`` is empty.

    Letters of two options are ambiguous; a letter that is not an option is out of range unless it is the text of one.
    """
    letters, reading = _choice(response, options)
    if reading is Reading.OK and len(letters) > 1:
        return Extracted(None, Reading.AMBIGUOUS)
    if reading is Reading.OK and (other := _restated(ends(half_width(final_span(response))), letters[0], options)):
        return Extracted(letters[0], Reading.CONTRADICTORY, other)
    return Extracted("".join(letters) or None, reading)


def extract_letters(response: Response, options: Mapping[str, str]) -> Extracted:
    """All option letters that a response chooses, in order and each once, e.g. ``AC`` of "both C and A"."""
    letters, reading = _choice(response, options)
    if reading is Reading.AMBIGUOUS and response.finished:
        letters, reading = _in_range(_closing(plain(ends(half_width(final_span(response)))), options), options)
    return Extracted("".join(sorted(set(letters))) or None, reading)


def _closing(text: str, options: Mapping[str, str]) -> list[str]:
    """The letters that the last sentence ends with, ``["?"]`` for fewer than two: "the symmetric ones are A and C"."""
    sentence = last_sentence(text)
    for match in patterns.MENTION.finditer(sentence):
        letters, end = listing(sentence, match.start(2))
        if len(letters) > 1 and not re.search(r"\w", sentence[end:]) and not is_refused(sentence, match.start(2)):
            return letters
    return ["?"]


def _choice(response: Response, options: Mapping[str, str]) -> tuple[list[str], Reading]:
    span = half_width(final_span(response))
    box = boxed(span, response.finished)
    text = plain(ends(span))
    found = None
    if box is not None and box[0]:
        found = _stated(plain(ends(span[box[1] :])), options) or _inside(ends(box[0]), options)
        if found is None and is_value(box[0]):
            return [], missed(response)  # a value that is no option's: letters before it name points and sides
    found = found or _stated(text, options)
    if found is None and response.finished:
        found = _leading(text, options) or _valued(span, options)
        found = _mentioned(text, options) if found is None else found
    if not found:
        return [], missed(response)
    return _in_range(found, options)


def _restated(span: str, letter: str, options: Mapping[str, str]) -> str | None:
    """The other option whose text stands behind a letter, where its own does not: B of "A. <text of B>"."""
    if len(options) < 2 or all(text.strip().upper() in options for text in options.values()):
        return None
    labels = [match for match in patterns.RESTATED.finditer(span) if letter in match.groups()]
    behind = span[labels[-1].end() :].split("\n", 1)[0].strip(" *_\"'`$}.,;") if labels else ""
    if not behind or len(behind) > 300:
        return None
    named = by_value(behind, options) if are_values(options) else []
    named = named or by_start(behind, options) or by_difference(behind, options)
    return named[0] if len(named) == 1 and named[0] != letter else None


def _in_range(letters: list[str], options: Mapping[str, str]) -> tuple[list[str], Reading]:
    if letters == ["?"]:
        return [], Reading.AMBIGUOUS
    if not options or all(letter in options for letter in letters):
        return letters, Reading.OK
    named = [letter for letter, text in options.items() if [text.strip().upper()] == letters]
    return (named, Reading.OK) if len(named) == 1 else ([], Reading.OUT_OF_RANGE)


def _inside(content: str, options: Mapping[str, str]) -> list[str] | None:
    """What the content of a box chooses: its only letter, else the option of its value, else what its words say."""
    said = plain(content)
    lone = lone_letters(said)
    if len(lone) == 1 and said.upper() == said and (lone[0] in options or not options):
        return lone
    equals = by_value(content, options)
    if equals:
        return equals if len(equals) == 1 else ["?"]
    if len(lone) > 1 and said.isalpha() and options and not set(lone) <= set(options):
        lone = []
    if lone or is_value(content):
        return lone or _labelled(content, options)
    return _stated(said, options) or _leading(said, options) or _texts(said, options)


def _labelled(content: str, options: Mapping[str, str]) -> list[str] | None:
    """The letter before a value: ``(B) 12``. In ``A: B = 3:2`` it is a point, and no option's value follows."""
    match = patterns.LABEL.match(content)
    if not match or match[1] not in options:
        return None
    return [match[1]] if match[2] != ":" or by_value(content[match.end() :], options) == [match[1]] else None


def _valued(span: str, options: Mapping[str, str]) -> list[str] | None:
    """The option of the value that a response without a letter comes to.

    Of a value that is no option's the letter before it (``D 4%``), or the only one that is set off; else no letter.
    """
    value = named_value(span) if options else None
    if value is None:
        return None
    counted = COUNTED.fullmatch(value)
    equals = by_value(value, options) or (by_value(counted[1], options) if counted else [])
    if not equals:
        return _beside(value, plain(ends(span)), options) if MATHS.search(value) and are_values(options) else None
    return equals if len(equals) == 1 else ["?"]


def _beside(value: str, text: str, options: Mapping[str, str]) -> list[str]:
    if value[:1] in options and by_value(value[1:].strip(), options) == [value[0]]:
        return [value[0]]
    letters = {letter for letter, decorated in mentions_in(text, options) if decorated}
    return list(letters) if len(letters) == 1 else []


def _stated(text: str, options: Mapping[str, str]) -> list[str] | None:
    """Letters of the last outright statement, ``["?"]`` for a statement of alternatives; None without one."""
    lone, texts = lone_letters(text), in_texts(text, options)
    if lone and not texts and (len(lone) == 1 or not options or set(lone) <= {*options, "?"}):
        return lone
    statements = dict(claims(text, options))
    lines = lone_lines(text.split("\n"))
    alone = [(start, letters) for start, end, letters in lines if texts.isdisjoint(range(start, end))]
    if len({tuple(letters) for _, letters in alone}) < 3:  # more are a list of the options
        statements.update(alone)
    return statements[max(statements)] if statements else None


def _leading(text: str, options: Mapping[str, str]) -> list[str] | None:
    """The letter that a response begins with, unless it goes on to list others."""
    match = patterns.LEADING.match(text)
    if not match or not is_letter(text, match.start(1)) or match.start(1) in in_texts(text, options):
        return None
    letters, end = listing(text, match.start(1))
    if is_denied(text, match.end(1), options) or is_denied(text, end, options):
        return None
    listed = {found[1] for found in _listed(text, options)}
    return None if chr(ord(letters[-1]) + 1) in listed else letters


def _listed(text: str, options: Mapping[str, str]) -> list[re.Match[str]]:
    """Letters that label what follows or end a line, outside the options' texts."""
    texts = in_texts(text, options)
    return [match for match in patterns.LISTED.finditer(text) if match.start(1) not in texts]


def _mentioned(text: str, options: Mapping[str, str]) -> list[str] | None:
    """The only letter that a response mentions, else the only one of its last sentence, else what its texts choose."""
    listed = _listed(text, options)
    unended = len(listed) > 1 and not re.search(r"\n|[.!?]\s\w", text[listed[-1].end() + 1 :])
    following = unended and ord(listed[-1][1]) == ord(listed[-2][1]) + 1
    if following and not is_refused(text, listed[-1].start(1)):
        return ["?"]  # only the options again
    text = patterns.CONTRAST.sub("", text)
    numbers = len(text) > SHORT and are_values(options)  # of which a solution names many
    for part in (text, last_sentence(text)):
        mentions = list(mentions_in(part, options))
        letters = {letter for letter, _ in mentions}
        if len(letters) == 1:
            named = None if any(decorated for _, decorated in mentions) else _texts(part, options)
            return ["?"] if named and named != list(letters) else list(letters)
        if not letters:
            return _finally(text, _telling(text) if numbers else part, options)
    return _texts(last_sentence(text), options) or ["?"]


def _finally(text: str, part: str, options: Mapping[str, str]) -> list[str] | None:
    """What the texts in a part choose; of several, what the last sentence does."""
    named = _texts(part, options)
    last = last_sentence(text)
    said = _texts(last, options) if named == ["?"] and not patterns.DOUBTS.search(last.lower()) else None
    return said or named


def _telling(text: str) -> str:
    """The sentence of a long response that names its number: an opening "There are 3 …", else the last."""
    opening = patterns.COUNTED.match(text)
    return opening[0] if opening else last_sentence(text)


def _texts(text: str, options: Mapping[str, str]) -> list[str] | None:
    named = by_text(text, options) or by_difference(text, options)
    return None if not named else (named if len(named) == 1 else ["?"])
