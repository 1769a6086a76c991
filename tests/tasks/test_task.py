"""What a task has without asking for it: order, refills, targets and metrics of a plain list of examples, by hand."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

import numpy as np
import pytest
import torch

from locus.errors import LocusError
from locus.tasks.rollouts import graded
from locus.tasks.task import Task
from locus.types import Completion, Example, Frame, Prompt, RolloutGroup, Sample, View
from tests.support.numbers import Number, Numbers

VIEW = View(Frame.UNIT1000)


def sample(example: Example) -> Sample:
    """Not to be encoded."""
    inputs = torch.arange(3), torch.zeros(3), torch.zeros(0, 0), torch.zeros(0, 3, dtype=torch.long)
    return Sample(example, Prompt(example.example_id, *inputs, (0, 0), opened="<think>\n"), VIEW)


def group(task: Task, value: int, *answers: str, cut: Sequence[int] = ()) -> RolloutGroup:
    """Rollouts with these answers, of 4, 5, 6 … tokens; those of ``cut`` are unfinished and end before the answer."""
    one, rollouts = sample(Number(value)), []
    for place, answer in enumerate(answers):
        completion = Completion(torch.arange(4 + place), torch.zeros(4 + place), place not in cut)
        text = "so" if place in cut else f"so</think><answer>{answer}</answer>"
        rollouts.append(graded(task, one, completion, text))
    return RolloutGroup(one, tuple(rollouts))


# --- Order ----------------------------------------------------------------------------------------------------
def test_batches_by_hand():
    """Five examples, two a step: an epoch is two steps of one permutation, its rest is left out, without an end."""
    found = list(islice(Numbers(5).batches(2, seed=3), 6))
    for epoch in range(3):
        order = np.random.default_rng([3, epoch, 0]).permutation(5).tolist()
        assert found[2 * epoch : 2 * epoch + 2] == [order[:2], order[2:4]]
    assert list(islice(Numbers(5).batches(2, seed=4), 6)) != found


def test_keys_name_training_examples():
    """Keys of the validation examples, or a training example that two keys name."""
    task = Numbers(5, held_out=2)
    assert [task.example(key).value for key in sorted(sum(islice(task.batches(5, 0), 1), []))] == [0, 1, 2, 3, 4]
    assert [one.value for one in task.examples("validation")] == [-2, -1]


def test_refills_by_hand():
    """Refills that repeat the step's own prompts, differ after a resume, or fail where the examples end."""
    task, order = Numbers(5), np.random.default_rng([3, 1 + 7, 1 + 2]).permutation(5).tolist()
    assert task.fresh(7, 2, 3, seed=3) == order[:3]
    used = {f"number-{order[1]}", f"number-{order[2]}"}
    assert task.fresh(7, 2, 2, seed=3, used=used) == [order[0], order[3]]
    assert task.fresh(7, 2, 9, seed=3, used=used) == [order[0], order[3], order[4]]
    assert task.fresh(7, 2, 3, seed=3, used={f"number-{n}" for n in range(5)}) == []
    others = {tuple(task.fresh(step, attempt, 5, seed=3)) for step in range(5) for attempt in range(4)}
    assert len(others) > 10  # of 20 draws out of 120 orders


def test_more_examples_than_there_are():
    """An endless loop, or an example twice in a step."""
    Numbers(5).check(5, steps=10)
    with pytest.raises(LocusError, match=r"5 training examples, a step wants 6: lower trainer\.prompts_per_step"):
        Numbers(5).check(6, steps=10)


# --- Targets --------------------------------------------------------------------------------------------------
def test_the_target_is_the_gold_answer():
    """SFT on another example's answer, or on none."""
    samples = [sample(Number(value)) for value in (3, 1)]
    gold = ["<think></think><answer>6</answer>", "<think></think><answer>2</answer>"]
    assert list(Numbers(5).target(samples)) == gold
    assert Numbers(5).check_targets() is None


def test_what_says_nothing_by_default():
    """A run file with columns, groups or checks that nobody asked for."""
    task, one = Numbers(5), Number(2)
    assert task.foil(one, VIEW) is None
    assert (task.row(one), task.group(one), task.facts(), task.variants(one, VIEW)) == ({}, "", {}, {})
    assert (task.columns, task.labels) == ({}, {})


# --- Metrics --------------------------------------------------------------------------------------------------
def test_training_metrics_by_hand():
    """Means of groups in place of rollouts: 1, 1/2, 0 (no number) and 0 (cut) here, then 1."""
    task = Numbers(5)
    groups = [group(task, 2, "4", "5", "five", "4", cut=[3]), group(task, 3, "6")]
    assert groups[0].rewards == [1, 0.5, 0, 0]
    expected = {"reward": 2.5 / 5, "right": 2 / 5, "number": 3 / 5, "parsed": 4 / 5, "truncated": 1 / 5}
    expected["completion_length"] = (4 + 5 + 6 + 7 + 4) / 5
    assert task.training_metrics(groups) == pytest.approx(expected)
    assert task.training_metrics([]) == {}


def test_validation_metrics_by_hand():
    """The headline must be among them; without groups of their own there are no others."""
    task = Numbers(5)
    groups = [group(task, 2, "4"), group(task, 3, "7"), group(task, 1, "two"), group(task, 4, "8")]
    found = task.validation_metrics(groups)
    assert found == pytest.approx({"right": 2 / 4, "number": 3 / 4, "reward": 2.5 / 4}) and task.headline in found


class ByParity(Numbers):
    """Validated by even and odd, zero in no group."""

    def group(self, example: Number) -> str:
        return "" if example.value == 0 else ("even", "odd")[example.value % 2]


def test_groups_of_validation_by_hand():
    """Means over the groups in place of all samples, a group for the empty name, or one that mixes two."""
    task = ByParity(5)
    groups = [group(task, 0, "0"), group(task, 2, "4"), group(task, 3, "7"), group(task, 1, "2"), group(task, 1, "two")]
    assert task.validation_metrics(groups) == pytest.approx(
        {
            **{"right": 3 / 5, "number": 4 / 5, "reward": 3.5 / 5},
            **{"even/right": 1, "even/number": 1, "even/reward": 1},
            **{"odd/right": 1 / 3, "odd/number": 2 / 3, "odd/reward": 1.5 / 3},
        }
    )


def test_a_response_begins_with_what_the_template_opened():
    """Thoughts that the template opened, taken for a malformed response; the rollout's text has the completion only."""
    task = Numbers(5)
    (rollout,) = group(task, 2, "4").rollouts
    assert rollout.text == "so</think><answer>4</answer>" and rollout.grade.total == 1
