"""Where the questions of a mix come from: each step's follow from seed and step, and every answer is the scene's."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from locus.errors import LocusError
from locus.scenes.questions import KINDS, SceneQuestion, grounding, relation
from locus.scenes.render import render
from locus.scenes.source import SceneSource
from locus.tasks.questions import FileQuestions, GeneratedQuestions, ImageQuestion
from tests.support.scene_answers import derived

WORDED = tuple(ask for ask in KINDS if ask is not grounding)


def scenes(seed: int = 3, objects: tuple[int, int] = (4, 7)) -> SceneSource:
    return SceneSource(1, 64, 64, objects, (8, 12), seed=seed)


def generated(seed: int = 1) -> GeneratedQuestions:
    return GeneratedQuestions((scenes(3), scenes(4, (1, 3))), WORDED, seed)


def asked(questions: list[ImageQuestion]) -> list[tuple[Any, ...]]:
    """All of a question, comparable."""
    return [(q.question_id, q.image_path, q.image.tobytes(), q.text, q.answer) for q in questions]


# --- Generated scenes -----------------------------------------------------------------------------------------
def test_generated_questions_are_a_function_of_seed_step_and_attempt():
    """A resumed run that asks other questions; a run that asks the same ones at every step, or under every seed."""
    drawn = asked(generated().draw(5, 0, 8))
    fresh = generated()
    fresh.draw(4, 0, 3)
    assert asked(fresh.draw(5, 0, 8)) == drawn
    others = (generated().draw(6, 0, 8), generated().draw(5, 1, 8), generated(seed=2).draw(5, 0, 8))
    assert all(not {row[1] for row in drawn} & {row[1] for row in asked(other)} for other in others)
    assert len({row[0] for row in drawn}) == len({row[1] for row in drawn}) == 8


def test_every_answer_follows_from_the_picture_shown():
    """A question put to the picture of another scene. The answer is read once more from the scene that the path names,
    by the reading of tests.support.scene_answers."""
    families = {source.family: source for source in generated().scenes}
    kinds, used = Counter(), Counter()
    for question in generated().draw(0, 0, 200):
        family, _, index = question.image_path.removeprefix("scene://").partition("/")
        scene = families[family].scene(int(index))
        assert question.image.tobytes() == render(scene).tobytes()
        assert derived(scene, SceneQuestion("", question.text, "", (), ())) == question.answer != ""
        kinds[question.text.split()[0] + question.text.split()[1]] += 1
        used[family] += 1
    assert len(kinds) == 6 and min(kinds.values()) > 5  # What colour/shape/pattern, Is the, Is there, How many
    assert min(used.values()) > 60


def test_kinds_that_cannot_be_asked():
    """A loop for ever over scenes of one object for a relation; a question whose answer is a box and never right."""
    with pytest.raises(LocusError, match=r"relation; leave it out"):
        GeneratedQuestions((scenes(objects=(1, 1)),), (relation,), 0).draw(0, 0, 1)
    with pytest.raises(LocusError, match=r"mix\.questions\.kinds: grounding"):
        GeneratedQuestions((scenes(),), KINDS, 0)
    with pytest.raises(LocusError, match="at least one"):
        GeneratedQuestions((), WORDED, 0)


# --- A file ---------------------------------------------------------------------------------------------------
@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """``write(lines)``: a JSONL file beside ten pictures, whose grey is their number."""
    for number in range(10):
        Image.new("RGB", (8, 8), (number,) * 3).save(tmp_path / f"{number}.png")

    def written(*lines: Any) -> Path:
        texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
        (tmp_path / "questions.jsonl").write_text("\n".join(texts))
        return tmp_path / "questions.jsonl"

    return written


def row(number: int, **changed: Any) -> dict[str, Any]:
    return {"image": f"{number}.png", "question": f"Which grey, {number}?", "answer": str(number)} | changed


def test_each_question_once_an_epoch(write):
    """Ten questions, three a step: three steps ask nine, no two alike, each with its own picture and answer."""
    file = write(*map(row, range(10)), "")
    for start in (0, 3):
        drawn = [q for step in range(start, start + 3) for q in FileQuestions(file, "", 7).draw(step, 0, 3)]
        assert len({q.question_id for q in drawn}) == 9
        for question in drawn:
            assert (
                question.text == f"Which grey, {question.answer}?" and question.image_path == f"{question.answer}.png"
            )
            assert np.unique(question.image).tolist() == [int(question.answer)]
    orders = {tuple(q.answer for q in FileQuestions(file, "", seed).draw(0, 0, 10)) for seed in range(3)}
    assert len(orders) == 3


def test_refills_bring_other_questions(write):
    """A question drawn twice in a step brings the same rollouts, counted twice."""
    source = FileQuestions(write(*map(row, range(10))), "", 7)
    used = {question.question_id for question in source.draw(2, 0, 6)}
    fresh = source.draw(2, 1, 6, used)
    assert len(fresh) == 4 and not used & {question.question_id for question in fresh}
    assert asked(source.draw(2, 1, 6, used)) == asked(fresh)


def test_numbers_and_another_folder(write, tmp_path):
    """An answer 3 that is refused for not being a text; paths that do not start from ``images``."""
    file = write(row(3, answer=3), row(4, answer=0.5))
    (tmp_path / "elsewhere").mkdir()
    moved = file.rename(tmp_path / "elsewhere" / "q.jsonl")
    assert {q.answer for q in FileQuestions(moved, str(tmp_path), 0).draw(0, 0, 2)} == {"3", "0.5"}
    with pytest.raises(LocusError, match=r"q\.jsonl, line 1: no image .*mix\.images"):
        FileQuestions(moved, "", 0)


BROKEN = {
    "not JSON": "{'image': '1.png'}",
    "no object": "[1, 2]",
    "no question": {"image": "1.png", "answer": "red"},
    "no answer": {"image": "1.png", "question": "Which?"},
    "an empty answer": row(1, answer=" "),
    "an answer of which nothing is compared": row(1, answer="..."),
    "a list": row(1, answer=["red"]),
    "yes as a truth value": row(1, answer=True),
    "no image": row(1, image=""),
}


@pytest.mark.parametrize("line", BROKEN.values(), ids=BROKEN)
def test_a_broken_line_is_named(write, line):
    """A line that is left out unseen, or that stops the run hours later."""
    with pytest.raises(LocusError, match=r"questions\.jsonl, line 3: no question; write \{"):
        FileQuestions(write(row(1), "", line), "", 0)


def test_files_that_cannot_be_used(write, tmp_path):
    """No file, an empty one, a missing or broken picture, too few questions: one message that names it each."""
    with pytest.raises(LocusError, match=r"none\.jsonl: cannot be read .*mix\.path"):
        FileQuestions(tmp_path / "none.jsonl", "", 0)
    with pytest.raises(LocusError, match="has no questions"):
        FileQuestions(write("", " "), "", 0)
    with pytest.raises(LocusError, match=r"line 2: no image .*77\.png"):
        FileQuestions(write(row(1), row(77)), "", 0)
    source = FileQuestions(write(row(1), row(2)), "", 0)
    with pytest.raises(LocusError, match=r"has 2 questions, a step wants 3: lower mix\.share"):
        source.draw(0, 0, 3)
    (tmp_path / "1.png").write_bytes(b"no picture")
    with pytest.raises(LocusError, match=r"1\.png: cannot be read"):
        source.draw(0, 0, 2)
