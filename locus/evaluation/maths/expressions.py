"""A short mathematical expression, LaTeX or plain, as sympy's.

sympy's own parsers call ``eval``; here a text is read by the small grammar below, and nothing of it is ever run. sympy
works numbers out exactly as they are put together, so powers and factorials whose digits would be many are refused
before. What is slow all the same is bounded by `locus.evaluation.maths.equality`.

    sum = product (("+" | "-") product)*        product = signed (("*" | "/" | nothing) signed)*
    signed = ("+" | "-") signed | power         power = atom "!"* ("^" signed)?
    atom = number | letter | "(" sum ")" | "|" sum "|" | a fraction, root, function or constant
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

import sympy

LONGEST = 200
"""Characters; no gold answer is near it."""
DEEPEST = 20
"""Brackets within brackets."""
LARGEST = 10_000
"""Of an exponent that is a number."""
BITS = 100_000
"""Of the numbers in a power, worked out."""
FACTORIAL = 1000
FUNCTIONS: Mapping[str, Callable[[sympy.Expr], sympy.Expr]] = {
    "sin": sympy.sin, "cos": sympy.cos, "tan": sympy.tan, "cot": sympy.cot, "sec": sympy.sec, "csc": sympy.csc,
    "arcsin": sympy.asin, "arccos": sympy.acos, "arctan": sympy.atan, "ln": sympy.log,
    "exp": lambda exponent: raised(sympy.E, exponent),
}  # fmt: skip
CONSTANTS = {"pi": sympy.pi, "infty": sympy.oo, "infinity": sympy.oo, "e": sympy.E}
GREEK = ("alpha", "beta", "gamma", "delta", "theta", "lambda", "mu", "rho", "sigma", "phi", "varphi", "omega")
_WORDS = "|".join(sorted((*FUNCTIONS, *CONSTANTS, *GREEK, "sqrt", "frac", "log"), key=len, reverse=True))
_TOKEN = re.compile(
    rf"\s*(?:(?P<number>\d+(?:\.\d*)?|\.\d+)|\\?(?P<word>{_WORDS})(?![a-z])|\\?(?P<call>{_WORDS})"
    r"|(?P<letter>[A-Za-z])|(?P<sign>[-+*/^_(){}\[\]|!]))"
)
_LETTERS = re.compile(rf"(?:{_WORDS})|([A-Za-z]{{3,}})")


class NotMathsError(ValueError):
    """The text is not an expression of this grammar, or has no value, or one of too many digits."""


def expression(text: str) -> sympy.Expr:
    """What ``text`` says, decimals exact, letters positive numbers.

    Raises NotMathsError for anything else: words, unknown commands, division by zero, ``9^9^9``.
    """
    if len(text) > LONGEST:
        raise NotMathsError("too long")
    reader = _Reader(_tokens(text))
    try:
        result = reader.sum()
    except (ArithmeticError, ValueError, TypeError) as error:
        raise NotMathsError(str(error)) from error
    if reader.here is not None or result.has(sympy.nan, sympy.zoo):
        raise NotMathsError(text)
    return result


def raised(base: sympy.Expr, exponent: sympy.Expr) -> sympy.Expr:
    """``base ** exponent``; raises NotMathsError where sympy would work out too many digits."""
    if exponent.is_number:
        numbers = base.atoms(sympy.Rational)
        bits = sum(number.p.bit_length() + number.q.bit_length() for number in numbers)
        if not (abs(exponent) <= LARGEST and bits * abs(exponent) <= BITS):
            raise NotMathsError("too large a power")
    return base**exponent


def factorial(number: sympy.Expr) -> sympy.Expr:
    """``number!``; raises NotMathsError for a number that is not whole, or too large."""
    if number.is_number and not (number.is_Integer and 0 <= number <= FACTORIAL):
        raise NotMathsError("no factorial")
    return sympy.factorial(number)


def _tokens(text: str) -> list[tuple[str, str]]:
    """(kind, text) of each token; three letters in a row that name no function are a word, not a product."""
    found, at = [], 0
    bare = _LETTERS.sub(lambda match: "#" if match[1] else " ", text)
    while at < len(text.rstrip()):
        match = None if "#" in bare else _TOKEN.match(text, at)
        if match is None:
            raise NotMathsError(text)
        kind = match.lastgroup or ""
        found.append(("word" if kind == "call" else kind, match[kind]))
        at = match.end()
    return found


class _Reader:
    def __init__(self, tokens: list[tuple[str, str]]) -> None:
        self.tokens, self.at, self.depth = tokens, 0, 0

    @property
    def here(self) -> str | None:
        return self.tokens[self.at][1] if self.at < len(self.tokens) else None

    @property
    def kind(self) -> str:
        return self.tokens[self.at][0] if self.at < len(self.tokens) else "end"

    def take(self, *texts: str) -> str | None:
        """The next token if it is a sign among these, which is then passed."""
        if self.kind != "sign" or self.here not in texts:
            return None
        self.at += 1
        return self.tokens[self.at - 1][1]

    def expect(self, text: str) -> None:
        if not self.take(text):
            raise NotMathsError(f"no {text}")

    def sum(self) -> sympy.Expr:
        self.depth += 1
        if self.depth > DEEPEST:
            raise NotMathsError("too deep")
        total = self.product()
        while sign := self.take("+", "-"):
            term = self.product()
            total = total + term if sign == "+" else total - term
        self.depth -= 1
        return total

    def product(self) -> sympy.Expr:
        total = self.signed()
        while True:
            if self.take("*"):
                total = total * self.signed()
            elif self.take("/"):
                total = total / self.signed()
            elif self.kind in ("letter", "word") or self.here in ("(", "{") or self.apart():
                total = total * self.power()
            else:
                return total

    def apart(self) -> bool:
        """Whether a number comes next, and not right after another: ``10 000`` is not a product."""
        return self.kind == "number" and self.tokens[self.at - 1][0] != "number"

    def signed(self) -> sympy.Expr:
        negative = False
        while sign := self.take("+", "-"):
            negative ^= sign == "-"
        return -self.power() if negative else self.power()

    def power(self) -> sympy.Expr:
        base = self.atom()
        while self.take("!"):
            base = factorial(base)
        if not self.take("^"):
            return base
        self.depth += 1  # towers of powers nest too
        if self.depth > DEEPEST:
            raise NotMathsError("too deep")
        exponent = self.signed()
        self.depth -= 1
        return raised(base, exponent)

    def atom(self) -> sympy.Expr:
        kind, text = self.kind, self.here
        for opening, closing in (("(", ")"), ("{", "}"), ("|", "|")):
            if self.take(opening):
                inner = self.sum()
                self.expect(closing)
                return abs(inner) if opening == "|" else inner
        if text is None or kind not in ("number", "letter", "word"):
            raise NotMathsError(f"unexpected {text}")
        self.at += 1
        if kind == "number":
            return sympy.Rational(text.rstrip(".")) + (self.atom() if self.mixed() else 0)
        return self.named(text)

    def mixed(self) -> bool:
        """Whether the number just passed is the whole part of what follows: ``1\\frac{1}{2}`` is one and a half."""
        after = "".join("n" if kind == "number" else text for kind, text in self.tokens[self.at : self.at + 7])
        above = self.at > 1 and self.tokens[self.at - 2][1] in ("^", "_")
        return after == "frac{n}{n}" and not above and "." not in self.tokens[self.at - 1][1]

    def named(self, text: str) -> sympy.Expr:
        if text == "frac":
            above = self.atom()
            return above / self.atom()
        if text == "sqrt":
            degree = sympy.Integer(2)
            if self.take("["):
                degree = self.sum()
                self.expect("]")
            return raised(self.atom(), 1 / degree)
        if text == "log":
            base = self.atom() if self.take("_") else sympy.Integer(10)
            return sympy.log(self.argument()) / sympy.log(base)
        if text in FUNCTIONS:
            exponent = self.atom() if self.take("^") else sympy.Integer(1)  # \sin^2 x
            return raised(FUNCTIONS[text](self.argument()), exponent)
        if text in CONSTANTS:
            return CONSTANTS[text]
        index = ""
        if self.take("_"):
            index = f"_{self.atom()}"
        return sympy.Symbol(text + index, positive=True)

    def argument(self) -> sympy.Expr:
        """What a function is of: a bracket or a power, and ``2x`` as in ``\\sin 2x``."""
        total = self.power()
        if self.tokens[self.at - 1][0] == "number" and self.kind == "letter":
            total = total * self.power()
        return total
