"""A benchmark of any task: a verdict is right or wrong, whatever the parts of the reward."""

from __future__ import annotations

import pytest

from locus.evaluation.benchmark import Item, TaskBenchmark
from locus.evaluation.items import ItemsRead
from locus.evaluation.predictions import Prediction
from locus.evaluation.reading.extractors import LOCUS
from locus.evaluation.scores import judged, scores
from locus.scenes.source import SceneSource
from locus.tasks.answers import THINK_ANSWER
from locus.tasks.cue_search.crops import CropStrategy
from locus.tasks.cue_search.drawing import build_corpus
from locus.tasks.cue_search.prompts import PAPER, CuePrompt
from locus.tasks.cue_search.task import CueSearch
from locus.tasks.proxies.difference import Difference
from locus.tasks.proxies.rotation import Rotation
from locus.types import Frame, Response, View
from tests.support.miniature import scenes
from tests.tasks.unmirrored import Unmirrored


@pytest.fixture
def benchmark() -> TaskBenchmark:
    """Four puzzles."""
    return TaskBenchmark(Unmirrored(SceneSource(1, 64, 64, [4, 5], [10, 16], seed=99), 2, 4), "file", rows=4)


def test_right_is_the_headlines_part(benchmark):
    """A right answer out of format earns 0.9: as ``correct`` it would leave McNemar's test nothing to count."""
    item = next(benchmark.items())
    right, view = item.example.right, View(Frame.FILE)
    malformed = benchmark.judge(item, Response(f"<answer>{right}</answer>"), view, LOCUS)
    assert (malformed.correct, malformed.columns["reward"], malformed.columns["format"]) == (1.0, 0.9, 0.0)
    assert malformed.extracted.answer == str(right)
    wrong = benchmark.judge(item, Response("<think></think><answer>9</answer>"), view, LOCUS)
    assert (wrong.correct, wrong.columns["format"]) == (0.0, 1.0)
    silent = benchmark.judge(item, Response("hm"), view, LOCUS)
    assert (silent.correct, silent.extracted.answer) == (0.0, None)


def test_items_and_scores(benchmark):
    """All held-out examples with all of their images; a score for the reward and for each part."""
    items = list(benchmark.items())
    assert [item.item_id for item in items] == [f"puzzle-{index}" for index in range(2, 6)]
    assert all(len(item.pictures) == 5 for item in items)
    assert set(benchmark.statistics()) == {"reward", "accuracy", "format"} and benchmark.headline == "accuracy"


def test_the_form_of_answers_is_asked_for_once():
    """The instruction twice in a prompt, as no policy was trained; two forms of answer in one, where a task has its
    own words."""
    source, corpus = scenes()
    own = CuePrompt(instruction="Reply as <think> reasoning </think><answer> box </answer>.")
    tasks = {Rotation(corpus, source): 1, CueSearch(corpus, source): 1, CueSearch(corpus, source, prompt=own): 0}
    for task, times in tasks.items():
        item = next(TaskBenchmark(task, "file").items())
        assert item.asked(THINK_ANSWER).count(THINK_ANSWER) == times
        assert item.asked(THINK_ANSWER) == item.asked("") == item.prompt
    cue = Item("0", PAPER.text(Frame.FILE), "A")
    assert cue.asked(THINK_ANSWER) == cue.asked("") == cue.prompt
    assert Item("0", "Which?", "A").asked(THINK_ANSWER) == f"Which?\n{THINK_ANSWER}"


def test_a_task_of_boxes_has_its_headline():
    """An evaluation of hours that ends in a KeyError: a mean IoU is no part of the reward."""
    source, corpus = scenes()
    task = Difference(corpus, source)
    benchmark, view = TaskBenchmark(task, "file"), View(Frame.FILE)
    items = list(benchmark.items())
    said = [(task.gold if place else task.foil)(item.example, view) for place, item in enumerate(items)]
    answers = {item.item_id: Prediction(item.item_id, text) for item, text in zip(items, said, strict=True)}
    headline = scores(benchmark, judged(benchmark, items, answers), resamples=20)["headline"]
    assert headline["name"] == "mean_iou"
    assert headline["value"] == pytest.approx(100 * (len(items) - 1 + 1 / 7) / len(items), abs=0.01)


def test_a_box_is_right_from_half_on():
    """No policy answers a box to the last digit: McNemar's test would have nothing to count."""
    source, corpus = scenes()
    benchmark, view = TaskBenchmark(Difference(corpus, source), "file"), View(Frame.FILE)
    item = next(benchmark.items())
    x1, y1, x2, y2 = benchmark.task.box(item.example).xyxy
    for share, right in ((0.9, 1.0), (0.4, 0.0)):
        said = Response(f"<think></think><answer>[{x1}, {y1}, {x1 + share * (x2 - x1)}, {y2}]</answer>")
        verdict = benchmark.judge(item, said, view, LOCUS)
        assert (verdict.columns["mean_iou"], verdict.correct) == (pytest.approx(share), right)


def test_a_picture_is_known_by_what_it_shows():
    """Answers to other pictures taken for these, since ids and prompts are the same; an image under as many names as
    it has crops, so that an interval takes them for images of their own."""
    source, corpus = scenes()
    one, other = (ItemsRead(TaskBenchmark(Difference(corpus, source, seed=seed), "file")) for seed in (0, 1))
    assert [item.item_id for item in one.items] == [item.item_id for item in other.items]
    assert one.digest != other.digest and one.digest == ItemsRead(one.benchmark).digest
    source = SceneSource(6, 96, 96, [3, 3], [12, 20], seed=0)  # three objects in each image
    corpus = build_corpus(source.table(), CropStrategy({"any": (0, 1)}, {"any": 1}, 8, {}, {}), 6, 6, seed=0)
    crops = list(TaskBenchmark(CueSearch(corpus, source), "file").items())
    images = {(item.groups["image"], item.pictures[0].key) for item in crops}
    assert len({name for name, _ in images}) == len({key for _, key in images}) == len(images) < len(crops)
