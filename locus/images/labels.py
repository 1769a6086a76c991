"""Which text can stand for an object in a prompt."""

from __future__ import annotations

MOST_WORDS = 24
"""The paper's expressions have under 25."""


def expression_fault(expression: object) -> str:
    """What is wrong with an expression, to end a sentence with; empty if nothing is."""
    if not isinstance(expression, str) or not expression.strip():
        return "is empty"
    if len(expression.splitlines()) > 1:
        return "has more than one line"
    if set(expression) & set("<>"):
        return "holds < or >, which begin and end tags; use words"
    words = len(expression.split())
    return f"has {words} words; {MOST_WORDS} is the most" if words > MOST_WORDS else ""
