"""What rollouts really hold: little more than the cached tokens that their budget counts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

from locus.policy.decoding import Decoding
from locus.policy.dry_run import PeakBytes
from locus.policy.inference import compute_dtype, inference_policy
from locus.policy.rollouts import encode_in_parts
from tests.support.group_forward import FAMILY
from tests.support.models import prompts, tiny_vlm

LAYERS = 8


@pytest.fixture(autouse=True)
def no_gradient() -> Iterator[None]:
    """Rollouts have none."""
    with torch.no_grad():
        yield


def counted(decoding: Decoding) -> int:
    """Bytes of the tokens that the budget counts."""
    tokens = decoding.shape[0] * decoding.tokens_per_prompt
    heads, width = decoding.keys[0].shape[1], decoding.keys[0].shape[4]
    return tokens * 2 * LAYERS * heads * width * decoding.keys[0].itemsize


@FAMILY
@pytest.mark.parametrize("mixed", [False, True])
def test_rollouts_hold_little_more_than_is_counted(family: str, mixed: bool):
    """Parts in float32 under bfloat16; parts, whole and a cast of it at one time; a second cache of who is kept."""
    records = [replace(one, prompt_id=f"{i}/{one.prompt_id}") for i in range(4) for one in prompts(family)]
    records.sort(key=lambda one: (one.length, one.prompt_id))
    with torch.autocast("cpu", torch.bfloat16, enabled=mixed, cache_enabled=False):
        vlm = inference_policy(tiny_vlm(family, text_layers=LAYERS).eval())
        with PeakBytes() as memory:
            prefill = encode_in_parts(vlm, records, 200).prefill
            decoding = Decoding.start(prefill, 2, 4, compute_dtype(vlm))
            del prefill
            held = counted(decoding)
            entered = memory.peak / held
            decoding.keep(torch.arange(1, len(records)), torch.arange(2).expand(len(records) - 1, -1))
    assert {states.dtype for states in decoding.prefill.keys} == {torch.bfloat16 if mixed else torch.float32}
    assert len(records) - 1 == decoding.shape[0] and counted(decoding) < held
    assert entered < 1.3 and memory.peak < 1.3 * held, (entered, memory.peak / held)


def test_a_freed_storage_whose_address_is_used_again_counts():
    """What is made where a given tensor was would be taken for that one."""
    for _ in range(20):
        given = torch.zeros(1000)
        with PeakBytes() as memory:
            given.add_(1)
            del given
            made = [torch.zeros(1000) for _ in range(10)]
        assert memory.peak == sum(one.nbytes for one in made)
