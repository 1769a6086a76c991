"""Option letters of a response: the half of the extractor `locus` that reads choices.

What a response says outright (a box, "the answer is B", a line that is only a letter) counts before what it mentions,
the last such statement before earlier ones, and letters before the options' texts, because a text may be the letter of
another option. An article is never a letter, and no letter is ever guessed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from locus.evaluation.reading import patterns
from locus.evaluation.reading.responses import Extracted, Reading, boxed, ends, final_span, half_width, missed
from locus.evaluation.reading.texts import by_text, last_sentence
from locus.types import Response

_SPACES = re.compile(r"[^\S\n]+")
_LINES = re.compile(r"\s*\n\s*")


def extract_letter(response: Response, options: Mapping[str, str]) -> Extracted:
    """The one option letter that a response chooses; any letter is an option where ``options`` is empty.

    Letters of two options are ambiguous; a letter that is not an option is out of range unless it is the text of one.
    """
    letters, reading = _choice(response, options)
    if reading is Reading.OK and len(letters) > 1:
        return Extracted(None, Reading.AMBIGUOUS)
    return Extracted("".join(letters) or None, reading)


def extract_letters(response: Response, options: Mapping[str, str]) -> Extracted:
    """All option letters that a response chooses, in order and each once, e.g. ``AC`` of "both C and A"."""
    letters, reading = _choice(response, options)
    return Extracted("".join(sorted(set(letters))) or None, reading)


def _choice(response: Response, options: Mapping[str, str]) -> tuple[list[str], Reading]:
    span = half_width(final_span(response))
    box = boxed(span, response.finished)
    text = _plain(ends(span))
    found = None
    if box is not None:
        found = _stated(_plain(ends(span[box[1] :])), options) or _inside(_plain(ends(box[0])), options)
    found = found or _stated(text, options)
    if found is None and response.finished:
        found = _leading(text, options) or _mentioned(text, options)
    if found is None:
        return [], missed(response)
    return _in_range(found, options)


def _in_range(letters: list[str], options: Mapping[str, str]) -> tuple[list[str], Reading]:
    if letters == ["?"]:
        return [], Reading.AMBIGUOUS
    if not options or all(letter in options for letter in letters):
        return letters, Reading.OK
    named = [letter for letter, text in options.items() if [text.strip().upper()] == letters]
    return (named, Reading.OK) if len(named) == 1 else ([], Reading.OUT_OF_RANGE)


def _plain(span: str) -> str:
    """Without LaTeX, markup and runs of spaces, so that patterns see words, letters and marks."""
    return _LINES.sub("\n", _SPACES.sub(" ", patterns.LATEX.sub(" ", span))).strip()


def _lone(line: str) -> list[str]:
    """Letters of a text that is nothing but letters and marks: ``**B**``, ``A, C``, ``AC``; ``["?"]`` of "A or C"."""
    if len(line) >= 60:
        return []
    words = re.findall(r"[^\W_]+", line)
    if len(words) > 1 and words[0].lower() in ("option", "options", "choice", "answer", "选项", "答案"):
        line, words = line[line.index(words[0]) + len(words[0]) :], words[1:]
    if len(words) == 1 and re.fullmatch(r"[A-H]{2,5}", words[0]) and list(words[0]) == sorted(set(words[0])):
        return list(words[0])
    if len(words) == 1:
        return [words[0].upper()] if re.fullmatch("[A-Za-z]", words[0]) else []
    letters = [word for word in words if re.fullmatch("[A-Z]", word)]
    if len(letters) < 2 or not patterns.LIST.fullmatch(line):
        return []
    return ["?"] if {"or", "或"} & set(words) or "/" in line else letters


def _inside(content: str, options: Mapping[str, str]) -> list[str] | None:
    """What the content of a box chooses."""
    lone = _lone(content)
    if len(lone) > 1 and content.isalpha() and options and not set(lone) <= set(options):
        lone = []
    return lone or _stated(content, options) or _leading(content, options) or _texts(content, options)


def _stated(text: str, options: Mapping[str, str]) -> list[str] | None:
    """Letters of the last outright statement, ``["?"]`` for a statement of alternatives; None without one."""
    lone = _lone(text)
    if lone and (len(lone) == 1 or not options or set(lone) <= {*options, "?"}):
        return lone
    statements = dict(_claims(text))
    alone = list(_lone_lines(text.split("\n")))
    if len({tuple(letters) for _, letters in alone}) < 3:  # more are a list of the options
        statements.update(alone)
    return statements[max(statements)] if statements else None


def _lone_lines(lines: list[str]) -> Iterator[tuple[int, list[str]]]:
    start = 0
    for line in lines:
        letters = _lone(line) if line else []
        if letters:
            yield start, letters
        start += len(line) + 1


def _claims(text: str) -> Iterator[tuple[int, list[str]]]:
    """Place and letters of every statement that is not denied."""
    for statement in patterns.STATEMENTS.finditer(text):
        match = patterns.AFTER.match(text, statement.end())
        if match and _is_letter(text, match.start(1)):
            letters, end = _listing(text, match.start(1))
            refused = patterns.DENIED.match(text, end) or _refused(text, match.start(1))
            if not refused and not _passing(text, statement, letters, end):
                yield match.start(1), letters
    for match in patterns.TICKED.finditer(text):
        yield match.start(1), [match[1]]
    done = 0
    for match in patterns.MENTION.finditer(text):
        start = match.start(2)
        if start >= done and match[2].isupper() and not patterns.ARTICLE.match(text, start):
            letters, done = _listing(text, start)
            if patterns.CONFIRMED.match(text, done) and not _refused(text, start):
                yield start, letters


def _passing(text: str, statement: re.Match[str], letters: list[str], end: int) -> bool:
    """Only seems a statement: "so A shows …", "Options: A. red B. blue", "if it were red, the answer would be A"."""
    if statement["joint"] and not patterns.SENTENCE_ENDS.match(text, end):
        return True
    if patterns.PLURAL.search(statement[0]) and letters == ["A"] and patterns.SECOND.match(text, end):
        return True
    before = max(0, statement.start() - 100)
    return patterns.CONDITIONAL.search(text, before, statement.end()) is not None


def _refused(text: str, start: int) -> bool:
    return patterns.REFUSED.search(text, max(0, start - 40), start) is not None


def _is_letter(text: str, start: int) -> bool:
    """Not an article, a pronoun or a small letter in a sentence."""
    letter, after = text[start], text[start + 1 : start + 3]
    if letter in "Ii":
        return not re.match(r"\s?[a-z']", after)
    if letter == "A":
        return not patterns.ARTICLE.match(text, start)
    return letter.isupper() or after[:1] in ("", "\n") or not after[0].isspace() or letter != "a"


def _listing(text: str, start: int) -> tuple[list[str], int]:
    """The letters from a first one on, joined by commas or "and", and their end; ``["?"]`` if joined by "or"."""
    letters, end, either = [text[start].upper()], start + 1, False
    while len(letters) < 9:
        following = patterns.JOIN.match(text, end)
        if not following or following[2].islower() != text[start].islower():
            break
        joint, after = following[1].strip(" ,\n").lower(), following.end(2)
        prose = patterns.PROSE.match(text, after) and joint not in ("and", "or", "/", "&", "和", "或", "与")
        if prose or patterns.ARTICLE.match(text, following.start(2)):
            break
        either |= joint in ("or", "/", "或")
        letters.append(following[2].upper())
        end = after
    return (["?"] if either and len(set(letters)) > 1 else list(dict.fromkeys(letters))), end


def _leading(text: str, options: Mapping[str, str]) -> list[str] | None:
    """The letter that a response begins with, unless it goes on to list others."""
    match = patterns.LEADING.match(text)
    if not match or not _is_letter(text, match.start(1)) or patterns.DENIED.match(text, match.end(1)):
        return None
    letters, end = _listing(text, match.start(1))
    if patterns.DENIED.match(text, end):
        return None
    listed = {found[1] for found in patterns.LISTED.finditer(text)}
    return None if chr(ord(letters[-1]) + 1) in listed else letters


def _mentioned(text: str, options: Mapping[str, str]) -> list[str] | None:
    """The only letter that a response mentions, else the only one of its last sentence, else what its texts choose."""
    listed = list(patterns.LISTED.finditer(text))
    unended = len(listed) > 1 and not re.search(r"\n|[.!?]\s\w", text[listed[-1].end() + 1 :])
    following = unended and ord(listed[-1][1]) == ord(listed[-2][1]) + 1
    if following and not _refused(text, listed[-1].start(1)):
        return ["?"]  # only the options again
    for part in (text, last_sentence(text)):
        mentions = list(_mentions(part, options))
        letters = {letter for letter, _ in mentions}
        if len(letters) == 1:
            named = None if any(decorated for _, decorated in mentions) else _texts(part, options)
            return ["?"] if named and named != list(letters) else list(letters)
        if not letters:
            return _texts(part, options)
    return _texts(last_sentence(text), options) or ["?"]


def _mentions(text: str, options: Mapping[str, str]) -> Iterator[tuple[str, bool]]:
    """Letters of options that stand alone and are not refused, and whether brackets or stars set them off."""
    text = patterns.CONTRASTED.sub(" ", text)
    for match in patterns.MENTION.finditer(text):
        letter, start, end = match[2], match.start(2), match.end(2)
        decorated = bool(match[1]) or bool(match[3])
        if letter.upper() not in (options or "ABCDEFGH") or (letter.islower() and not (match[1] and match[3])):
            continue
        if not decorated and (
            patterns.ARTICLE.match(text, start) or patterns.LABELLED.search(text, max(0, start - 16), start)
        ):
            continue
        if letter in "AI" and not decorated and not re.search(r"[a-z,:] $", text[max(0, start - 2) : start]):
            continue
        listed = _listing(text, start)[1]
        denied = patterns.DENIED.match(text, end) or patterns.DENIED.match(text, listed)
        if not denied and not _refused(text, start):
            yield letter.upper(), decorated


def _texts(text: str, options: Mapping[str, str]) -> list[str] | None:
    named = by_text(text, options)
    return None if not named else (named if len(named) == 1 else ["?"])
