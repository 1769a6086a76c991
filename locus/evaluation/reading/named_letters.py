"""Letters that a text names: alone, by a statement, or in passing; articles, pronouns and variables are none.

`letters` weighs what is read here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache

from locus.evaluation.reading import patterns
from locus.evaluation.reading.option_values import are_lettered, are_values

_SPACES = re.compile(r"[^\S\n]+")
_LINES = re.compile(r"\s*\n\s*")


def plain(span: str) -> str:
    """Without LaTeX, markup and runs of spaces, so that patterns see words, letters and marks."""
    return _LINES.sub("\n", _SPACES.sub(" ", patterns.LATEX.sub(" ", span))).strip()


def lone_letters(line: str) -> list[str]:
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


def lone_lines(lines: list[str]) -> Iterator[tuple[int, int, list[str]]]:
    """Start, end and letters of every line that is nothing else."""
    start = 0
    for line in lines:
        letters = lone_letters(line) if line else []
        if letters:
            yield start, start + len(line), letters
        start += len(line) + 1


def claims(text: str, options: Mapping[str, str]) -> Iterator[tuple[int, list[str]]]:
    """Place and letters of every statement that is not denied."""
    valued, drawn, texts = are_values(options), are_drawn(options), in_texts(text, options)
    pointed: list[tuple[int, list[str]]] = []
    for statement in patterns.STATEMENTS.finditer(text):
        match = patterns.AFTER.match(text, statement.end())
        if match and is_letter(text, match.start(1)) and match.start(1) not in texts:
            letters, end = listing(text, match.start(1))
            refused = is_denied(text, end, options) or is_refused(text, match.start(1))
            point = valued and statement["taken"] and patterns.POINT.match(text, end)
            if not refused and not point and not _passing(text, statement, letters, end):
                if statement[0] in patterns.ARROWS:
                    pointed.append((match.start(1), letters))
                else:
                    yield match.start(1), letters
    if len({tuple(letters) for _, letters in pointed}) == 1:  # else they match one thing to another
        yield from pointed
    for match in patterns.TICKED.finditer(text):
        yield match.start(1), [match[1]]
    done = 0
    for match in patterns.MENTION.finditer(text):
        start = match.start(2)
        if start >= done and start not in texts and match[2].isupper() and not patterns.ARTICLE.match(text, start):
            letters, done = listing(text, start)
            verdict = _verdict(patterns.CONFIRMED, text, done, options)
            place = (
                options and not match[1] and _is_labelled(text, start) and not (drawn or _is_named(letters, options))
            )
            weak = place and verdict and patterns.WEAK.search(verdict[0])
            if verdict and not weak and not is_refused(text, start):
                yield start, letters


def _passing(text: str, statement: re.Match[str], letters: list[str], end: int) -> bool:
    """Only seems a statement: "so A shows …", "Options: A. red B. blue", "if it were red, the answer would be A"."""
    if statement["joint"] and not patterns.SENTENCE_ENDS.match(text, end):
        return True
    if patterns.PLURAL.search(statement[0]) and letters == ["A"] and patterns.SECOND.match(text, end):
        return True
    before = max(0, statement.start() - 100)
    return patterns.CONDITIONAL.search(text, before, statement.end()) is not None


def mentions_in(text: str, options: Mapping[str, str]) -> Iterator[tuple[str, bool]]:
    """Letters of options that stand alone and are not refused, and whether brackets or stars set them off.

    Where options are values, letters that nothing sets off are points and variables.
    """
    valued, drawn, lettered = are_values(options), are_drawn(options), are_lettered(options)
    text = patterns.CONTRASTED.sub(" ", text)
    texts = in_texts(text, options)
    for match in patterns.MENTION.finditer(text):
        letter, start, end = match[2], match.start(2), match.end(2)
        decorated = bool(match[1]) or bool(match[3])
        if letter.upper() not in (options or "ABCDEFGH") or (letter.islower() and not (match[1] and match[3])):
            continue
        said_of = drawn or (lettered and _is_said(text, letter, options))
        if (
            start in texts
            or not decorated
            and (valued or patterns.ARTICLE.match(text, start) or (not said_of and _is_labelled(text, start)))
        ):
            continue
        if letter in "AI" and not decorated and not re.search(r"[a-z,:] $", text[max(0, start - 2) : start]):
            continue
        listed = listing(text, start)[1]
        denied = any(_verdict(patterns.DENIED, text, place, options) for place in (end, listed))
        if not denied and not is_refused(text, start):
            yield letter.upper(), decorated


def listing(text: str, start: int) -> tuple[list[str], int]:
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


def is_letter(text: str, start: int) -> bool:
    """Not an article, a pronoun, a variable or a small letter in a sentence."""
    letter, after = text[start], text[start + 1 : start + 3]
    if patterns.OPERATOR.match(text, start + 1):
        return False
    if letter in "Ii":
        return not re.match(r"\s?[a-z']", after)
    if letter == "A":
        return not patterns.ARTICLE.match(text, start)
    return letter.isupper() or after[:1] in ("", "\n") or not after[0].isspace() or letter != "a"


def _is_said(text: str, letter: str, options: Mapping[str, str]) -> bool:
    """Whether a text has what an option such as "A is closer" says of its own letter: "point A ... is closer"."""
    subject, *rest = options.get(letter, "").lower().split() or [""]
    return subject == letter.lower() and {*rest} <= {*re.findall(r"\w+", text.lower())}


def in_texts(text: str, options: Mapping[str, str]) -> set[int]:
    """Where options' texts stand that hold other letters than their own: the A of "B. Solution A" chooses nothing."""
    found = (match for own in _holding_letters(tuple(options.items())) for match in own.finditer(text))
    return {place for match in found for place in range(*match.span())}


@lru_cache(maxsize=1)  # a response is asked several times
def _holding_letters(options: tuple[tuple[str, str], ...]) -> list[re.Pattern[str]]:
    texts = []
    for letter, option in options:
        held = {match[2] for match in patterns.MENTION.finditer(option) if match[2].isupper()}
        own = plain(option).strip(" .:*()[]") if held - {letter} else ""
        if len(own) > 1:
            texts.append(re.compile(rf"(?<!\w){re.escape(own)}(?!\w)", re.IGNORECASE))
    return texts


def are_drawn(options: Mapping[str, str]) -> bool:
    """Whether the options stand in the picture, and only their letters in the question."""
    return bool(options) and all(letter == text for letter, text in options.items())


def is_denied(text: str, end: int, options: Mapping[str, str]) -> bool:
    """What stands behind the letter before ``end`` rules it out, and does not begin another sentence."""
    return not patterns.NO_THING.match(text, end) and _verdict(patterns.DENIED, text, end, options) is not None


def _verdict(pattern: re.Pattern[str], text: str, end: int, options: Mapping[str, str]) -> re.Match[str] | None:
    """What is said of the letter before ``end``, behind its own text where that follows."""
    own = _own_text(text, end, options)
    if own is None:
        return pattern.match(text, end)
    return pattern.match(text, own.end()) if patterns.GOES_ON.match(text, own.end()) else None


def _own_text(text: str, end: int, options: Mapping[str, str]) -> re.Match[str] | None:
    """The text of the option whose letter stands before ``end``, if it follows."""
    own = re.escape(options.get(text[end - 1].upper(), "").strip(" ."))
    return re.compile(rf"{patterns.OPENS}{own}(?!\w)", re.IGNORECASE).match(text, end) if own else None


def _is_named(letters: Sequence[str], options: Mapping[str, str]) -> bool:
    """Whether the options are what is labelled: "Point A", "Image B"."""
    return all(options.get(letter, "").split()[-1:] == [letter] for letter in letters)


def _is_labelled(text: str, start: int) -> bool:
    """Whether the letter at ``start`` names a point, a line or a figure."""
    return patterns.LABELLED.search(text, max(0, start - 16), start) is not None


def is_refused(text: str, start: int) -> bool:
    """What stands before the letter at ``start`` rules it out."""
    return patterns.REFUSED.search(text, max(0, start - 40), start) is not None
