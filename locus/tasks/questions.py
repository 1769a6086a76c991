"""Ordinary questions about images, with answers that a text can be compared with: of generated scenes, or of a file.

What a source draws is a function of its arguments and the call's, so a resumed run asks what the unbroken one asks.
"""

from __future__ import annotations

import itertools
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from locus.errors import LocusError, number
from locus.images.sources import ImageFiles
from locus.scenes.questions import Ask, grounding, kinds_of
from locus.scenes.render import render
from locus.scenes.source import SCHEME, SceneSource, in_order
from locus.tasks.answers import THINK_ANSWER, completion_text, normalised, parse_text
from locus.tasks.task import Key, Split, Task
from locus.types import Frame, Grade, Query, Response, Sample, View

TRIES = 1000
"""Scenes that are drawn for a question of one kind before it counts as one that they never have."""


@dataclass(frozen=True, slots=True, eq=False)
class ImageQuestion:
    """A question about a picture. Example: ``ImageQuestion("question-12", "a.jpg", partial(Image.open, "a.jpg"), "What
    colour is the car?", "red")``.
    """

    example_id: str
    image_path: str
    open: Callable[[], Image.Image]
    """Gives the picture: it is not part of the example, which stays small."""
    text: str
    answer: str
    choices: tuple[str, ...] = ()
    """The answers that its kind of question has; empty where unknown."""
    subject: str = ""
    """What is asked about, in words; empty where unknown."""


class QuestionSource(Protocol):
    """Where questions come from."""

    def keys(self, step: int, attempt: int, count: int, used: Set[str] = frozenset()) -> list[Key]:
        """Keys of ``count`` different questions for a step: its own (attempt 0), or those of its refills (from 1 on),
        which have no id of ``used``; fewer when a refill finds no more."""

    def question(self, key: Key) -> ImageQuestion:
        """The question of a key."""


@dataclass(frozen=True)
class GeneratedQuestions:
    """Questions about generated scenes, each on a scene of its own; scene and kind are drawn evenly, answers are not:
    a scene that has none of the kind gives way to another, so counts are as common as they are in the scenes."""

    scenes: Sequence[SceneSource] | Mapping[str, SceneSource]
    kinds: Sequence[str | Ask]
    seed: int

    def __post_init__(self) -> None:
        if not self.scenes or not self.kinds:
            raise LocusError("questions: give at least one of source.scenes and one of source.kinds")
        if grounding in kinds_of(self.kinds):
            raise LocusError("questions: source.kinds: grounding is answered by a box, not by a text; leave it out")

    @property
    def origins(self) -> frozenset[str]:
        """The families of scenes."""
        return frozenset(source.family for source in in_order(self.scenes))

    def keys(self, step: int, attempt: int, count: int, used: Set[str] = frozenset()) -> list[Key]:
        """As the protocol says; no two of a run are of one id, so ``used`` excludes none."""
        return [(step, attempt, place) for place in range(count)]

    def question(self, key: Key) -> ImageQuestion:
        """Drawn by (step, attempt, place)."""
        step, attempt, place = key
        rng = np.random.default_rng([self.seed, step, attempt, place])
        scenes = in_order(self.scenes)
        source = scenes[int(rng.integers(len(scenes)))]
        ask = kinds_of(self.kinds)[int(rng.integers(len(self.kinds)))]
        for _ in range(TRIES):
            index = int(rng.integers(2**40))
            scene = source.scene(index)
            if (drawn := ask(scene, rng)) is not None:
                path, name = f"{SCHEME}{source.family}/{index}", f"question-{step}-{attempt}-{place}"
                shown = partial(render, scene)
                return ImageQuestion(name, path, shown, drawn.text, drawn.answer, drawn.choices, drawn.subject)
        raise LocusError(
            f"questions: {TRIES} scenes have no question of the kind {ask.__name__}; leave it out of source.kinds"
        )


class FileQuestions:
    """Questions of a JSONL file, each once an epoch: ``{"image": "a.jpg", "question": "…", "answer": "red"}``.

    Image paths are relative to ``images`` or, without that, to the file's folder.
    """

    def __init__(self, path: str, images: str, seed: int) -> None:
        self.path, self.seed = Path(path), seed
        self.files = ImageFiles(images or self.path.parent)
        self.rows = self._read()
        self.choices = _choices((text, answer) for _, _, text, answer in self.rows)

    @property
    def origins(self) -> frozenset[str]:
        """The file."""
        return frozenset([str(self.path.resolve())])

    def keys(self, step: int, attempt: int, count: int, used: Set[str] = frozenset()) -> list[Key]:
        """As the protocol says; raises LocusError when more are wanted than there are."""
        if attempt:
            order = np.random.default_rng([self.seed, step, attempt]).permutation(len(self.rows)).tolist()
            return list(islice((place for place in order if self.rows[place][0] not in used), count))
        if len(self.rows) < count:
            raise LocusError(
                f"{self.path}: has {len(self.rows)} questions, {count} are wanted at once: add some, or lower "
                "trainer.prompts_per_step (without task.curriculum also its share in task.shares; for held-out ones "
                "validation_questions)"
            )
        epoch, part = divmod(step, len(self.rows) // count)  # what fills no step at an epoch's end is left out
        order = np.random.default_rng([self.seed, epoch]).permutation(len(self.rows)).tolist()
        return order[part * count : (part + 1) * count]

    def question(self, key: Key) -> ImageQuestion:
        """Of a row."""
        name, image, text, answer = self.rows[key]
        return ImageQuestion(name, image, partial(self.files.open, image), text, answer, self.choices.get(text, ()))

    def _read(self) -> list[tuple[str, str, str, str]]:
        """(id, image, question, answer) of each line. Raises LocusError naming the line that is not as above, or whose
        image is missing."""
        try:
            lines = self.path.read_text(encoding="utf-8").split("\n")  # other line ends may stand in a question
        except (OSError, UnicodeDecodeError) as error:
            raise LocusError(
                f"{self.path}: cannot be read ({error}); give the questions' source.path, in a mixture "
                "task.parts.other.source.path=<JSONL>"
            ) from None
        rows = [self._row(number, line) for number, line in enumerate(lines, 1) if line.strip()]
        if not rows:
            raise LocusError(f"{self.path}: has no questions; write one JSON object a line")
        missing = next((row for row in rows if not _is_file(self.files.folder / row[1])), None)
        if missing:
            raise LocusError(
                f"{self.path}, {missing[0].replace('-', ' ')}: no image {str(self.files.folder / missing[1])[:200]}; "
                "check source.images, the folder that paths start from"
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


def _choices(rows: Iterable[tuple[str, str]]) -> dict[str, tuple[str, ...]]:
    """Of each question that is asked more than once its answers, of (question, answer)."""
    answers: dict[str, list[str]] = defaultdict(list)
    for text, answer in rows:
        answers[text].append(answer)
    return {text: tuple(sorted(set(own))) for text, own in answers.items() if len(own) > 1}


def another(choices: Sequence[str], answer: str) -> str | None:
    """The choice behind the answer that is another one; None where there is none."""
    right = normalised(answer)
    place = next((place for place, choice in enumerate(choices) if normalised(choice) == right), 0)
    behind = [*choices[place:], *choices[:place]]
    return next((choice for choice in behind if normalised(choice) != right), None)


def any_of(choices: Sequence[str], rng: np.random.Generator) -> str | None:
    """A response with any of the choices; None where there are none."""
    return completion_text(choices[int(rng.integers(len(choices)))]) if choices else None


def best_constants(answers: Iterable[tuple[Hashable, str]]) -> float:
    """Accuracy of the best policy that gives the same answer to all questions of a kind, of (kind, right answer).

    It is the best for these very questions: few of a kind overstate it.
    """
    kinds: dict[Hashable, Counter[str]] = defaultdict(Counter)
    for kind, answer in answers:
        kinds[kind][normalised(answer)] += 1
    return sum(max(own.values()) for own in kinds.values()) / sum(own.total() for own in kinds.values())


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # too long for a name: a picture's bytes in text
        return False


class Questions(Task[ImageQuestion]):
    """Ordinary questions: the right answer earns 1 - alpha, the format alpha. They serve training, alone or mixed in.

    Args:
        source: draws them.
        think: the prompt asks for ``<think> … </think><answer> … </answer>``, the format that the reward wants.
        alpha: weight of the format.
        validation: draws those of validation, of other images (LocusError for the same scenes or the same file); None
            where another task of a mixture is validated.
        validation_questions: how many.
        sft_thoughts: what supervised training learns thinks of what is asked about before the answer, as the bundled
            backbone does.
    """

    name = "questions"
    headline = "accuracy"

    def __init__(
        self,
        source: QuestionSource,
        think: bool,
        alpha: float,
        validation: QuestionSource | None = None,
        validation_questions: int = 0,
        sft_thoughts: bool = False,
    ) -> None:
        number("task.alpha", alpha, 0, 1)
        trained, held_out = (getattr(one, "origins", frozenset[str]()) for one in (source, validation))
        if shared := trained & held_out:
            raise LocusError(f"task.validation asks what is trained on ({', '.join(sorted(shared))}): give it others")
        self.source, self.think, self.alpha, self.sft_thoughts = source, think, alpha, sft_thoughts
        keys = validation.keys(0, 0, validation_questions) if validation else []
        self._held_out = tuple(validation.question(key) for key in keys) if validation else ()

    def examples(self, split: Split) -> Sequence[ImageQuestion]:
        """Validation's; those of training could not be listed: they are drawn step by step."""
        return self._held_out if split == "validation" else ()

    def prompt(self, example: ImageQuestion, frame: Frame) -> Query:
        """The image and the question."""
        return Query(f"{example.text}\n{THINK_ANSWER}" if self.think else example.text, (example.open(),))

    def grade(self, example: ImageQuestion, response: Response, view: View) -> Grade:
        """(1 - α)·correct + α·format; correct is an exact match once both texts are normalised."""
        said = parse_text(response.text, finished=response.finished)
        correct = float(said.text is not None and normalised(said.text) == normalised(example.answer))
        total = (1 - self.alpha) * correct + self.alpha * said.well_formed
        parts = {"accuracy": correct, "format": float(said.well_formed)}
        return Grade(total, parts, said.status, {"correct": correct})

    def gold(self, example: ImageQuestion, view: View) -> str:
        """The answer."""
        return completion_text(example.answer)

    def foil(self, example: ImageQuestion, view: View) -> str | None:
        """Another answer of the same kind; None where none is known, or the form alone earns."""
        other = another(example.choices, example.answer)
        return completion_text(other) if other and self.alpha < 1 else None

    def chance(self, examples: Sequence[ImageQuestion]) -> float | None:
        """As `best_constants`, questions of the same choices being of one kind; None where one's are unknown."""
        if not all(example.choices for example in examples):
            return None
        return best_constants((example.choices, example.answer) for example in examples)

    def blind(self, example: ImageQuestion, view: View, rng: np.random.Generator) -> str | None:
        """Any answer of the same kind; None where they are unknown."""
        return any_of(example.choices, rng)

    def target(self, samples: Sequence[Sample]) -> Iterator[str]:
        """The answer, behind what is thought of."""
        for sample in samples:
            yield completion_text(sample.example.answer, sample.example.subject if self.sft_thoughts else "")

    def check(self, count: int, steps: int) -> None:
        """Raises LocusError for a first step that cannot be had."""
        self.source.keys(0, 0, count)

    def batches(self, count: int, seed: int) -> Iterator[list[Key]]:
        """As the source draws them, by its own seed."""
        return (self.source.keys(step, 0, count) for step in itertools.count())

    def fresh(self, step: int, attempt: int, count: int, seed: int, used: Set[str] = frozenset()) -> list[Key]:
        """As the source draws them."""
        return self.source.keys(step, 1 + attempt, count, used)

    def example(self, key: Key) -> ImageQuestion:
        """As the source draws it."""
        return self.source.question(key)

    def row(self, example: ImageQuestion) -> Mapping[str, Any]:
        """Image, question and right answer."""
        return {"image_path": example.image_path, "question": example.text, "expected": example.answer}
