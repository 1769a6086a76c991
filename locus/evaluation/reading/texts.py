"""Which options' texts a response names, and numbers written as words."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from locus.evaluation.reading.option_values import are_lettered

_UNITS = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"),
    *("thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"),
)
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
NUMBER_WORDS = {word: value for value, word in enumerate(_UNITS)} | {
    word: 10 * value for value, word in enumerate(_TENS, 2)
}
_COMPOUND = re.compile(
    rf"(?<![a-z])(?:({'|'.join(_TENS)})[ -]({'|'.join(_UNITS[1:10])})|({'|'.join(reversed(NUMBER_WORDS))}))(?![a-z])"
)
_THOUSANDS = re.compile(r"(?<![\d.,])\d{1,3}(?:,\d{3}){1,6}(?![\d,])")
_CUE = re.compile(
    r"\b(?:answer|option|choice|it|this|that|there)\b[^.\n]{0,20}?(?:\bis\b|\bare\b|'s\b|[:=])|\b(?:so|thus|hence|therefore|conclusion)\b"
)
_NEGATED = re.compile(
    r"(?:\b(?:not|no|nor|neither|never|than|instead of|without|unlike)|n't)"
    r"(?: (?:a|an|the|any|really|actually|be|on|in|at|to|of|its|his|her|their|both|either)){0,4} ?$"
)
_SENTENCE = re.compile(r"[.!?。](?=\s|$)|\n")


def digits(text: str) -> str:
    """Lower-case text whose number words are digits and whose numbers have no commas.

    "twenty-five cars" is "25 cars", "1,200" is "1200"; "the red one" and "no one" stay as they are.
    """

    def digit(match: re.Match[str]) -> str:
        if match[1]:
            return str(NUMBER_WORDS[match[1]] + NUMBER_WORDS[match[2]])
        before = text[max(0, match.start() - 24) : match.start()]
        if (
            match[3] == "one"
            and re.search(r"[a-z] $", before)
            and not re.search(r"\b(?:is|are|only|just|with|of|about) $", before)
        ):
            return match[3]
        return str(NUMBER_WORDS[match[3]])

    text = _THOUSANDS.sub(lambda match: match[0].replace(",", ""), text.lower())
    return _COMPOUND.sub(digit, text)


def last_sentence(text: str) -> str:
    """The last sentence that holds a letter or digit."""
    pieces = [piece for piece in _SENTENCE.split(text) if re.search(r"\w", piece)]
    return pieces[-1].strip() if pieces else ""


def by_text(text: str, options: Mapping[str, str]) -> list[str]:
    """Letters of the options whose texts a response names, empty for none.

    The whole response is an option's text, or begins with one, or says one after "the answer is", or holds it as whole
    words without denying it; a text inside a longer option's text does not count. Last, the response is a part of one
    option's text only. Texts that are letters of options are left out: they say nothing.
    """
    wanted = {letter: _normal(option, options) for letter, option in options.items()}
    wanted = {letter: option for letter, option in wanted.items() if option and option.upper() not in options}
    said = _normal(text, options)
    whole = [letter for letter, option in wanted.items() if option == said]
    if whole or not said:
        return whole
    found = list(_found(said, wanted))
    starts = {start for start, _, _ in found}
    begins = {
        letter
        for start, end, letter in found
        if start == 0 and said[end : end + 1] in (",", ".", ";", ":", "!", "\n") and end + 2 not in starts
    }
    if len(begins) == 1:
        return list(begins)
    cues = [cue.end() for cue in _CUE.finditer(said)]
    if cues:
        stop = next(re.compile(r"[.\n](?=\s|$)|\n|$").finditer(said, cues[-1])).start()
        after = {letter for start, end, letter in found if start >= cues[-1] and end <= stop}
        if len(after) == 1:
            return list(after)
    letters = {letter for _, _, letter in found}
    if not letters and 3 <= len(said) < 200:
        part = re.compile(rf"(?<![a-z0-9]){re.escape(said)}(?![a-z0-9])")
        letters = {letter for letter, option in wanted.items() if part.search(option)}
        letters = letters if len(letters) == 1 else set()
    return sorted(letters)


def by_start(text: str, options: Mapping[str, str]) -> list[str]:
    """Letters of the longest options' texts that a text begins with."""
    said = _normal(text, options)
    wanted = {letter: option for letter, text in options.items() if (option := _normal(text, options))}
    starts = [letter for letter, option in wanted.items() if re.match(rf"{re.escape(option)}(?!\w|[.,:]\d)", said)]
    longest = max((len(wanted[letter]) for letter in starts), default=0)
    return [letter for letter in starts if len(wanted[letter]) == longest]


def _normal(text: str, options: Mapping[str, str]) -> str:
    """Lower case, digits for number words, no marks around it, no article before it."""
    text = re.sub(r"[*_`\"]", "", digits(text)).strip(" \n\t.,;:!()[]'")
    return re.sub("^(?:an|the) " if are_lettered(options) else "^(?:a|an|the) ", "", text)


def _found(said: str, wanted: Mapping[str, str]) -> Iterator[tuple[int, int, str]]:
    """Where each option's text stands in a response, as whole words, undenied, outside the longer ones."""
    taken: list[tuple[int, int]] = []
    covered = bytearray(len(said))
    for letter, option in sorted(wanted.items(), key=lambda pair: -len(pair[1])):
        pattern = rf"(?<![a-z0-9])(?<!\d[.,:/])(?<!-){re.escape(option)}(?![a-z0-9])(?![.,:/]\d)"
        for match in re.finditer(pattern, said):
            if covered[match.start()] and covered[match.end() - 1]:
                continue
            taken.append(match.span())
            if not _NEGATED.search(said, max(0, match.start() - 30), match.start()):
                yield match.start(), match.end(), letter
        for start, end in taken:
            covered[start:end] = b"\1" * (end - start)
        taken.clear()
