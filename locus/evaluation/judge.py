"""A language model as judge of free answers, through an OpenAI-compatible chat endpoint; off by default."""

from __future__ import annotations

import re
from typing import Protocol

from locus.files.chat_endpoint import ChatEndpoint

INSTRUCTION = (
    "You compare an answer to a question with the correct one. The answer may be long; only what it concludes with "
    "counts. Reply with one word: True if it means the same as the correct answer, False if it does not, or if it does "
    "not come to an answer."
)


class Judge(Protocol):
    """Decides whether a response gives the gold answer."""

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
    ) -> None:
        """Args: as of `ChatEndpoint`."""
        self.endpoint = ChatEndpoint("judge", url, model, cache, key_variable, tries=tries, timeout=timeout, wait=wait)

    def equal(self, question: str, gold: str, response: str) -> bool:
        """As in `Judge`; a reply that is neither True nor False counts as False, and stands in the cache to be seen.

        Raises LocusError when the endpoint refuses, or does not answer after all tries.
        """
        if not response.strip():
            return False
        text = f"Question: {question}\nCorrect answer: {gold}\nAnswer to compare: {response}"
        messages = [{"role": "system", "content": INSTRUCTION}, {"role": "user", "content": text}]
        reply = self.endpoint.ask(messages, {"gold": gold, "response": response})
        words = re.findall(r"\b(true|false)\b", reply.lower())
        return bool(words) and words[-1] == "true"
