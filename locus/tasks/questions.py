"""Ordinary questions about images, with answers that a text can be compared with: of generated scenes, or of a file.

What a source draws is a function of its arguments and the call's, so a resumed run asks what the unbroken one asks.
"""

from __future__ import annotations

import json
from collections.abc import Sequence, Set
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from locus.errors import LocusError
from locus.images.sources import ImageFiles
from locus.scenes.questions import Ask, grounding
from locus.scenes.render import render
from locus.scenes.source import SCHEME, SceneSource
from locus.tasks.answers import normalised

TRIES = 1000
"""Scenes that are drawn for a question of one kind before it counts as one that they never have."""


@dataclass(frozen=True, slots=True)
class ImageQuestion:
    """A question with its picture. Example: ``ImageQuestion("question-12", "a.jpg", image, "What colour is the car?",
    "red")``.
    """

    question_id: str
    image_path: str
    image: Image.Image
    text: str
    answer: str


class QuestionSource(Protocol):
    """Where questions come from."""

    def draw(self, step: int, attempt: int, count: int, used: Set[str] = frozenset()) -> list[ImageQuestion]:
        """``count`` different questions for a step: its own (attempt 0), or those of its refills (from 1 on), which
        have no id of ``used``; fewer when a refill finds no more."""


@dataclass(frozen=True)
class GeneratedQuestions:
    """Questions about generated scenes, each on a scene of its own; scene and kind are drawn evenly."""

    scenes: Sequence[SceneSource]
    kinds: Sequence[Ask]
    seed: int

    def __post_init__(self) -> None:
        if not self.scenes or not self.kinds:
            raise LocusError("mix.questions: give at least one of scenes and one of kinds")
        if grounding in self.kinds:
            raise LocusError("mix.questions.kinds: grounding is answered by a box, not by a text; leave it out")

    def draw(self, step: int, attempt: int, count: int, used: Set[str] = frozenset()) -> list[ImageQuestion]:
        """As the protocol says; no two of a run are of one id, so ``used`` excludes none."""
        return [self._question(step, attempt, place) for place in range(count)]

    def _question(self, step: int, attempt: int, place: int) -> ImageQuestion:
        rng = np.random.default_rng([self.seed, step, attempt, place])
        source = self.scenes[int(rng.integers(len(self.scenes)))]
        ask = self.kinds[int(rng.integers(len(self.kinds)))]
        for _ in range(TRIES):
            index = int(rng.integers(2**40))
            scene = source.scene(index)
            if (found := ask(scene, rng)) is not None:
                path = f"{SCHEME}{source.family}/{index}"
                return ImageQuestion(
                    f"question-{step}-{attempt}-{place}", path, render(scene), found.text, found.answer
                )
        raise LocusError(f"mix.questions: {TRIES} scenes have no question of the kind {ask.__name__}; leave it out")


class FileQuestions:
    """Questions of a JSONL file, each once an epoch: ``{"image": "a.jpg", "question": "…", "answer": "red"}``.

    Image paths are relative to ``images`` or, without that, to the file's folder.
    """

    def __init__(self, path: str, images: str, seed: int) -> None:
        self.path, self.seed = Path(path), seed
        self.files = ImageFiles(images or self.path.parent)
        self.rows = self._read()

    def draw(self, step: int, attempt: int, count: int, used: Set[str] = frozenset()) -> list[ImageQuestion]:
        """As the protocol says; raises LocusError when a step wants more than there are."""
        if attempt:
            order = np.random.default_rng([self.seed, step, attempt]).permutation(len(self.rows)).tolist()
            chosen = list(islice((place for place in order if self.rows[place][0] not in used), count))
        elif len(self.rows) < count:
            raise LocusError(f"{self.path}: has {len(self.rows)} questions, a step wants {count}: lower mix.share")
        else:
            epoch, part = divmod(step, len(self.rows) // count)  # what fills no step at an epoch's end is left out
            order = np.random.default_rng([self.seed, epoch]).permutation(len(self.rows)).tolist()
            chosen = order[part * count : (part + 1) * count]
        return [
            ImageQuestion(name, image, self.files.open(image), text, answer)
            for name, image, text, answer in (self.rows[place] for place in chosen)
        ]

    def _read(self) -> list[tuple[str, str, str, str]]:
        """(id, image, question, answer) of each line. Raises LocusError naming the line that is not as above, or whose
        image is missing."""
        try:
            lines = self.path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise LocusError(f"{self.path}: cannot be read ({error}); give mix.path=<JSONL>") from None
        rows = [self._row(number, line) for number, line in enumerate(lines, 1) if line.strip()]
        if not rows:
            raise LocusError(f"{self.path}: has no questions; write one JSON object a line")
        missing = next((row for row in rows if not (self.files.folder / row[1]).is_file()), None)
        if missing:
            raise LocusError(
                f"{self.path}, {missing[0].replace('-', ' ')}: no image {self.files.folder / missing[1]}; "
                "check mix.images, the folder that paths start from"
            )
        return rows

    def _row(self, number: int, line: str) -> tuple[str, str, str, str]:
        try:
            row: dict[str, Any] = json.loads(line)
            image, text, answer = (row[name] for name in ("image", "question", "answer"))
        except (json.JSONDecodeError, KeyError, TypeError):
            image = text = answer = None
        if type(answer) in (int, float):
            answer = str(answer)
        texts = all(isinstance(value, str) and value.strip() for value in (image, text, answer))
        if not texts or not normalised(answer):
            raise LocusError(
                f'{self.path}, line {number}: no question; write {{"image": "1.jpg", "question": "...", '
                '"answer": "red"} with a short text or a number as the answer'
            )
        return f"line-{number}", image, text, answer
