"""Micro-batches by token budget: padded sizes, a canonical order, a refusal that says what to do."""

from __future__ import annotations

import random
import re

import pytest
from omegaconf import OmegaConf

from locus.errors import LocusError
from locus.policy.rollouts import micro_batches
from locus.types import Prompt
from tests.support.group_forward import blank_prompt


def padded(prompts: list[Prompt], batch: list[int]) -> int:
    """Tokens of a micro-batch, each row as long as its longest."""
    return len(batch) * max(prompts[i].length for i in batch)


def test_by_hand():
    """Lengths 20, 40, 30, 20, budget 60: 20 + 20 fill 40, a third row would pad all to 30."""
    prompts = [blank_prompt("a", 20), blank_prompt("b", 40), blank_prompt("c", 30), blank_prompt("d", 20)]
    assert micro_batches(prompts, 60) == [[0, 3], [2], [1]]
    assert micro_batches(prompts, 90) == [[0, 3, 2], [1]]
    assert micro_batches(prompts, 160) == [[0, 3, 2, 1]]
    assert micro_batches(prompts, 159) == [[0, 3, 2], [1]]
    assert micro_batches(prompts, 40) == [[0, 3], [2], [1]]
    assert micro_batches([], 40) == []


@pytest.mark.parametrize("seed", range(20))
def test_budget_is_kept_and_nothing_is_lost(seed):
    """The sum of lengths in place of the padded size; a prompt dropped, or trained on twice."""
    rng = random.Random(seed)
    prompts = [blank_prompt(str(i), rng.randrange(1, 300)) for i in range(rng.randrange(1, 40))]
    budget = rng.randrange(400, 2000)
    batches = micro_batches(prompts, budget)
    assert sorted(i for batch in batches for i in batch) == list(range(len(prompts)))
    assert all(batch and padded(prompts, batch) <= budget for batch in batches)
    for one, other in zip(batches, batches[1:], strict=False):  # no batch closes while the next prompt fits
        assert padded(prompts, [*one, other[0]]) > budget


def test_the_same_micro_batches_in_any_order():
    """Sums in floating point depend on who is with whom: permuting a batch must not, also among equal lengths."""
    rng = random.Random(0)
    prompts = [blank_prompt(f"p{i:02d}", 10 * rng.randrange(1, 4)) for i in range(24)]

    def names(order: list[int]) -> list[list[str]]:
        shuffled = [prompts[i] for i in order]
        return [[shuffled[i].prompt_id for i in batch] for batch in micro_batches(shuffled, 150)]

    first = names(list(range(24)))
    assert len(first) > 3
    for _ in range(20):
        assert names(rng.sample(range(24), 24)) == first


def test_a_prompt_alone_above_the_budget(compose_app):
    """Cut, its image tokens would no longer fit its pixels: it is refused by name, with the keys that help."""
    prompts = [blank_prompt("small", 10), blank_prompt("coco-9-51", 101)]
    assert micro_batches(prompts, 101) == [[0], [1]]  # exactly the budget
    with pytest.raises(LocusError) as caught:
        micro_batches(prompts, 100)
    message = str(caught.value)
    assert "coco-9-51" in message and "101 tokens" in message and "100" in message and "small" not in message
    keys, config = re.findall(r"[a-z_]+\.[a-z_.]+[a-z_]", message), compose_app("train")
    assert "rollout.token_budget" in keys and len(keys) == 2
    for key in keys:  # a remedy that names no key of the configuration is none
        group, _, name = key.rpartition(".")
        assert name in OmegaConf.select(config, group), key
