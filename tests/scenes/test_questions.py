"""Questions about scenes: every answer follows from the objects, and none from the question."""

from __future__ import annotations

from collections import Counter, defaultdict

import numpy as np
import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf

from locus.errors import LocusError
from locus.policy.tiny_tokenizer import tiny_tokenizer
from locus.scenes.questions import KINDS, LARGEST_COUNT, SceneQuestion, count, draw_questions, relation
from locus.scenes.scene import Scene
from locus.scenes.source import SceneSource
from tests.support.paths import REPO
from tests.support.scene_answers import derived, named

SCENES = 2000


def source(count: int = SCENES) -> SceneSource:
    return SceneSource(count, 128, 128, (4, 7), (10, 26), stretch=1.2, clutter=0.0, seed=5)


@pytest.fixture(scope="module")
def asked() -> list[tuple[Scene, SceneQuestion]]:
    """Each kind put to every scene once."""
    found, scenes = [], source()
    for index in range(SCENES):
        scene, rng = scenes.scene(index), np.random.default_rng(index)
        found += [(scene, question) for ask in KINDS if (question := ask(scene, rng)) is not None]
    return found


def test_every_answer_follows_from_the_objects(asked):
    """A wrong key would train and score the wrong thing, and look like a hard benchmark."""
    assert {question.kind for _, question in asked} == {ask.__name__ for ask in KINDS}
    for scene, question in asked:
        assert derived(scene, question) == question.answer, question
        if question.answer:
            assert question.answer in question.choices


def test_evidence_is_what_the_question_names(asked):
    """Attention measured in the boxes of other objects."""
    for scene, question in asked:
        shown = {item.box for item in scene.objects}
        assert set(question.evidence) <= shown
        if question.kind in ("colour", "shape", "pattern", "grounding", "count"):
            assert set(question.evidence) == {item.box for item in named(scene, question.text)}


def test_no_answer_is_said_by_its_question(asked):
    """A word of the answer in the text; where it is one of the options that the text offers, all of them are."""
    for _, question in asked:
        words = set(question.text.replace("?", "").split())
        said = words & set(question.choices)
        assert not said or said == set(question.choices)


@pytest.mark.parametrize("kind", [ask.__name__ for ask in KINDS if ask.__name__ not in ("grounding", "count")])
def test_a_blind_model_stays_at_chance(asked, kind):
    """The best guess from the question's words, learned on half of the questions, tried on the other half."""
    questions = [question for _, question in asked if question.kind == kind]
    answers: dict[str, Counter[str]] = defaultdict(Counter)
    half = len(questions) // 2
    for question in questions[:half]:
        for feature in features(question):
            answers[feature][question.answer] += 1
    guessed = 0
    for question in questions[half:]:
        votes: dict[str, float] = defaultdict(float)
        for feature in features(question):
            total = sum(answers[feature].values())
            for answer, number in answers[feature].items():
                votes[answer] += np.log((number + 1) / (total + len(question.choices)))
        guessed += bool(votes) and max(votes, key=votes.get) == question.answer
    chance = 1 / len(questions[0].choices)
    # Three points, and twice the standard error of so few questions.
    assert guessed / (len(questions) - half) < chance + 0.03 + 2 * np.sqrt(chance * (1 - chance) / half)


def features(question: SceneQuestion) -> list[str]:
    return [word for word in question.text.replace("?", "").split() if len(word) > 2]


@pytest.mark.parametrize("ask", KINDS, ids=lambda ask: ask.__name__)
def test_drawn_answers_are_balanced(ask):
    """ "How many striped objects" answered by the commonest number: the prior of nature is far from even."""
    drawn = draw_questions(source(), ask, 60, seed=3)
    answers = Counter(entry.question.answer for entry in drawn)
    choices = drawn[0].question.choices
    assert len(drawn) == 60 and len({entry.scene.background_seed for entry in drawn}) == 60
    if choices:
        assert max(answers.values()) <= -(-60 // len(choices))
    assert ask.__name__ != "count" or answers == {str(number): 15 for number in range(LARGEST_COUNT + 1)}


@pytest.mark.parametrize(("task", "part", "share"), [("mixture", ".parts.other", 0.5), ("questions", "", 0.1)])
def test_the_page_says_how_common_counts_are_in_training(compose_app, task, part, share):
    """Counts taken for balanced, as benchmarks have them; another draw, on which no result so far rests."""
    key = f"task{part}.source"
    drawn = instantiate(OmegaConf.select(compose_app("train", [f"task={task}", f"{key}.kinds=[count]"]), key))
    zeros = np.mean([drawn.question((0, 0, place)).answer == "0" for place in range(400)])
    assert abs(zeros - share) < 0.075  # three standard deviations, of a half
    page = (REPO / "docs" / "training.md").read_text()
    assert "(0 is half of them in the mixture, a tenth in `task=questions`)" in " ".join(page.split())


@pytest.mark.parametrize("ask", KINDS, ids=lambda ask: ask.__name__)
def test_many_tries_leave_few_scenes_out(ask):
    """A search that finds other answers than the scene has, or that goes through ten times the scenes."""
    drawn = draw_questions(source(), ask, 60, seed=3, first=100, tries=64)
    indices = [entry.index for entry in drawn]
    assert len(set(indices)) == 60 and min(indices) == 100 and max(indices) < 100 + 150
    assert all(derived(entry.scene, entry.question) == entry.question.answer for entry in drawn)
    answers, choices = Counter(entry.question.answer for entry in drawn), drawn[0].question.choices
    assert not choices or max(answers.values()) <= -(-60 // len(choices))
    assert [source().scene(index) for index in indices] == [entry.scene for entry in drawn]


def test_questions_that_no_scene_has_are_refused(monkeypatch: pytest.MonkeyPatch):
    """A command that searches for ever, without a word: what of three is to be counted where there are two objects?"""
    monkeypatch.setattr("locus.scenes.questions.SEARCHED", 300)
    pairs = SceneSource(1, 64, 64, [2, 2], [16, 20], seed=2)
    with pytest.raises(LocusError, match=r"count: 300 scenes after question \d of 8 have none whose answer is still"):
        draw_questions(pairs, count, 8, seed=3)
    with pytest.raises(LocusError, match="question 0 of 1"):
        draw_questions(SceneSource(1, 64, 64, [1, 1], [16, 20], seed=2), relation, 1, seed=3)
    assert len(draw_questions(pairs, relation, 8, seed=3)) == 8


def test_existence_differs_as_its_name_says(asked):
    """Adversarial questions that are random ones: the benchmark's point is lost."""
    for scene, question in asked:
        if question.kind.startswith("existence") and question.answer == "no":
            words = set(question.text.removeprefix("Is there a ").removesuffix("?").split())
            shared = max(len(words & set(item.attributes)) for item in scene.objects)
            if question.kind == "existence_adversarial":
                assert shared == 2
            if question.kind == "existence_popular":
                assert words <= {word for item in scene.objects for word in item.attributes}


def test_words_are_single_tokens(asked):
    """A word that falls to bytes makes a question many times as long."""
    tokenizer = tiny_tokenizer()
    words = {word for _, question in asked for word in question.text.replace("?", "").split()}
    texts = [" " + word for word in words] + [question.answer for _, question in asked if question.answer]
    assert [text for text in texts if len(tokenizer.encode(text, add_special_tokens=False)) != 1] == []
