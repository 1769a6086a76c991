"""A benchmark of any task: a verdict is right or wrong, whatever the parts of the reward."""

from __future__ import annotations

import pytest

from locus.evaluation.benchmark import TaskBenchmark
from locus.evaluation.reading.extractors import LOCUS
from locus.scenes.source import SceneSource
from locus.types import Frame, Response, View
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
