"""Options that are sentences: which of them a response says in other words.

Of "The color of the car is silver." and "The color of the car is black." the words in which they differ decide:
"The car in the image is silver" is the first.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import pairwise

from locus.evaluation.reading import patterns

_WORDS = re.compile(r"[^\W_]+(?:['’.,/-][^\W_]+)*")
_SENTENCE = re.compile(
    r"[.!?。;](?=\s|$)|\n|,?\sbut\s|,\swe\s|\b(?:conclude|follows)\sthat\b|,\s(?:so|thus|therefore|hence)\s|,\s(?=and\s)"
)
_SMALL = frozenset(
    re.findall(
        r"\w+",
        "a an the is are was were be been being of in on at to it its this that these those there and or with by for "
        "from as which who whose has have had do does image picture photo shown side color",
    )
)
"""Words that make no sentence one about the options' subject."""
_LOOKS = frozenset(re.findall(r"\w+", "paint finish body exterior hue shade tone tint one colored bright light dark"))
"""Words for how a thing looks, which are no things of their own."""
_FUNCTION = frozenset(
    re.findall(
        r"\w+",
        "because since while when where than then not also too here there over under near next behind beside between "
        "its his her their our against along across through into onto around so he she they we i you but if very both "
        "mostly right left above below answer option therefore thus hence just only like before after can clearly "
        "visible now",
    )
)
_PRONOUNS = frozenset({"it's", "he", "she", "they", "one", "there's", "see", "seen", "looks", "appears", "seems"})
_PLACES = frozenset(
    {"of", "to", "behind", "beside", "near", "by", "under", "above", "before", "inside", "than", "like"}
)
_ARTICLES = frozenset({"a", "an", "the", "this", "that"})
_DENIALS = frozenset({"not", "no", "nor", "neither", "never", "cannot", "without", "than", "isn't", "aren't", "wasn't"})
_CONCLUSION = re.compile(r"\b(?:so|thus|hence|therefore|answer|conclusion)\b")
_SAME = {"grey": "gray", "colour": "color", "colored": "color", "coloured": "color", "leftmost": "left"}
_RELATIONS = frozenset(
    re.findall(
        r"\w+",
        "left right above below over under front behind before after top bottom north south east west up down inside "
        "outside larger smaller bigger taller shorter longer higher lower closer farther older younger faster slower "
        "more less",
    )
)
"""Words whose sense turns when what is compared changes sides."""
REACH = 4
"""Words before one that a denial reaches over: "not on the left"."""


def by_difference(text: str, options: Mapping[str, str]) -> list[str]:
    """Letters of the options that a response says in other words: of its last sentence that says any, one at best.

    A sentence says an option when it holds all words of it that some other option lacks, undenied, and the words that
    are in no other. Its subject must be the options', unless the whole response says one option only; and what
    stands on both sides of a difference, as in "the cup is left of the plate", must not have changed sides. Only for
    options of three words and more that share one.
    """
    words = {letter: _words(option) for letter, option in options.items()}
    if len(words) < 2 or min(map(len, words.values())) < 3 or not _common(words):
        return []
    common = _common(words)
    said: list[tuple[str, bool]] = []
    sentences = [sentence for sentence in _SENTENCE.split(text.lower()) if re.search(r"\w", sentence)]
    for number, sentence in enumerate(sentences, 1):
        held = _words(sentence)
        concludes = number == len(sentences) and _CONCLUSION.search(sentence) is not None
        if held and not patterns.DOUBTS.search(sentence):
            chosen = [letter for letter, option in words.items() if _says(held, option, common)]
            chosen = _longest(chosen, words, common)
            subject = bool(set(held) & (common - _SMALL))
            chosen = [letter for letter in chosen if _of_subject(held, words[letter], common, concludes)]
            said += [(letter, subject or concludes) for letter in chosen] if len(chosen) == 1 else []
    about = [letter for letter, known in said if known]
    if about:
        return about[-1:]
    letters = list(dict.fromkeys(letter for letter, _ in said))
    return letters if len(letters) == 1 else []


def _words(text: str) -> list[str]:
    return [_SAME.get(word, word) for word in _WORDS.findall(text.lower().replace("’", "'"))]


def _common(words: Mapping[str, list[str]]) -> set[str]:
    return set.intersection(*map(set, words.values()))


def _own(option: list[str], common: set[str]) -> list[str]:
    own = [word for word in option if word not in common]
    return [word for word in own if word not in _SMALL] or own


def _longest(letters: list[str], words: Mapping[str, list[str]], common: set[str]) -> list[str]:
    """Without those whose own words are among another's: "dark blue" is not "blue"."""
    own = {letter: set(_own(words[letter], common)) for letter in letters}
    return [letter for letter in letters if not any(own[letter] < own[other] for other in letters)]


def _says(held: list[str], option: list[str], common: set[str]) -> bool:
    own = _own(option, common)
    if not own or not set(own) <= set(held):
        return False
    places = [held.index(word) for word in own]
    if any(set(held[max(0, place - REACH) : place]) & _DENIALS for place in places):
        return False
    return not set(own) & _RELATIONS or _same_sides(held, option, set(own), common - _SMALL)


def _of_subject(held: list[str], option: list[str], common: set[str], concludes: bool) -> bool:
    """Whether the difference is said of the options' subject, or of an "it", and not of another thing beside it.

    Not of a noun that follows it ("the silver bike"), nor of one that stands before the subject ("the bike next to the
    car is silver"), nor where only another is named. What changes sides is checked elsewhere.
    """
    own = set(_own(option, common))
    if own & _RELATIONS:
        return True
    known = set(option) | _SMALL | _LOOKS
    places = [held.index(word) for word in own]
    following = held[max(places) + 1 : max(places) + 2]
    if following and following[0] not in known | _FUNCTION:
        return False
    subjects = [n for n, word in enumerate(held) if word.removesuffix("'s") in common - _SMALL]
    if not subjects:
        return concludes or not common - _SMALL or set(held[: min(places)]) <= known | _FUNCTION | _PRONOUNS
    before = [word for word in held[max(0, subjects[0] - 3) : subjects[0]] if word not in _ARTICLES]
    if before[-1:] == ["of"]:
        return set(before[-2:-1]) <= known  # "the color of the car", not "the roof of the car"
    return not before or before[-1] not in _PLACES or before[-1] in option


def _same_sides(held: list[str], option: list[str], own: set[str], shared: set[str]) -> bool:
    """Whether shared words on both sides of the difference keep their order; on one side alone it does not matter."""
    first, last = ([n for n, word in enumerate(option) if word in own][end] for end in (0, -1))
    before, after = (shared & set(part) for part in (option[:first], option[last + 1 :]))
    if not before or not after:
        return True
    order = [word for word in option if word in (before | after) and word in held]
    here = [n for n, word in enumerate(held) if word in own][0]
    kept = all(held.index(one) < held.index(other) for one, other in pairwise(dict.fromkeys(order)) if one != other)
    return kept and not any(held.index(word) < here for word in after & set(held) - before)
