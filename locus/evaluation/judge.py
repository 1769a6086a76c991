"""A language model as judge of free answers and of what no rule reads, through a chat endpoint; off by default."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Protocol

from locus.errors import whole
from locus.evaluation.reading import patterns
from locus.files.chat_endpoint import ChatEndpoint

INSTRUCTION = (
    "You compare an answer to a question with the correct one. The answer may be long; only what it concludes with "
    "counts. Reply with one word: True if it means the same as the correct answer, False if it does not, or if it does "
    "not come to an answer."
)

CHOICE = (
    "You match an answer to a question with one of the question's options. The answer may be long; only what it "
    "concludes with counts. Reply with the letter of the option that it means, or with Z if it means none of them, or "
    "more than one, or comes to no conclusion."
)

LETTER = re.compile(r"[\s*(\"']*([A-Z])\b(?![-'’]\w)")
"""At the start of a reply."""


class Judge(Protocol):
    """Decides whether a response gives the gold answer, or which option it chooses."""

    model: str
    """As its server calls it."""
    requests: int
    """How many may be under way at a time."""

    def choose(self, question: str, options: Mapping[str, str], response: str) -> str | None:
        """The letter of the option that ``response`` concludes with; None if that is none, or more than one."""

    def equal(self, question: str, gold: str, response: str) -> bool:
        """Whether ``response`` concludes with an answer that means the same as ``gold``."""


class ChatJudge:
    """Asks a chat endpoint at temperature 0; each reply is kept, so that a second scoring asks nothing.

    Example: ``ChatJudge("http://localhost:8000/v1", "my-model", "outputs/judge.jsonl")``.
    """

    def __init__(
        self,
        url: str,
        model: str,
        cache: str,
        key_variable: str = "",
        tries: int = 5,
        timeout: float = 60,
        wait: float = 1,
        requests: int = 16,
    ) -> None:
        """Args: as of `ChatEndpoint`; ``requests`` are sent at a time. Raises LocusError for a number that is none."""
        whole("judge.requests", requests)
        self.model, self.requests = model, requests
        self.endpoint = ChatEndpoint("judge", url, model, cache, key_variable, tries=tries, timeout=timeout, wait=wait)

    def equal(self, question: str, gold: str, response: str) -> bool:
        """As in `Judge`; a reply that is neither True nor False counts as False, and stands in the cache to be seen.

        Raises LocusError when the endpoint refuses, or does not answer after all tries.
        """
        if not response.strip():
            return False
        text = f"Question: {question}\nCorrect answer: {gold}\nAnswer to compare: {response}"
        reply = self._ask(INSTRUCTION, text, {"gold": gold, "response": response})
        words = re.findall(r"\b(true|false)\b", reply.lower())
        return bool(words) and words[-1] == "true"

    def choose(self, question: str, options: Mapping[str, str], response: str) -> str | None:
        """As in `Judge`; the right answer is not shown. Raises LocusError as `equal` does."""
        if not response.strip():
            return None
        listed = "\n".join(f"{letter}. {text}" for letter, text in options.items())
        text = f"Question: {question}\nOptions:\n{listed}\nAnswer to match: {response}"
        reply = self._ask(CHOICE, text, {"response": response})
        letter = LETTER.match(reply)
        is_article = letter and patterns.ARTICLE.match(reply, letter.start(1))
        return letter[1] if letter and letter[1] in options and not is_article else None

    def _ask(self, instruction: str, text: str, note: dict[str, str]) -> str:
        """The reply, less what the judge thought before it."""
        messages = [{"role": "system", "content": instruction}, {"role": "user", "content": text}]
        return self.endpoint.ask(messages, note).rpartition("</think>")[2]
