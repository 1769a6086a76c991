"""Does a short mathematical answer say the same as the gold one?

Both texts are cleaned of LaTeX dress, units and degree and per cent signs, then compared as text, as lists, intervals
and unions part by part, as equations, and at last by sympy: numbers by value, expressions with letters by whether
their difference simplifies to 0. sympy may take its time: `locus.evaluation.maths.equality` bounds it.
"""

from __future__ import annotations

import re
import unicodedata

import sympy

from locus.evaluation.maths.expressions import NotMathsError, expression

TOLERANCE = 1e-6
"""VLMEvalKit's: absolute for values above 1, relative below, so that large integers differ by 1 and small ones too."""
NOTHING = 1e-60
"""What is left of a sum that vanishes, worked out to sympy's 100 digits, is less."""

_LONG = (
    *("millimeters?", "centimeters?", "kilometers?", "meters?", "metres?", "inch(?:es)?", "feet", "foot", "yards?"),
    *("miles?", "degrees?", "radians?", "units?", "square", "cubic", "sq", "percent", "dollars?", "cents?", "euros?"),
    *("kilograms?", "grams?", "lit(?:er|re)s?", "seconds?", "minutes?", "hours?", "days?", "years?", "mph", "deg"),
    *("km", "cm", "mm", "dm", "nm", "kg", "mg", "ml", "mL", "min", "hrs?", "sec", "ms", "ft", "in", "yd", "rad"),
    *("kN", "kJ", "kW", "Hz", "Pa"),
)
_SHORT = "[mghsLNJWVKCF]"
"""Letters that may also be a variable: units only right behind a number."""
_POWER = r"(?:\s*\^\s*\{?\s*-?[1-3]\s*\}?)?(?![A-Za-z])"
_ANY = rf"(?:{'|'.join(_LONG)}|{_SHORT}){_POWER}"
_TRAILING_UNITS = re.compile(
    rf"(?:(?:(?<=[\d)}}⦄])|(?<=\s))(?:{'|'.join(_LONG)}){_POWER}|(?:(?<=\d)|(?<=\d\s)){_SHORT}{_POWER})"
    rf"(?:\s*(?:/|per\b|\*)?\s*{_ANY})*\s*$"
)
_DRESS = re.compile(
    r"\\(?:left|right|displaystyle|bigl?|bigr|Bigl?|Bigr|quad|qquad|limits)(?![A-Za-z])|\\[!,;: ()\[\]$]|\\\\|[~$]"
)
_STYLE = re.compile(r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mathit|operatorname|mbox|rm|bf)\s*\{([^{}]*)\}")
_PLAIN = (
    *(("²", "^2"), ("³", "^3"), ("½", "\\frac{1}{2}"), ("¼", "\\frac{1}{4}"), ("¾", "\\frac{3}{4}")),
    *(("−", "-"), ("–", "-"), ("×", "*"), ("·", "*"), ("÷", "/"), ("π", "\\pi "), ("√", "\\sqrt "), ("∞", "\\infty ")),
    *(("\\{", "⦃"), ("\\}", "⦄"), ("∪", "\\cup "), ("±", "\\pm "), ("°", ""), ("≤", "\\le "), ("≥", "\\ge ")),
    *(("\\leq", "\\le"), ("\\geq", "\\ge"), ("℃", ""), ("\\cdot", "*"), ("\\times", "*"), ("\\div", "/")),
    *(("\\dfrac", "\\frac"), ("\\tfrac", "\\frac"), ("\\cfrac", "\\frac"), ("\\degree", ""), ("**", "^")),
    *(("{,}", ","), ("\\%", ""), ("%", ""), ("€", ""), ("£", ""), ("\\lt", "<"), ("\\gt", ">")),
)
_THOUSANDS = re.compile(r"-?\d{1,3}(?:,\d{3})+(?:\.\d+)?")
_RATIO = re.compile(r"^([^:]{1,40}):([^:]{1,40})$")
_BRACKETS = {"(": ")", "[": "]", "⦃": "⦄"}


def same(answer: str, gold: str, decimals: int | None = None) -> bool:
    """Whether ``answer`` says the same as ``gold``; ``decimals`` as in `locus.evaluation.maths.equality.equal`."""
    said, true = clean(answer), clean(gold)
    if not said or not true:
        return False
    return _same(said, true, decimals)


def clean(text: str) -> str:
    """The text without LaTeX dress, units, and degree, per cent and currency signs; one spelling of each operator."""
    text = text[:2000].strip().rstrip(".")  # longer texts are not short answers, and would take the patterns their time
    for dressed, plain in _PLAIN:
        text = text.replace(dressed, plain)
    text = re.sub(r"\^\s*(?:\{\s*\\circ\s*\}|\\circ)", "", unicodedata.normalize("NFKC", text))
    text = _DRESS.sub(" ", _STYLE.sub(r" \1 ", text))
    text = re.sub(r"\\(frac|sqrt)\s*(\d)(?=\d)", r"\\\1{\2}", text)  # \frac12
    text = re.sub(r"(?<![\w.])(\d+) +(\d+)/(\d+)(?![\w.])", r"(\1+\2/\3)", text)  # 1 1/2
    text = re.sub(r"\s+(?:or|and)\s+", ", ", text)
    return _TRAILING_UNITS.sub("", re.sub(r"\s+", " ", text).strip().rstrip(" .")).strip()


def _same(said: str, true: str, decimals: int | None) -> bool:
    """Two cleaned texts."""
    if _bare(said) == _bare(true):
        return True
    said_sets, true_sets = said.split("\\cup"), true.split("\\cup")
    if max(len(said_sets), len(true_sets)) > 1:
        return _same_parts(said_sets, true_sets, decimals, ordered=False)
    (said_open, said_parts), (true_open, true_parts) = _parts(said), _parts(true)
    if len(true_parts) > 1 or len(said_parts) > 1:
        if said_open and true_open and said_open != true_open:
            return False
        ordered = "⦃" not in (said_open + true_open) and bool(said_open or true_open)
        return _same_parts(said_parts, true_parts, decimals, ordered)
    return _same_equation(said_parts[0], true_parts[0], decimals)


def _bare(text: str) -> str:
    return text.replace(" ", "").casefold()


def _parts(text: str) -> tuple[str, list[str]]:
    """The brackets around a list, open and close, and its parts; brackets only where there is more than one part."""
    if _THOUSANDS.fullmatch(text):
        return "", [text.replace(",", "")]
    text = re.sub(r"^[A-Za-z]\s*(?:=|\\in)\s*(?=[(\[⦃])", "", text)  # P = (1, 2), x in [0, 1]
    if text[:1] == "{" and _encloses(text) and len(_split(text[1:-1])) > 1:
        text = f"⦃{text[1:-1]}⦄"  # a set whose braces were not escaped
    bracketed = len(text) > 1 and text[0] in _BRACKETS and text[-1] in ")]⦄" and _encloses(text)
    parts = _split(text[1:-1] if bracketed else text)
    if len(parts) < 2 and not (bracketed and text[0] == "⦃"):
        return "", _signs(text)
    return (text[0] + text[-1] if bracketed else ""), parts


def _encloses(text: str) -> bool:
    """Whether the first bracket closes only at the end; ``(0, 1]`` counts, ``(1, 2), (3, 4)`` does not."""
    depth = 0
    for index, char in enumerate(text):
        depth += (char in "([⦃{") - (char in ")]⦄}")
        if depth == 0:
            return index == len(text) - 1
    return False


def _split(text: str) -> list[str]:
    """At the commas and semicolons outside brackets."""
    parts, depth = [""], 0
    for char in text:
        depth += (char in "([⦃{") - (char in ")]⦄}")
        if char in ",;" and depth == 0:
            parts.append("")
        else:
            parts[-1] += char
    return [part.strip() for part in parts]


def _signs(text: str) -> list[str]:
    """Both readings of a plus-minus sign."""
    return [text.replace("\\pm", "+"), text.replace("\\pm", "-")] if "\\pm" in text else [text]


def _same_parts(said: list[str], true: list[str], decimals: int | None, ordered: bool) -> bool:
    if len(said) != len(true) or len(true) > 20:
        return False
    if ordered:
        return all(_same(one.strip(), other.strip(), decimals) for one, other in zip(said, true, strict=True))
    left = list(said)
    for part in true:
        match = next((one for one in left if _same(one.strip(), part.strip(), decimals)), None)
        if match is None:
            return False
        left.remove(match)
    return True


def _same_equation(said: str, true: str, decimals: int | None) -> bool:
    """Equations, where the one is a multiple of the other; ``x = 5`` says the same as ``5``; else expressions."""
    sides, true_sides = said.split("="), true.split("=")
    if len(sides) == len(true_sides) == 2:
        if _same_value(sides[0], true_sides[0], decimals) and _same_value(sides[1], true_sides[1], decimals):
            return True
        if sides[0].strip() == true_sides[0].strip() and re.fullmatch(r"[A-Za-z]", sides[0].strip()):
            return _same_value(sides[1], true_sides[1], decimals)
        return _proportional(sides, true_sides)
    return _same_value(sides[-1], true_sides[-1], decimals) if max(len(sides), len(true_sides)) <= 3 else False


def _proportional(sides: list[str], true_sides: list[str]) -> bool:
    """Whether left minus right of both vanish together: the one is a number times the other."""
    read = [value for side in (*sides, *true_sides) if (value := _read(side)) is not None]
    if len(read) < 4:
        return False
    one, other = read[0] - read[1], read[2] - read[3]
    if not (one.free_symbols and other.free_symbols):
        return False
    return not sympy.simplify(one / other).free_symbols


def _same_value(said: str, true: str, decimals: int | None) -> bool:
    if _bare(said) == _bare(true):
        return True
    one, other = _read(said), _read(true)
    if one is None or other is None:
        return False
    if one.free_symbols or other.free_symbols:
        return sympy.simplify(one - other) == 0
    return _close(one, other, decimals)


def _read(text: str) -> sympy.Expr | None:
    """None if the text is not an expression; a ratio, 3:2, is a quotient."""
    try:
        return expression(_RATIO.sub(r"(\1)/(\2)", text.strip()))
    except NotMathsError:
        return None


def _close(one: sympy.Expr, other: sympy.Expr, decimals: int | None) -> bool:
    """Whether two numbers are the same, or are when rounded."""
    if one == other:
        return True
    values = one.evalf(), other.evalf()
    if decimals is not None and all(value.is_real and abs(value) < 1e15 for value in values):
        rounded = [round(float(value), decimals) for value in values]
        if rounded[0] == rounded[1]:
            return True
    largest = max(abs(value) for value in values)
    return bool(abs(one - other).evalf() <= TOLERANCE * min(1, largest) + NOTHING)
