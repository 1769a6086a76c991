"""Options that are values: which of them a response's value is, compared as maths and not as text."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache

from locus.evaluation.maths.equality import equal

DECIMALS = 2
"""To which MATH-V's official rule compares numbers, and values are compared with options."""
_NUMBER = re.compile(r"-?\d{1,12}(?:\.\d{1,6})?")
MATHS = re.compile(r"[\d\\]")
COUNTED = re.compile(r"(?:[A-Za-z]{2,20}: )?(-?\d{1,12}(?:\.\d{1,6})?)(?: [A-Za-z-]{2,20}){0,4}")
"""A number of things, or under a name: ``15 cubes``, ``Width: 15``."""
_WORD = re.compile(r"(?<![A-Za-z\\])(?!sin|cos|tan|log|sqrt|frac)[A-Za-z]{0,20}[a-z]{2}[A-Za-z]{0,20}(?![A-Za-z])")
MARKED = re.compile(r"\\(?:text(?:bf|it|rm)?|math(?:rm|bf|it)|mbox|operatorname)\s?(?=\{)")
"""LaTeX's marks of text, which are none of what they mark."""
_TEXT = re.compile(r"\\(?:text|textbf|textit|mathrm|mathbf|mbox)\s?(?=\{)|\\[A-Za-z]{1,20}")


def is_value(text: str) -> bool:
    r"""Whether a text has no word: ``\frac{1}{2}``, ``AB = 3.6``, ``60^\circ``; not ``3 \text{ hours}``."""
    return bool(text.strip()) and not _WORD.search(_TEXT.sub(" ", text))


def are_values(options: Mapping[str, str]) -> bool:
    """Whether most options are values; a letter that an option is printed as is none."""
    values = [text for text in options.values() if is_value(text) and text.strip().upper() not in options]
    return 2 * len(values) > len(options)


def are_lettered(options: Mapping[str, str]) -> bool:
    """Whether options begin with their letters, "A is closer" and "B is closer", so that this "A" is no article."""
    return options.get("B", "").startswith("B ")


def by_value(value: str, options: Mapping[str, str]) -> list[str]:
    """Letters of the options that a value equals, numbers when rounded; of several those that it equals exactly, and
    of those the one that is written alike: options may differ in their unit alone.

    Texts that are letters of options are left out.
    """
    if len(value) > 200:
        return []
    texts = {letter: text for letter, text in options.items() if text.strip().upper() not in options}
    near = [letter for letter, text in texts.items() if _equals(value, text, DECIMALS)]
    exact = [letter for letter in near if _equals(value, texts[letter], None)] if len(near) > 1 else []
    found = exact or near
    alike = [letter for letter in found if _written(texts[letter]) == _written(value)] if len(found) > 1 else []
    return alike or found


def _written(text: str) -> str:
    """Without LaTeX's marks of text, spaces and braces, to be compared as it stands."""
    return re.sub(r"[\\s{}$~]", "", MARKED.sub("", text)).casefold()


@lru_cache(65_536)
def _equals(value: str, text: str, decimals: int | None) -> bool:
    """`equal`, plain numbers and prose without its process."""
    bare = [one.strip(" $") for one in (value, text)]
    if all(map(_NUMBER.fullmatch, bare)):
        one, other = map(float, bare)
        return one == other if decimals is None else round(one, decimals) == round(other, decimals)
    if not any(is_value(one) or MATHS.search(one) for one in bare):
        return bare[0].casefold() == bare[1].casefold()
    return equal(value, text, decimals)
