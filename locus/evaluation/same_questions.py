"""Whether predictions answer the questions that they are scored by: their ids may be those of another benchmark."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from locus.errors import LocusError
from locus.evaluation.benchmark import Item
from locus.evaluation.prediction_tables import TABLES, questions_of
from locus.evaluation.predictions import Prediction, prompt_digest, read_manifest
from locus.tasks.answers import THINK_ANSWER

log = logging.getLogger("locus")
DIGEST = re.compile("[0-9a-f]{16}")
"""As `prompt_digest` writes it; another engine may keep the prompt itself under that name."""


def check_questions(path: Path, predictions: Mapping[str, Prediction], items: Sequence[Item], name: str) -> None:
    """Compares what a file's predictions, by item id, say that they were asked with what the items ask.

    That is a digest of the prompt, with or without the instruction to think, or the question in a table's row. Raises
    LocusError where most are of other questions, or ``manifest.json`` beside the file names another benchmark than
    ``name``; warns where some are.
    """
    made_for = _named_beside(path)
    if made_for not in (None, name):
        raise LocusError(
            f"{path}: is of {made_for} (manifest.json beside it), not of {name}: give benchmark={made_for}, or "
            "benchmark.name= where that is its name"
        )
    asked = {item.item_id: item.prompt for item in items if item.item_id in predictions}
    alike = _by_words(path, asked) if path.suffix in TABLES else _by_digest(predictions, asked)
    other = [item_id for item_id, same in alike.items() if not same]
    if not other:
        return
    count = f"{len(other)} of {len(alike)} predictions, such as id {other[0]}"
    said = f"{path}: {count}, answer other questions than {name} asks"
    if 2 * len(other) > len(alike):
        held = "the column question" if path.suffix in TABLES else "prompt"
        raise LocusError(
            f"{said}: give those of this benchmark, from this form of its file and with the same settings of it; "
            f"without {held} in the file they are scored all the same"
        )
    log.warning("%s: is it the same form of the benchmark's file?", said)


def _named_beside(path: Path) -> str | None:
    """The benchmark that an evaluation's own file is of."""
    try:
        return read_manifest(path.parent).get("name") if path.name == "predictions.jsonl" else None
    except LocusError:  # none there, or of another engine
        return None


def _by_digest(predictions: Mapping[str, Prediction], asked: Mapping[str, str]) -> dict[str, bool]:
    """By item id, of those that hold a digest, whether it is of the item's prompt."""
    alike = {}
    for item_id, prompt in asked.items():
        held = predictions[item_id].prompt
        if isinstance(held, str) and DIGEST.fullmatch(held):
            alike[item_id] = held in (prompt_digest(prompt), prompt_digest(f"{prompt}\n{THINK_ANSWER}"))
    return alike


def _by_words(path: Path, asked: Mapping[str, str]) -> dict[str, bool]:
    """By item id whether most words that few of the table's questions have are in the item's prompt.

    Kits put a question in other words and marks around it; the words that it alone has stay.
    """
    words = {item_id: _words(question) for item_id, question in questions_of(path, asked).items()}
    shared = Counter(word for held in words.values() for word in held)
    own = {item_id: {word for word in held if 2 * shared[word] < len(words)} for item_id, held in words.items()}
    return {item_id: 2 * len(held & _words(asked[item_id])) >= len(held) for item_id, held in own.items()}


def _words(text: str) -> set[str]:
    return set(re.findall(r"\w+", re.sub("<[^<>]{1,20}>", " ", text).casefold()))
