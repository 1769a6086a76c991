"""Questions: what an answer earns, that a step's follow from seed and step, and that every answer is the scene's."""

from __future__ import annotations

import json
import pickle
from collections import Counter
from collections.abc import Callable, Sequence, Set
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from PIL import Image

from locus.errors import LocusError
from locus.scenes.questions import KINDS, SceneQuestion, grounding, kinds_of, relation
from locus.scenes.render import render
from locus.scenes.source import SceneSource
from locus.tasks.answers import THINK_ANSWER, normalised, parse_text
from locus.tasks.proxies.rotation import Rotation
from locus.tasks.questions import FileQuestions, GeneratedQuestions, ImageQuestion, Questions, QuestionSource
from locus.tasks.task import Key
from locus.types import Frame, Grade, ParsedAnswer, Response, Status, View
from tests.support.choice_tasks import task_of
from tests.support.paths import CONF
from tests.support.scene_answers import derived

FORMED = "<think>t</think><answer>{}</answer>"
WORDED = tuple(ask for ask in KINDS if ask is not grounding)
VIEW = View(Frame.FILE)


def scenes(seed: int = 3, objects: tuple[int, int] = (4, 7)) -> SceneSource:
    return SceneSource(1, 64, 64, objects, (8, 12), seed=seed)


def generated(seed: int = 1) -> GeneratedQuestions:
    return GeneratedQuestions((scenes(3), scenes(4, (1, 3))), WORDED, seed)


def draw(
    source: QuestionSource, step: int, attempt: int, count: int, used: Set[str] = frozenset()
) -> list[ImageQuestion]:
    """The questions of these keys."""
    return [source.question(key) for key in source.keys(step, attempt, count, used)]


def asked(questions: Sequence[ImageQuestion]) -> list[tuple[Any, ...]]:
    """All of a question, comparable."""
    return [(q.example_id, q.image_path, q.open().tobytes(), q.text, q.answer) for q in questions]


# --- What an answer earns -------------------------------------------------------------------------------------
class Asked(QuestionSource):
    """Always the same question."""

    def question(self, key: Key) -> ImageQuestion:
        return ImageQuestion("q", "a.png", partial(Image.new, "RGB", (8, 8)), "What colour is it?", "red")


def graded(text: str, alpha: float = 0.1, finished: bool = True) -> Grade:
    """Of a whole response."""
    task = Questions(Asked(), think=False, alpha=alpha)
    return task.grade(task.example(0), Response(text, finished), View(Frame.PROCESSED))


def earned(text: str, alpha: float = 0.1) -> tuple[float, float, float]:
    """total, correct, format."""
    grade = graded(text, alpha)
    assert grade.columns == {"correct": grade.parts["accuracy"]}
    return grade.total, grade.parts["accuracy"], grade.parts["format"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (FORMED.format("red"), (1.0, 1, 1)),
        (FORMED.format(" Red. "), (1.0, 1, 1)),
        (FORMED.format("blue"), (0.1, 0, 1)),  # a well-formed error
        (FORMED.format("red or blue"), (0.1, 0, 1)),  # no credit for naming several
        ("<answer>red</answer>", (0.9, 1, 0)),  # right, but no thought
        ("<answer>blue</answer><answer>red</answer>", (0.9, 1, 0)),  # the last block counts, as for boxes
        (FORMED.format(""), (0.0, 0, 0)),
        ("red", (0.0, 0, 0)),
        ("<think>red</think>", (0.0, 0, 0)),
        ("", (0.0, 0, 0)),
    ],
)
def test_rewards_by_hand(text, expected):
    """alpha on the wrong part; credit for a word outside the answer block, or for a list of guesses."""
    assert earned(text) == pytest.approx(expected, abs=1e-12)


def test_alpha_and_the_opened_template():
    """The run's alpha, not a fixed one; a thought that the template opened is no error of format."""
    assert earned("<answer>red</answer>", alpha=0.3)[0] == pytest.approx(0.7)
    assert earned("<think>\nt</think><answer>red</answer>") == pytest.approx((1, 1, 1))


@pytest.mark.parametrize("alpha", [-0.5, 1.5])
def test_a_weight_that_is_none_is_refused(alpha):
    """A right answer in the wrong form that earns more than the whole reward: the pre-flight's gold answer earns 1."""
    for make in (lambda: Questions(Asked(), think=False, alpha=alpha), lambda: task_of(Rotation, alpha=alpha)):
        with pytest.raises(LocusError, match=r"task\.alpha=.*from 0 on, up to 1"):
            make()


def test_texts_are_compared_normalised():
    """Case, spaces, quotes and a full stop are no error; another word, number or sign is."""
    same = ["Two  cats", "two cats.", '"Two cats"', "two\ncats!", "**Two cats**", "ＴＷＯ cats"]
    assert {normalised(text) for text in same} == {"two cats"}
    assert len({normalised(text) for text in ("5", "-5", ".5", "5.5", "five", "5 %", "")}) == 7


def test_a_text_answer_or_why_there_is_none():
    """A cut completion counted as an error of format; the tags of two parsers drifting apart."""
    assert parse_text(FORMED.format(" a [1, 2] ")) == ParsedAnswer(Status.OK, None, True, "a [1, 2]")
    assert parse_text("<think>I see", finished=False) == ParsedAnswer(Status.TRUNCATED, None, False)
    assert parse_text("<think>I see") == ParsedAnswer(Status.NO_ANSWER_TAG, None, False)
    assert parse_text("<answer></answer>") == ParsedAnswer(Status.OK, None, False, "")


def test_a_cut_answer_is_told_apart():
    """A completion that the limit cut, counted as an error of format."""
    assert graded("<think>I see", finished=False).status is Status.TRUNCATED
    assert graded("<think>I see").status is Status.NO_ANSWER_TAG
    assert graded(FORMED.format("red"), finished=False).status is Status.OK  # complete before the limit


def test_what_is_asked():
    """The instruction missing, or there unasked; another image than the question's; a row that lacks the answer."""
    for think in (False, True):
        task = Questions(Asked(), think, alpha=0.1)
        query, shown = task.prompt(task.example(0), Frame.UNIT1000), task.row(task.example(0))
        assert query.text == "What colour is it?" + ("\n" + THINK_ANSWER) * think and len(query.images) == 1
        assert shown == {"image_path": "a.png", "question": "What colour is it?", "expected": "red"}


# --- A task by itself -----------------------------------------------------------------------------------------
def test_questions_are_validated_on_other_scenes():
    """Validation on questions of training, on others in each run, or on none; a headline that is never logged."""
    task = Questions(
        generated(), False, 0.1, validation=GeneratedQuestions((scenes(5),), WORDED, 1), validation_questions=6
    )
    held_out = task.examples("validation")
    assert asked(held_out) == asked(draw(GeneratedQuestions((scenes(5),), WORDED, 1), 0, 0, 6))
    trained = {task.example(key).image_path for keys in islice(task.batches(8, 1), 4) for key in keys}
    assert len(trained) == 32 and not trained & {one.image_path for one in held_out}
    assert not Questions(generated(), False, 0.1).examples("validation") and not task.examples("train")
    grades = [task.grade(one, Response(task.gold(one, View(Frame.FILE))), View(Frame.FILE)) for one in held_out]
    assert task.summary(grades)[task.headline] == 1


def test_what_is_trained_on_is_not_held_out(tmp_path):
    """Validation on the very questions of step 0: those of one seed and one family of scenes, or of one file."""
    with pytest.raises(LocusError, match=r"task\.validation asks what is trained on"):
        Questions(generated(), False, 0.1, GeneratedQuestions((scenes(4, (1, 3)),), WORDED, 1), 6)
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    file = tmp_path / "q.jsonl"
    file.write_text(json.dumps({"image": "a.png", "question": "What?", "answer": "red"}))
    with pytest.raises(LocusError, match=r"q\.jsonl"):
        Questions(FileQuestions(str(file), "", 0), False, 0.1, FileQuestions(str(file), "", 1), 1)


def test_the_shipped_task_shares_no_scene():
    """A family of training, validation, pretraining or evaluation that two of them draw from."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("train", ["task=questions", "task.validation_questions=2"])
    task = instantiate(config.task, _convert_="all")
    (trained,), (held_out,) = (one.values() for one in (task.source.scenes, config.task.validation.scenes))
    assert (trained.seed, held_out.seed) == (3000003, 3000004) and trained.objects == (12, 16)
    assert len(task.examples("validation")) == 2 and list(config.task.validation.kinds) == list(task.source.kinds)


# --- Generated scenes -----------------------------------------------------------------------------------------
def test_generated_questions_are_a_function_of_seed_step_and_attempt():
    """A resumed run that asks other questions; a run that asks the same ones at every step, or under every seed."""
    drawn = asked(draw(generated(), 5, 0, 8))
    fresh = generated()
    draw(fresh, 4, 0, 3)
    assert asked(draw(fresh, 5, 0, 8)) == drawn
    others = (draw(generated(), 6, 0, 8), draw(generated(), 5, 1, 8), draw(generated(seed=2), 5, 0, 8))
    assert all(not {row[1] for row in drawn} & {row[1] for row in asked(other)} for other in others)
    assert len({row[0] for row in drawn}) == len({row[1] for row in drawn}) == 8


def test_every_answer_follows_from_the_picture_shown():
    """A question put to the picture of another scene. The answer is read once more from the scene that the path names,
    by the reading of tests.support.scene_answers."""
    families = {source.family: source for source in generated().scenes}
    kinds, used = Counter(), Counter()
    for question in draw(generated(), 0, 0, 200):
        family, _, index = question.image_path.removeprefix("scene://").partition("/")
        scene = families[family].scene(int(index))
        assert question.open().tobytes() == render(scene).tobytes()
        assert derived(scene, SceneQuestion("", question.text, "", (), ())) == question.answer != ""
        kinds[question.text.split()[0] + question.text.split()[1]] += 1
        used[family] += 1
    assert len(kinds) == 6 and min(kinds.values()) > 5  # What colour/shape/pattern, Is the, Is there, How many
    assert min(used.values()) > 60


def test_kinds_that_cannot_be_asked():
    """A loop for ever over scenes of one object for a relation; a question whose answer is a box and never right."""
    with pytest.raises(LocusError, match=r"relation; leave it out"):
        draw(GeneratedQuestions((scenes(objects=(1, 1)),), (relation,), 0), 0, 0, 1)
    with pytest.raises(LocusError, match=r"questions: source\.kinds: grounding"):
        GeneratedQuestions((scenes(),), KINDS, 0)
    with pytest.raises(LocusError, match="at least one"):
        GeneratedQuestions((), WORDED, 0)


# --- Without a look -------------------------------------------------------------------------------------------
def test_chance_by_hand_and_blind_answers():
    """Chance of all kinds as one, a kind of its own for each text, a foil that is the answer in other letters."""
    task, picture = Questions(generated(), think=False, alpha=0.1), Image.new("RGB", (8, 8))
    answers = ("yes", "no", "yes", "Yes."), ("1", "2")
    asked_of = [
        ImageQuestion(f"{kind}-{n}", "a.png", lambda: picture, f"{kind} {n}?", answer, choices)
        for kind, choices in enumerate((("no", "yes"), ("0", "1", "2")))
        for n, answer in enumerate(answers[kind])
    ]
    assert task.chance(asked_of) == pytest.approx((3 + 1) / 6)
    assert [task.foil(one, VIEW) for one in asked_of] == [
        FORMED.replace(">t<", "><").format(word) for word in ("no", "yes", "no", "no", "2", "0")
    ]
    assert task.chance([replace(asked_of[0], choices=())]) is None
    unknown = replace(asked_of[0], choices=())
    assert task.foil(unknown, VIEW) is None and task.blind(unknown, VIEW, np.random.default_rng(0)) is None
    assert Questions(generated(), think=False, alpha=1.0).foil(asked_of[0], VIEW) is None


def test_blind_answers_of_scenes_stay_at_chance():
    """Choices that are not those of the kind; a chance that guesses beat; yes or no far from one half."""
    task, rng = Questions(generated(), think=False, alpha=0.1), np.random.default_rng(2)
    drawn = draw(generated(), 0, 0, 150)
    assert all(one.answer in one.choices for one in drawn)
    right = [
        task.grade(one, Response(task.blind(one, VIEW, rng)), VIEW).parts["accuracy"] for one in drawn for _ in range(8)
    ]
    assert 0.2 < np.mean(right) <= task.chance(drawn) < 0.65
    yes_or_no = [one for one in drawn if set(one.choices) == {"yes", "no"}]
    assert len(yes_or_no) > 30 and 0.5 <= task.chance(yes_or_no) < 0.7
    for one in drawn[:20]:
        assert task.grade(one, Response(task.gold(one, VIEW)), VIEW).total == pytest.approx(1)
        assert task.grade(one, Response(task.foil(one, VIEW)), VIEW).total == pytest.approx(0.1)


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
        drawn = [q for step in range(start, start + 3) for q in draw(FileQuestions(file, "", 7), step, 0, 3)]
        assert len({q.example_id for q in drawn}) == 9
        for question in drawn:
            assert (
                question.text == f"Which grey, {question.answer}?" and question.image_path == f"{question.answer}.png"
            )
            assert np.unique(question.open()).tolist() == [int(question.answer)]
    orders = {tuple(q.answer for q in draw(FileQuestions(file, "", seed), 0, 0, 10)) for seed in range(3)}
    assert len(orders) == 3


def test_what_a_file_tells_without_a_look(write):
    """Frequencies of other questions' answers; a chance of 1 where each question is asked once."""
    alike = [row(n, question="Is it dark?", answer=answer) for n, answer in enumerate(("yes", "no", "yes"))]
    source = FileQuestions(write(*alike, row(4)), "", 7)
    drawn = sorted(draw(source, 0, 0, 4), key=lambda one: one.example_id)
    task = Questions(source, think=False, alpha=0.1)
    assert [one.choices for one in drawn] == [("no", "yes")] * 3 + [()]
    assert task.chance(drawn[:3]) == pytest.approx(2 / 3) and task.chance(drawn) is None
    assert task.foil(drawn[1], VIEW) == "<think></think><answer>yes</answer>"


def test_refills_bring_other_questions(write):
    """A question drawn twice in a step brings the same rollouts, counted twice."""
    source = FileQuestions(write(*map(row, range(10))), "", 7)
    used = {question.example_id for question in draw(source, 2, 0, 6)}
    fresh = draw(source, 2, 1, 6, used)
    assert len(fresh) == 4 and not used & {question.example_id for question in fresh}
    assert asked(draw(source, 2, 1, 6, used)) == asked(fresh)


def test_numbers_and_another_folder(write, tmp_path):
    """An answer 3 that is refused for not being a text; paths that do not start from ``images``."""
    file = write(row(3, answer=3), row(4, answer=0.5))
    (tmp_path / "elsewhere").mkdir()
    moved = file.rename(tmp_path / "elsewhere" / "q.jsonl")
    assert {q.answer for q in draw(FileQuestions(moved, str(tmp_path), 0), 0, 0, 2)} == {"3", "0.5"}
    with pytest.raises(LocusError, match=r"q\.jsonl, line 1: no image .*check source\.images"):
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
    with pytest.raises(LocusError, match=r"none\.jsonl: cannot be read .*task\.parts\.other\.source\.path"):
        FileQuestions(tmp_path / "none.jsonl", "", 0)
    with pytest.raises(LocusError, match="has no questions"):
        FileQuestions(write("", " "), "", 0)
    with pytest.raises(LocusError, match=r"line 2: no image .*77\.png"):
        FileQuestions(write(row(1), row(77)), "", 0)
    source = FileQuestions(write(row(1), row(2)), "", 0)
    wanted = r"has 2 questions, 3 are wanted at once: .*trainer\.prompts_per_step .*validation_questions"
    with pytest.raises(LocusError, match=wanted):
        draw(source, 0, 0, 3)
    with pytest.raises(LocusError, match=wanted):
        Questions(generated(), think=False, alpha=0.1, validation=source, validation_questions=3)
    with pytest.raises(LocusError, match="line 1: no image"):
        FileQuestions(write(row(1) | {"image": "data:" + 5000 * "A"}), "", 0)
    (tmp_path / "1.png").write_bytes(b"no picture")
    with pytest.raises(LocusError, match=r"1\.png: cannot be read"):
        [question.open() for question in draw(source, 0, 0, 2)]


def test_a_question_is_small_and_whole(write):
    """Pictures that go through pipes and to every rank with their questions; a line cut where only some see an end."""
    text = "What colour\u2028is it?"
    line = json.dumps(row(1, question=text), ensure_ascii=False)
    (question,) = draw(FileQuestions(write(line), "", 0), 0, 0, 1)
    assert question.text == text and len(pickle.dumps(question)) < 2000


# --- Kinds by name --------------------------------------------------------------------------------------------
def test_kinds_by_name():
    """A kind that a configuration cannot name, or a mistyped one that is found in the middle of a run."""
    assert kinds_of([ask.__name__ for ask in KINDS]) == kinds_of(KINDS) == KINDS
    with pytest.raises(LocusError, match=r"^kinds=color: give one of colour, shape, .*grounding$"):
        GeneratedQuestions((scenes(),), ("colour", "color"), 0)
