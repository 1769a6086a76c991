"""Questions about generated scenes, with exact answers and evidence boxes.

Every answer follows from the scene's objects, none from the question: by symmetry of the generator each answer of a
kind is as likely as the others, given the question's words, so that a model that sees no picture stays at chance. Two
kinds are not so kind: counts are as common as they are in the scenes, and `existence_popular` knows only yes of a lone
object. `draw_questions`, which benchmarks and diagnoses use, takes each answer equally often; training does not.

An object is named by its words. A phrase of two words ("the striped star") is used only where one object fits it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import count as count_from

import numpy as np

from locus.errors import LocusError, by_name
from locus.scenes.scene import Scene
from locus.scenes.source import ATTRIBUTES, SceneSource
from locus.types import Box

SHAPE, COLOUR, PATTERN = range(3)
LARGEST_COUNT = 3
"""Counting asks for 0 to this many."""
TRIES = 64
"""Questions drawn of a scene where its wanted answer is to be found if it has one."""
SEARCHED = 10_000
"""Scenes in a row without a question that is wanted, after which there is taken to be none."""


@dataclass(frozen=True, slots=True)
class SceneQuestion:
    """A question with a short answer, or with a box. Example: ``SceneQuestion("colour", "What colour is the striped
    star?", "red", (box,), ("black", "blue", ...))``.
    """

    kind: str
    text: str
    answer: str
    """A word; empty for grounding, whose answer is the evidence box."""
    evidence: tuple[Box, ...]
    """Boxes of the objects that show the answer, file frame; empty where the answer is that nothing is there."""
    choices: tuple[str, ...]
    """The possible answers; empty for grounding."""
    subject: str = ""
    """The words for the one object that is asked about, such as ``striped star``; empty for several objects."""


# --- Kinds ----------------------------------------------------------------------------------------------------
# Each takes a scene and a generator and gives a question, or None where the scene has none of that kind.
Ask = Callable[[Scene, np.random.Generator], SceneQuestion | None]


def colour(scene: Scene, rng: np.random.Generator) -> SceneQuestion | None:
    """The colour of an object named by pattern and shape. Chance: one in ten."""
    return _attribute("colour", COLOUR, "What colour is the {subject}?", scene, rng)


def shape(scene: Scene, rng: np.random.Generator) -> SceneQuestion | None:
    """The shape of an object named by pattern and colour. Chance: one in ten."""
    return _attribute("shape", SHAPE, "What shape is the {subject} object?", scene, rng)


def pattern(scene: Scene, rng: np.random.Generator) -> SceneQuestion | None:
    """The pattern of an object named by colour and shape. Chance: one in five."""
    return _attribute("pattern", PATTERN, "What pattern is on the {subject}?", scene, rng)


def relation(scene: Scene, rng: np.random.Generator) -> SceneQuestion | None:
    """On which side of another object one lies, where the order is clear. Chance: one in two."""
    if len(scene.objects) < 2:
        return None
    one, other = (scene.objects[int(i)] for i in rng.permutation(len(scene.objects))[:2])
    sides = [("left", "right"), ("above", "below")][int(rng.integers(2))]
    holds = [getattr(scene, {"left": "left_of", "right": "right_of"}.get(side, side))(one, other) for side in sides]
    if not any(holds):
        return None
    options = sides if rng.integers(2) else sides[::-1]
    text = f"Is the {one.label} {options[0]} or {options[1]} of the {other.label}?"
    if sides[0] == "above":
        text = f"Is the {one.label} {options[0]} or {options[1]} the {other.label}?"
    return SceneQuestion("relation", text, sides[holds.index(True)], (one.box, other.box), sides)


def existence_random(scene: Scene, rng: np.random.Generator) -> SceneQuestion | None:
    """Whether an object is there; the absent ones are any words. Chance: one in two."""
    return _existence("existence_random", scene, rng, lambda: _any_words(rng))


def existence_popular(scene: Scene, rng: np.random.Generator) -> SceneQuestion | None:
    """The absent ones are made of words that are in the scene, each of them on some object; none of a lone one.
    Chance: one in two, of scenes with more."""

    def mixed() -> tuple[str, ...]:
        shown = [item.attributes for item in scene.objects]
        return tuple(shown[int(rng.integers(len(shown)))][kind] for kind in range(3))

    return _existence("existence_popular", scene, rng, mixed)


def existence_adversarial(scene: Scene, rng: np.random.Generator) -> SceneQuestion | None:
    """The absent ones differ from an object of the scene in one word. Chance: one in two."""

    def altered() -> tuple[str, ...]:
        words = list(scene.objects[int(rng.integers(len(scene.objects)))].attributes)
        kind = int(rng.integers(3))
        others = [word for word in ATTRIBUTES[kind] if word != words[kind]]
        words[kind] = others[int(rng.integers(len(others)))]
        return tuple(words)

    return _existence("existence_adversarial", scene, rng, altered)


def count(scene: Scene, rng: np.random.Generator) -> SceneQuestion | None:
    """How many objects have a pattern; None where a number and a pattern, both drawn, do not go together. Of scenes
    that are asked until there is one, an answer is as common as the number is in them."""
    wanted = int(rng.integers(LARGEST_COUNT + 1))
    word = ATTRIBUTES[PATTERN][int(rng.integers(len(ATTRIBUTES[PATTERN])))]
    found = [item for item in scene.objects if item.pattern == word]
    if len(found) != wanted:
        return None
    text = f"How many {word} objects are there?"
    choices = tuple(str(number) for number in range(LARGEST_COUNT + 1))
    return SceneQuestion("count", text, str(wanted), tuple(item.box for item in found), choices)


def grounding(scene: Scene, rng: np.random.Generator) -> SceneQuestion:
    """The box of an object named in full."""
    item = scene.objects[int(rng.integers(len(scene.objects)))]
    return SceneQuestion("grounding", f"Where is the {item.label}?", "", (item.box,), (), item.label)


KINDS: tuple[Ask, ...] = (
    colour,
    shape,
    pattern,
    relation,
    existence_random,
    existence_popular,
    existence_adversarial,
    count,
    grounding,
)


def kinds_of(kinds: Iterable[str | Ask]) -> tuple[Ask, ...]:
    """Kinds from their names, as a configuration gives them; raises LocusError naming the known ones."""
    known = {ask.__name__: ask for ask in KINDS}
    return tuple(ask if callable(ask) else by_name("kinds", ask, known) for ask in kinds)


@dataclass(frozen=True, slots=True, eq=False)
class AskedScene:
    """A scene and one question about it."""

    scene: Scene
    question: SceneQuestion
    index: int
    """The scene's, in its source."""


def draw_questions(
    source: SceneSource, ask: Ask, number: int, seed: int, first: int = 0, tries: int = 1
) -> list[AskedScene]:
    """The first ``number`` scenes that have such a question, with it; each scene once, each answer equally often.

    Args:
        source: of the scenes.
        ask: the kind of question.
        number: of questions.
        seed: of the questions.
        first: index of the scene to begin with.
        tries: questions drawn of a scene, until the answer of one is still wanted. With many, few scenes are left out.

    Raises:
        LocusError: the scenes do not have so many, as where none has three objects to count.
    """
    asked: list[AskedScene] = []
    answers: Counter[str] = Counter()

    def wanted(question: SceneQuestion) -> bool:
        most = math.ceil(number / len(question.choices)) if question.choices else number
        return answers[question.answer] < most

    for index in count_from(first):
        if len(asked) == number:
            break
        if index - (asked[-1].index if asked else first) > SEARCHED:
            raise LocusError(
                f"{ask.__name__}: {SEARCHED:,} scenes after question {len(asked)} of {number} have none whose answer "
                "is still wanted: ask fewer, leave the kind out, or draw scenes of more objects"
            )
        scene, rng = source.scene(index), np.random.default_rng([seed, index])
        drawn = (ask(scene, rng) for _ in range(tries))
        question = next((one for one in drawn if one is not None and wanted(one)), None)
        if question is not None:
            answers[question.answer] += 1
            asked.append(AskedScene(scene, question, index))
    return asked


def draw_in_turn(source: SceneSource, asks: Sequence[Ask], numbers: Sequence[int], seed: int) -> list[AskedScene]:
    """So many questions of each kind, each kind from the scene on where the one before should have ended."""
    drawn, first = [], 0
    for ask, number in zip(asks, numbers, strict=True):
        drawn += draw_questions(source, ask, number, seed, first, TRIES)
        first += number
    return drawn


# --- What kinds share -----------------------------------------------------------------------------------------
def _attribute(name: str, asked: int, text: str, scene: Scene, rng: np.random.Generator) -> SceneQuestion | None:
    """One attribute of a random object, named by the two others, if no other object has the same two."""
    item = scene.objects[int(rng.integers(len(scene.objects)))]
    told = [kind for kind in range(3) if kind != asked]
    if sum(all(other.attributes[kind] == item.attributes[kind] for kind in told) for other in scene.objects) > 1:
        return None
    subject = " ".join(item.attributes[kind] for kind in (PATTERN, COLOUR, SHAPE) if kind != asked)
    return SceneQuestion(
        name, text.format(subject=subject), item.attributes[asked], (item.box,), ATTRIBUTES[asked], subject
    )


def _any_words(rng: np.random.Generator) -> tuple[str, ...]:
    return tuple(words[int(rng.integers(len(words)))] for words in ATTRIBUTES)


def _existence(
    kind: str, scene: Scene, rng: np.random.Generator, absent: Callable[[], tuple[str, ...]]
) -> SceneQuestion | None:
    """Yes or no, first drawn, then an object that is there, or words of ``absent`` that no object has."""
    there = bool(rng.integers(2))
    shown: set[tuple[str, ...]] = {item.attributes for item in scene.objects}
    words: tuple[str, ...] | None
    evidence: tuple[Box, ...]
    if there:
        item = scene.objects[int(rng.integers(len(scene.objects)))]
        words, evidence = item.attributes, (item.box,)
    else:
        tried = [absent() for _ in range(8)]
        words, evidence = next((words for words in tried if words not in shown), None), ()
        if words is None:
            return None
    subject = f"{words[PATTERN]} {words[COLOUR]} {words[SHAPE]}"
    return SceneQuestion(kind, f"Is there a {subject}?", "yes" if there else "no", evidence, ("yes", "no"), subject)
