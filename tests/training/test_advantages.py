"""Group advantages by hand."""

from __future__ import annotations

import math

import pytest
import torch

from locus.training.advantages import SPREAD, group_advantages, has_spread, length_penalty


def rewards(*groups: list[float]) -> torch.Tensor:
    """[B, G] float64, as the module gives them."""
    return torch.tensor(groups, dtype=torch.float64)


def test_by_hand():
    """[0, 0, 0, 1]: mean 1/4, unbiased std 1/2 (biased it is 0.433), so -1/2 and 3/2."""
    found = group_advantages(rewards([0, 0, 0, 1]), std_epsilon=0.0)
    assert found.tolist() == [[-0.5, -0.5, -0.5, 1.5]]
    assert found.dtype == torch.float32


def test_groups_are_apart():
    """The mean of the batch in place of the group's: an easy prompt would push a hard one down."""
    found = group_advantages(rewards([0, 1], [10, 12]), std_epsilon=0.0)
    expected = math.sqrt(0.5)
    assert found.flatten().tolist() == pytest.approx([-expected, expected] * 2, rel=1e-6)


@pytest.mark.parametrize("epsilon", [1e-6, 1e-4])
def test_epsilon_is_added_to_the_std(epsilon):
    """EasyR1 1e-6, TRL 1e-4: a group tied to 1e-3 differs by a seventh; inside the root it would hardly."""
    found = group_advantages(rewards([0.500, 0.501]), std_epsilon=epsilon)
    expected = 0.0005 / (0.001 / math.sqrt(2) + epsilon)
    assert found[0].tolist() == pytest.approx([-expected, expected], rel=1e-6)


def test_no_division():
    """Dr. GRPO: reward minus mean, nothing else."""
    found = group_advantages(rewards([0.0, 0.2, 1.0]), divide_by_std=False)
    assert found[0].tolist() == pytest.approx([-0.4, -0.2, 0.6], abs=1e-7)


@pytest.mark.parametrize("divide", [True, False])
@pytest.mark.parametrize("value", [0.0, 0.1, 1.0, 1 / 3, 0.1 + 0.2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equal_rewards_give_exactly_zero(divide, value, dtype):
    """0/0, or the rounding of a mean over 1e-6: eight times 0.1 in float32 has a mean that is not 0.1."""
    found = group_advantages(torch.full((2, 7), value, dtype=dtype), divide, std_epsilon=0.0)
    assert found.isfinite().all() and (found == 0).all()


def test_a_group_of_one():
    """The unbiased std of one reward is NaN."""
    assert group_advantages(rewards([0.7])).tolist() == [[0.0]]


def test_spread():
    """Differences of rounding carry no preference, yet after division by their own std they weigh as much as any."""
    near, far = rewards([0.5, 0.5 + SPREAD / 2]), rewards([0.5, 0.5 + SPREAD * 2])
    assert has_spread(near).tolist() == [False] and has_spread(far).tolist() == [True]
    assert group_advantages(near, std_epsilon=1e-12).tolist() == [[0, 0]]
    assert group_advantages(far, std_epsilon=1e-12)[0, 1] == pytest.approx(math.sqrt(0.5), rel=1e-3)
    assert has_spread(rewards([0, 0, 0], [1, 1, 0], [-1, -1, -1])).tolist() == [False, True, False]


def test_invariants():
    """Zero mean and unit unbiased std in each group; a shift and a positive scale of the rewards change nothing."""
    values = torch.rand(5, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = group_advantages(values, std_epsilon=0.0)
    torch.testing.assert_close(found.mean(1), torch.zeros(5), atol=1e-6, rtol=0)
    torch.testing.assert_close(found.std(1), torch.ones(5))
    torch.testing.assert_close(group_advantages(3 * values - 7, std_epsilon=0.0), found)
    order = torch.tensor([3, 1, 0, 7, 5, 4, 6, 2])
    torch.testing.assert_close(group_advantages(values[:, order], std_epsilon=0.0), found[:, order])


def test_length_penalty_by_hand():
    """DAPO's own sizes, 16,384 and 20,480 tokens; and half of the buffer, which costs half."""
    lengths = torch.tensor([1, 16_384, 16_385, 18_432, 20_480])
    assert length_penalty(lengths, 20_480, 0.2).tolist() == pytest.approx([0, 0, -1 / 4096, -0.5, -1], abs=1e-9)
    assert length_penalty(torch.tensor([[0, 5, 10]]), 10, 1.0).tolist() == [[0, -0.5, -1]]
