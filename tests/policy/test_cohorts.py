"""Rollouts within a budget: prompts wait, enter, step back and leave, and nothing of it shows in a completion."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch

from locus.errors import LocusError
from locus.policy import cohorts, decoding
from locus.policy.cohorts import CohortDecoder
from locus.policy.rollouts import RolloutDecoding, encode_in_parts, sample_groups, sample_in_turn
from locus.policy.sampling import Draft
from locus.policy.split_groups import prompt_batches
from locus.policy.static_decoding import StaticDecoding
from locus.policy.vlm import VLM, EncodedPrompts
from locus.types import Completion, Prompt, Sampling
from tests.support.group_forward import FAMILY, HEADS
from tests.support.models import prompts, tiny_vlm

GROUP, SAMPLING = 4, Sampling(max_new_tokens=20)
BUDGETS = 300, 900, 100_000
"""A prompt at a time, a few, and all."""


def policy(family: str, every: int = 9, **settings: object) -> VLM:
    """One token in ``every`` ends a row."""
    vlm = tiny_vlm(family, **settings)
    vlm.end_token_ids = tuple(range(0, 1800, every))
    return vlm


def many(family: str, copies: int = 3) -> list[Prompt]:
    """Prompts of three lengths, each with an id and so with random numbers of its own."""
    return [replace(one, prompt_id=f"{copy}/{one.prompt_id}") for copy in range(copies) for one in prompts(family)]


class Encode:
    """Encodes what enters, in parts, and keeps who came when."""

    def __init__(self, vlm: VLM, records: Sequence[Prompt], token_budget: int = 400):
        self.vlm, self.records, self.token_budget = vlm, records, token_budget
        self.entered: list[list[int]] = []

    def __call__(self, indices: Sequence[int]) -> EncodedPrompts:
        self.entered.append(list(indices))
        return encode_in_parts(self.vlm, [self.records[i] for i in indices], self.token_budget)


def in_turn(vlm: VLM, records: Sequence[Prompt], budget: int, step: str = "dynamic") -> list[list[Completion]]:
    """Completions of prompts that wait for their turn."""
    with torch.no_grad():
        encode = Encode(vlm, records)
        return sample_in_turn(vlm, records, encode, GROUP, SAMPLING, 1, 2, RolloutDecoding(budget, step))


def together(vlm: VLM, records: Sequence[Prompt]) -> list[list[Completion]]:
    """All at once."""
    with torch.no_grad():
        return sample_groups(vlm, records, vlm.encode(records), GROUP, SAMPLING, 1, 2)


def assert_same(groups: list[list[Completion]], expected: list[list[Completion]]) -> None:
    """Tokens are equal, log-probs up to rounding."""
    for one, other in zip(sum(groups, []), sum(expected, []), strict=True):
        assert one.token_ids.tolist() == other.token_ids.tolist() and one.finished == other.finished
        torch.testing.assert_close(one.logprobs, other.logprobs, rtol=0, atol=2e-5)


@FAMILY
@HEADS
@pytest.mark.parametrize("step", ["dynamic", "static"])
def test_completions_are_the_same_under_any_budget(family: str, kv_heads: int, step: str):
    """Rows of another prompt, a cache of who left, a step that is another cohort's, an end that is not seen."""
    vlm, records = policy(family, text_kv_heads=kv_heads), many(family)
    expected = together(vlm, records)
    assert len({len(completion.token_ids) for group in expected for completion in group}) > 5
    for budget in BUDGETS:
        assert_same(in_turn(vlm, records, budget, step), expected)


@pytest.mark.slow
@FAMILY
def test_compiled_completions_are_the_same(family: str):
    """A step that torch.compile cannot take whole, or takes otherwise."""
    vlm, records = policy(family), many(family)
    assert_same(in_turn(vlm, records, 900, "compiled"), together(vlm, records))


@pytest.mark.parametrize("step", ["dynamic", "static"])
def test_one_token_and_no_end(step: str, monkeypatch: pytest.MonkeyPatch):
    """Buffers of no token; groups that all stop at the limit, in slots that are taken over."""
    vlm, records = policy("qwen3_vl"), many("qwen3_vl")
    monkeypatch.setattr("tests.policy.test_cohorts.SAMPLING", Sampling(max_new_tokens=1))
    assert_same(in_turn(vlm, records, 300, step), together(vlm, records))
    monkeypatch.setattr("tests.policy.test_cohorts.SAMPLING", Sampling(max_new_tokens=11))
    vlm.end_token_ids = (-1,)
    groups = in_turn(vlm, records, 900, step)
    assert {len(completion.token_ids) for group in groups for completion in group} == {11}
    assert_same(groups, together(vlm, records))


# --- What is held ---------------------------------------------------------------------------------------------
class Watched(CohortDecoder):
    """Notes what is held when a token is decoded: cached tokens, cohorts, and real numbers in all caches."""

    def decode(self) -> None:
        if not hasattr(self, "held"):
            self.held: list[tuple[int, int, int]] = []
        parts = [cohort.decoding for cohort in self.cohorts]
        numbers = sum(part.prefill.keys[0].numel() + part.keys[0].numel() for part in parts)
        heads, width = parts[0].keys[0].shape[1], parts[0].keys[0].shape[4]
        self.held.append((self.cached, len(parts), numbers // heads // width))
        super().decode()


def watched(vlm: VLM, records: Sequence[Prompt], budget: int | None) -> tuple[Watched, Encode, list[list[Completion]]]:
    """A decoder after its run, who entered when, and the completions; prompts wait in their order of length."""
    with torch.no_grad():
        encode, draft = Encode(vlm, records), Draft(vlm, records, GROUP, SAMPLING, 1, 2)
        decoder = Watched(vlm, records, draft, encode, budget)
        decoder.run(sorted(range(len(records)), key=lambda i: (records[i].length, records[i].prompt_id)))
    return decoder, encode, draft.completions()


@FAMILY
def test_what_is_held_stays_within_the_budget(family: str):
    """A count that is not that of the tensors, or prompts that enter without room; all enter once, longest first."""
    vlm, records = policy(family, every=5), many(family, 6)
    decoder, encode, groups = watched(vlm, records, 1000)
    assert all(cached == real <= 1000 for cached, _, real in decoder.held)
    assert max(count for _, count, _ in decoder.held) > 1  # old and new ones were decoded together
    entered = sum(encode.entered, [])
    assert sorted(entered) == list(range(len(records))) and len(encode.entered) > 2
    lengths = [max(records[i].length for i in indices) for indices in encode.entered]
    assert lengths == sorted(lengths, reverse=True)
    assert_same(groups, together(vlm, records))


def test_waiting_prompts_save_steps():
    """Batches one after the other, each as long as its longest row: the same budget takes more steps."""
    vlm, records = policy("qwen3_vl", every=5), many("qwen3_vl", 6)
    decoder, _, _ = watched(vlm, records, 1000)
    steps = 0
    for part in prompt_batches(records, [[SAMPLING.max_new_tokens] * GROUP] * len(records), 1000):
        lone, _, _ = watched(vlm, [records[i] for i in part.groups], None)
        steps += len(lone.held)
    assert len(decoder.held) < 0.9 * steps


@FAMILY
def test_prompts_step_back_where_buffers_outgrow_the_budget(family: str, monkeypatch: pytest.MonkeyPatch):
    """A budget that growth exceeds; prompts that are lost, or go on with half of what they had written."""
    for module in (decoding, cohorts):
        monkeypatch.setattr(module, "GROWTH", 3)
    vlm, records = policy(family, every=30), many(family)
    decoder, encode, groups = watched(vlm, records, 600)
    entered = sum(encode.entered, [])
    assert len(entered) > len(records) == len(set(entered))  # some came twice
    assert all(cached == real <= 600 for cached, _, real in decoder.held)
    monkeypatch.undo()
    assert_same(groups, together(vlm, records))


@pytest.mark.parametrize("step", ["dynamic", "static"])
def test_a_prompt_above_the_budget_is_refused(step: str):
    """A group that can never be held: an endless wait, or memory that is not there."""
    vlm, records = policy("qwen3_vl"), many("qwen3_vl")
    longest = max(record.length for record in records) + GROUP * (SAMPLING.max_new_tokens - 1)
    in_turn(vlm, records[:3], longest, step)
    with pytest.raises(LocusError, match=f"have {longest} tokens, the budget is {longest - 1}: raise rollout.decode_"):
        in_turn(vlm, records[:3], longest - 1, step)


@FAMILY
def test_prompts_encoded_in_parts_are_those_encoded_at_once(family: str):
    """Keys padded at the wrong end, a mask that is not, or parts in another order."""
    vlm, records = policy(family), sorted(many(family, 2), key=lambda one: (one.length, one.prompt_id))
    with torch.no_grad():
        parts, whole = encode_in_parts(vlm, records, 250), vlm.encode(records)
    assert torch.equal(parts.prefill.prompt_mask, whole.prefill.prompt_mask)
    assert torch.equal(parts.next_position, whole.next_position) and len(parts.features) == len(records)
    torch.testing.assert_close(parts.hidden, whole.hidden, rtol=0, atol=1e-4)
    real = whole.prefill.prompt_mask[:, None, :, None]
    for one, other in zip(
        parts.prefill.keys + parts.prefill.values, whole.prefill.keys + whole.prefill.values, strict=True
    ):
        torch.testing.assert_close(one * real, other * real, rtol=0, atol=1e-4)


def test_static_shapes_do_not_change(monkeypatch: pytest.MonkeyPatch):
    """A shape or an address that moves while decoding: a CUDA graph would replay into freed memory."""
    seen, attend = set(), StaticDecoding.attend

    def spied(self: StaticDecoding, layer: int, *states: torch.Tensor) -> torch.Tensor:
        tensors = self.tensors()
        seen.add((tuple(t.data_ptr() for t in tensors), tuple(t.shape for t in (*tensors, *states[:3]))))
        return attend(self, layer, *states)

    monkeypatch.setattr(StaticDecoding, "attend", spied)
    in_turn(policy("qwen3_vl"), many("qwen3_vl"), 900, "static")
    assert len(seen) == 1
