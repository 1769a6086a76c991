"""Which examples a step trains on: shares of the area bins, no example twice in a batch, the same batch on resuming."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
from hydra.utils import instantiate

from locus.errors import LocusError
from locus.tasks.datamodule import StepSampler
from locus.tasks.order import Balanced, Curriculum, Order, Uniform, batches, whole_parts
from tests.support.models import cue_task, example

BINS = np.array(["tiny"] * 30 + ["small"] * 12 + ["large"] * 8)
EXAMPLES = [replace(example((64, 48), (8, 8, 24, 24), str(i)), bin=str(name)) for i, name in enumerate(BINS)]
ORDERS = {
    "uniform": Uniform(),
    "balanced": Balanced(),
    "curriculum": Curriculum({"tiny": 0.2, "small": 0.5, "large": 0.3}, {"tiny": 1.0, "small": 0, "large": 0}, 20),
}


def counted(batch: list[int], bins: np.ndarray = BINS) -> dict[str, int]:
    """Bin -> examples of it in a batch."""
    return dict(Counter(bins[batch].tolist()))


def run(order: Order, steps: int = 40, size: int = 8, seed: int = 7, start: int = 0) -> list[list[int]]:
    """The batches of a run."""
    return list(StepSampler(cue_task(EXAMPLES, order=order), size, steps, start, seed))


@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS)
def test_a_step_has_one_batch_wherever_the_run_started(order):
    """A resumed run whose bins begin their epochs anew, or whose shares count from the step it resumed at."""
    whole = run(order)
    for start in (1, 2, 7, 19, 20, 39, 40):
        assert run(order, start=start) == whole[start:]
    assert run(order, steps=25) == whole[:25]
    assert run(order, seed=8) != whole


@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS)
def test_batches_are_full_and_hold_nothing_twice(order):
    """A prompt with two groups in one step, at the end of a bin's epoch: of 8 large ones, 3 or so are asked a step."""
    for batch in run(order, steps=300):
        assert len(batch) == len(set(batch)) == 8 and all(0 <= index < len(BINS) for index in batch)


def test_uniform_is_the_order_of_earlier_versions():
    """Other batches than those that a seed gave before there were orders; the old loop, written out."""
    per_epoch = len(BINS) // 8
    for step, batch in enumerate(run(Uniform(), seed=3)):
        permutation = np.random.default_rng([3, step // per_epoch]).permutation(len(BINS))
        first = step % per_epoch * 8
        assert batch == permutation[first : first + 8].tolist()


def test_balanced_by_hand():
    """Twelve prompts of three bins are four each; of eight, two bins have three and one two, each bin in turn."""
    assert all(counted(batch) == {"tiny": 4, "small": 4, "large": 4} for batch in run(Balanced(), size=12))
    parts = [counted(batch) for batch in run(Balanced(), steps=900)]
    assert all(sorted(part.values()) == [2, 3, 3] for part in parts)
    fewest = Counter(min(part, key=part.get) for part in parts)
    assert set(fewest) == {"tiny", "small", "large"} and min(fewest.values()) > 240  # 300 each on average


def test_rare_bins_come_again_and_all_examples_come():
    """The same few of a rare bin again and again, or a part of a frequent one never: eight large ones, four a step, are
    an epoch every two steps; thirty tiny ones, four a step, are 28 different ones in seven."""
    whole = run(Balanced(), size=12, steps=210)
    for name, per_step, per_epoch in (("large", 4, 8), ("small", 4, 12), ("tiny", 4, 28)):
        drawn = [index for batch in whole for index in batch if BINS[index] == name]
        epochs = [drawn[first : first + per_epoch] for first in range(0, len(drawn), per_epoch)]
        assert len(drawn) == 210 * per_step and all(len(set(epoch)) == len(epoch) for epoch in epochs)
        assert len({tuple(epoch) for epoch in epochs}) == len(epochs)
        assert set(drawn) == set(np.flatnonzero(name == BINS).tolist())


def test_every_part_of_a_batch_holds_all_bins():
    """A step of several updates whose first one sees one bin and whose last one the other: parts are cut in order."""
    halves = [counted(batch[:6]) for batch in run(Balanced(), size=12, steps=100)]
    assert sum(len(half) == 3 for half in halves) > 80


def test_curriculum_by_hand():
    """Shares of the wrong step: ten prompts, from 2 tiny : 8 small to 10 : 0 over nine steps, one more each, then all
    tiny."""
    bins = np.array(["small"] * 20 + ["tiny"] * 20)
    order = Curriculum({"tiny": 1, "small": 4}, {"tiny": 5, "small": 0}, 9)
    found = [counted(batch, bins).get("tiny", 0) for batch in islice(batches(order, bins, 10, seed=0), 12)]
    assert found == [2, 3, 4, 5, 6, 7, 8, 9, 10, 10, 10, 10]


def test_a_curriculum_of_one_step_begins():
    """A division by the zero steps between the first and the last."""
    assert Curriculum({"a": 1, "b": 3}, {"a": 1}, 1).shares(["a", "b"], 0).tolist() == [0.25, 0.75]


def test_shipped_curriculum_is_the_papers_mixture_in_another_order(compose_app):
    """A run of other shares than 70 : 30 would differ from the uniform one by more than the order."""
    trainer = compose_app("train", ["trainer/order=curriculum", "trainer.steps=200"]).trainer
    order = instantiate(trainer.order, _convert_="all")
    bins = np.array(["tiny"] * 700 + ["small"] * 300)
    whole = [counted(batch, bins) for batch in islice(batches(order, bins, 16, seed=1), 200)]
    assert sum(part.get("tiny", 0) for part in whole) / 3200 == pytest.approx(0.7, abs=0.01)
    assert whole[0]["tiny"] in (6, 7) and whole[-1] == {"tiny": 16}  # 6.4, 16


def test_whole_parts():
    """Parts that do not add up, go below zero, or favour a bin over many steps: 5.6 and 2.4 of eight prompts."""
    rng = np.random.default_rng(0)
    parts = np.array([whole_parts(8, np.array([0.7, 0.3]), rng) for _ in range(4000)])
    assert (parts.sum(axis=1) == 8).all() and set(parts[:, 0]) == {5, 6}
    assert parts[:, 0].mean() == pytest.approx(5.6, abs=0.03)  # four standard errors
    for shares in ([0.1] * 10, [0.7, 0.1, 0.2], [1.0, 0.0], [0.0, 1.0]):
        for _ in range(100):
            assert (whole_parts(10, np.array(shares), rng) == np.round(10 * np.array(shares))).all()


@pytest.mark.parametrize(
    ("order", "size", "says"),
    [
        (Balanced(), 27, r"8 training examples of bin large, a step wants 9: .*trainer\.prompts_per_step"),
        (Curriculum({"tiny": 1, "small": 1, "large": 0}, {"large": 1}, 40), 9, "8 training examples of bin large"),
        (Uniform(), 51, r"50 training examples, a step wants 51"),
        (Curriculum({"tiny": 1}, {"small": 1}, 9), 8, r"of small, tiny; the corpus has large, small, tiny"),
        (Curriculum({"tiny": 1, "small": 1, "large": 1, "medium": 1}, {"tiny": 1}, 9), 8, r"trainer\.order\.start"),
    ],
)
def test_orders_that_the_corpus_cannot_meet_are_refused_before_the_first_step(order, size, says):
    """A run that fails in the middle, when its shares first ask for more of a bin than there is; a bin never used."""
    with pytest.raises(LocusError, match=says):
        run(order, size=size)
    if isinstance(order, Balanced):
        assert len(run(order, size=24)) == 40  # 8 of each is just enough


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (({"tiny": -1, "small": 2}, {"tiny": 1}, 9), r"trainer\.order\.start"),
        (({"tiny": 1}, {"tiny": 0}, 9), r"trainer\.order\.end"),
        (({"tiny": 1}, {"tiny": 1}, 0), r"trainer\.order\.steps=0"),
    ],
)
def test_values_that_cannot_be_meant_are_refused(arguments, says):
    """Weights without a sum, that divide by zero."""
    with pytest.raises(LocusError, match=says):
        Curriculum(*arguments)
