"""Option letters of a response: the half of the extractor `locus` that reads choices.

What a response says outright (a box, "the answer is B", a line that is only a letter) counts before what it mentions,
the last such statement before earlier ones, and letters before the options' texts, because a text may be the letter of
another option. An article is never a letter, and no letter is ever guessed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from locus.evaluation.reading import patterns
from locus.evaluation.reading.option_values import COUNTED, MATHS, are_values, by_value, is_value
from locus.evaluation.reading.paraphrases import by_difference
from locus.evaluation.reading.responses import Extracted, Reading, boxed, ends, final_span, half_width, missed
from locus.evaluation.reading.texts import by_start, by_text, last_sentence
from locus.evaluation.reading.values import named_value
from locus.types import Response

SHORT = 100
"""Characters of a response that only says its answer."""
_SPACES = re.compile(r"[^\S\n]+")
_LINES = re.compile(r"\s*\n\s*")


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
        letters, reading = _in_range(_closing(_plain(ends(half_width(final_span(response)))), options), options)
    return Extracted("".join(sorted(set(letters))) or None, reading)


def _closing(text: str, options: Mapping[str, str]) -> list[str]:
    """The letters that the last sentence ends with, ``["?"]`` for fewer than two: "the symmetric ones are A and C"."""
    sentence = last_sentence(text)
    for match in patterns.MENTION.finditer(sentence):
        letters, end = _listing(sentence, match.start(2))
        if len(letters) > 1 and not re.search(r"\w", sentence[end:]) and not _refused(sentence, match.start(2)):
            return letters
    return ["?"]


def _choice(response: Response, options: Mapping[str, str]) -> tuple[list[str], Reading]:
    span = half_width(final_span(response))
    box = boxed(span, response.finished)
    text = _plain(ends(span))
    found = None
    if box is not None and box[0]:
        found = _stated(_plain(ends(span[box[1] :])), options) or _inside(ends(box[0]), options)
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


def _plain(span: str) -> str:
    """Without LaTeX, markup and runs of spaces, so that patterns see words, letters and marks."""
    return _LINES.sub("\n", _SPACES.sub(" ", patterns.LATEX.sub(" ", span))).strip()


def _lone(line: str) -> list[str]:
    """Letters of a text that is nothing but letters and marks: ``**B**``, ``A, C``, ``CA``; ``["?"]`` of "A or C"."""
    if len(line) >= 60:
        return []
    words = re.findall(r"[^\W_]+", line)
    if len(words) > 1 and words[0].lower() in ("option", "options", "choice", "answer", "选项", "答案"):
        line, words = line[line.index(words[0]) + len(words[0]) :], words[1:]
    if len(words) == 1 and re.fullmatch(r"[A-H]{2,5}", words[0]) and len(set(words[0])) == len(words[0]):
        return list(words[0])
    if len(words) == 1:
        return [words[0].upper()] if re.fullmatch("[A-Za-z]", words[0]) else []
    if all(re.fullmatch("[A-Za-z]", word) for word in words) and re.search("[A-Z]", line):
        line = line.upper()  # "A, b, c"
    letters = [word for word in re.findall(r"[^\W_]+", line) if re.fullmatch("[A-Z]", word)]
    if len(letters) < 2 or not patterns.LIST.fullmatch(line):
        return []
    return ["?"] if {"or", "或"} & set(words) or "/" in line else list(dict.fromkeys(letters))


def _inside(content: str, options: Mapping[str, str]) -> list[str] | None:
    """What the content of a box chooses: its only letter, else the option of its value, else what its words say."""
    plain = _plain(content)
    lone = _lone(plain)
    if len(lone) == 1 and plain.upper() == plain and (lone[0] in options or not options):
        return lone
    equals = by_value(content, options)
    if equals:
        return equals if len(equals) == 1 else ["?"]
    if len(lone) > 1 and plain.isalpha() and options and not set(lone) <= set(options):
        lone = []
    if lone or is_value(content):
        return lone or _labelled(content, options)
    return _stated(plain, options) or _leading(plain, options) or _texts(plain, options)


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
        return _beside(value, _plain(ends(span)), options) if MATHS.search(value) and are_values(options) else None
    return equals if len(equals) == 1 else ["?"]


def _beside(value: str, text: str, options: Mapping[str, str]) -> list[str]:
    if value[:1] in options and by_value(value[1:].strip(), options) == [value[0]]:
        return [value[0]]
    letters = {letter for letter, decorated in _mentions(text, options) if decorated}
    return list(letters) if len(letters) == 1 else []


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
    """Not an article, a pronoun, a variable or a small letter in a sentence."""
    letter, after = text[start], text[start + 1 : start + 3]
    if patterns.OPERATOR.match(text, start + 1):
        return False
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
        ends_list = joint in ("and", "or", "/", "&", "和", "或", "与") or patterns.JOIN.match(text, after)
        prose = not ends_list and patterns.PROSE.match(text, after)
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
    text = patterns.CONTRAST.sub("", text)
    numbers = len(text) > SHORT and are_values(options)  # of which a solution names many
    for part in (text, last_sentence(text)):
        mentions = list(_mentions(part, options))
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


def _mentions(text: str, options: Mapping[str, str]) -> Iterator[tuple[str, bool]]:
    """Letters of options that stand alone and are not refused, and whether brackets or stars set them off.

    Where options are values, letters that nothing sets off are points and variables.
    """
    valued, drawn = are_values(options), bool(options) and all(key == option for key, option in options.items())
    text = patterns.CONTRASTED.sub(" ", text)
    for match in patterns.MENTION.finditer(text):
        letter, start, end = match[2], match.start(2), match.end(2)
        decorated = bool(match[1]) or bool(match[3])
        if letter.upper() not in (options or "ABCDEFGH") or (letter.islower() and not (match[1] and match[3])):
            continue
        if not decorated and (
            valued
            or patterns.ARTICLE.match(text, start)
            or (not drawn and patterns.LABELLED.search(text, max(0, start - 16), start))
        ):
            continue
        if letter in "AI" and not decorated and not re.search(r"[a-z,:] $", text[max(0, start - 2) : start]):
            continue
        listed = _listing(text, start)[1]
        denied = patterns.DENIED.match(text, end) or patterns.DENIED.match(text, listed)
        if not denied and not _refused(text, start):
            yield letter.upper(), decorated


def _texts(text: str, options: Mapping[str, str]) -> list[str] | None:
    named = by_text(text, options) or by_difference(text, options)
    return None if not named else (named if len(named) == 1 else ["?"])
