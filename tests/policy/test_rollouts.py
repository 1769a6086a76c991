"""Sampling: the right distribution, random numbers that go by the prompt, and rows that stop where they end."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from locus.policy import cohorts
from locus.policy.logprobs import sampling_logits
from locus.policy.rollouts import sample_groups
from locus.policy.sampling import choose_tokens, prompt_generator
from locus.policy.vlm import VLM
from locus.types import Completion, Prompt, Sampling
from tests.support.models import FAMILIES, prompts, tiny_vlm

FAMILY = pytest.mark.parametrize("family", FAMILIES)
ENDS = tuple(range(0, 1800, 8))
"""One token in eight ends a row, so that rows of a group end at different lengths."""


def policy(family: str, ends: Sequence[int] = ENDS) -> VLM:
    vlm = tiny_vlm(family)
    vlm.end_token_ids = tuple(ends)
    return vlm


def write(
    vlm: VLM, records: Sequence[Prompt], group: int = 4, seed: int = 0, step: int = 0, **sampling: float
) -> list[list[Completion]]:
    """Completions of these prompts; of 16 tokens at most unless said otherwise."""
    settings = Sampling(**{"max_new_tokens": 16} | sampling)
    with torch.no_grad():
        return sample_groups(vlm, records, vlm.encode(records), group, settings, seed, step)


def ids(groups: Sequence[Sequence[Completion]]) -> list[list[list[int]]]:
    return [[completion.token_ids.tolist() for completion in group] for group in groups]


# --- Random numbers -------------------------------------------------------------------------------------------
@FAMILY
def test_a_prompt_gets_the_same_completions_in_any_batch(family: str):
    """Random numbers drawn for the batch: after a resume, or with another budget, the run would differ."""
    vlm, records = policy(family), prompts(family)
    together = ids(write(vlm, records, seed=5, step=3))
    assert together == ids(write(vlm, records, seed=5, step=3))
    torch.rand(7)  # moves the global generator
    assert together == [ids(write(vlm, [record], seed=5, step=3))[0] for record in records]


def test_seed_step_and_prompt_each_change_the_completions():
    """A step whose rollouts repeat the last step's; a seed that is not used."""
    vlm, records = policy("qwen3_vl"), prompts("qwen3_vl")[:1]
    runs = [ids(write(vlm, records, seed=seed, step=step))[0] for seed, step in ((0, 0), (0, 1), (1, 0), (0, -1))]
    assert len({str(run) for run in runs}) == 4
    draws = {torch.rand(1, generator=prompt_generator(0, 0, name)).item() for name in ("a", "b")}
    assert len(draws) == 2


def test_generator_seed_is_pinned():
    """A change of the seeding would change every run without a word: SHA-256 of ``1/2/a``, its first 8 bytes."""
    assert prompt_generator(1, 2, "a").initial_seed() % 2**64 == 0x33303FDDAD2ACBC2


@FAMILY
def test_rows_of_a_group_differ(family: str):
    """One random number for the whole group: no spread of rewards, no signal. Chance of equal rows < 1e-6."""
    (group,) = ids(write(policy(family), prompts(family)[:1], group=6))
    assert len({tuple(row) for row in group}) == 6


# --- The distribution -----------------------------------------------------------------------------------------
def test_top_p_by_hand():
    """Tokens of 0.15, 0.5, 0.05, 0.3: p = 0.75 keeps 0.5 and 0.3, renormalised to 0.625 and 0.375, in id order."""
    logits = torch.tensor([0.15, 0.5, 0.05, 0.3]).log().expand(6, -1)
    uniform = torch.tensor([0.0, 0.3, 0.62, 0.63, 0.9, 1 - 2**-53], dtype=torch.float64)
    assert choose_tokens(logits, uniform, Sampling(top_p=0.75)).tolist() == [1, 1, 1, 3, 3, 3]
    assert choose_tokens(logits, uniform, Sampling(top_p=0.4)).tolist() == [1] * 6  # 0.5 alone reaches 0.4
    assert choose_tokens(logits, uniform, Sampling(top_p=0.9)).tolist() == [0, 1, 1, 1, 3, 3]  # 0.15, 0.5, 0.3 of 0.95


def test_without_top_p_by_hand():
    """Inverse distribution in id order: the bounds are 0.15, 0.65, 0.7 and 1."""
    logits = torch.tensor([0.15, 0.5, 0.05, 0.3]).log().expand(8, -1)
    uniform = torch.tensor([0.0, 0.14, 0.16, 0.64, 0.66, 0.69, 0.71, 1 - 2**-53], dtype=torch.float64)
    assert choose_tokens(logits, uniform, Sampling()).tolist() == [0, 0, 1, 1, 2, 2, 3, 3]


def test_impossible_tokens_are_never_chosen():
    """The first and last tokens have probability 0: u = 0 and u next to 1 must step over them, in bounds."""
    low = torch.finfo(torch.float32).min
    logits = torch.tensor([low, low, 0.0, low, 0.0, low]).expand(3, -1)
    uniform = torch.tensor([0.0, 0.5, 1 - 2**-53], dtype=torch.float64)
    for top_p in (1.0, 0.99):
        assert choose_tokens(logits, uniform, Sampling(top_p=top_p)).tolist() == [2, 4, 4]


@pytest.mark.parametrize("top_p", [1.0, 0.8])
def test_frequencies_match_the_softmax(top_p: float):
    """Chi-square of 40,000 draws over 8 tokens: above 40 with chance 1e-6 if right, thousands if a step is off."""
    logits = torch.tensor([1.2, -0.3, 0.4, 2.0, -1.0, 0.0, 0.9, 1.6])
    uniform = torch.rand(40_000, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    counts = choose_tokens(logits.expand(40_000, -1), uniform, Sampling(top_p=top_p)).bincount(minlength=8)
    expected = logits.softmax(0).double()
    if top_p < 1:
        kept = 1 + int((expected.sort(descending=True).values.cumsum(0) < top_p).sum())
        expected = torch.where(expected >= expected.topk(kept).values[-1], expected, 0)
        expected /= expected.sum()
        assert 2 <= kept <= 6
    assert not counts[expected == 0].any()
    used = expected > 0
    chi_square = ((counts - 40_000 * expected)[used].square() / (40_000 * expected[used])).sum()
    assert chi_square < 40


@FAMILY
@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_first_tokens_follow_the_policy(family: str, temperature: float):
    """Rollouts that draw from another distribution than the one that is scored; 8 likeliest tokens and the rest.

    Chi-square with 8 degrees of freedom: above 45 with chance 4e-7.
    """
    vlm, records = policy(family), prompts(family)[:2]
    groups = write(vlm, records, group=2000, max_new_tokens=1, temperature=temperature)
    with torch.no_grad():
        hidden = vlm.encode(records).hidden
        logits = vlm.lm_head(hidden).index_fill(-1, vlm.forbidden, float("-inf"))
        exact = (logits.double() / temperature).log_softmax(-1)
    for group, logprobs in zip(groups, exact, strict=True):
        drawn = torch.cat([completion.token_ids for completion in group])
        top = logprobs.topk(8).indices
        counts = torch.stack([(drawn == token).sum() for token in top]).double()
        counts, expected = (
            torch.cat([part, total - part.sum(0, keepdim=True)])
            for part, total in ((counts, 2000), (2000 * logprobs[top].exp(), 2000))
        )
        assert ((counts - expected).square() / expected).sum() < 45
        written = torch.cat([completion.logprobs for completion in group])
        torch.testing.assert_close(written.double(), logprobs[drawn], rtol=0, atol=1e-5)


def test_log_probs_are_those_before_top_p():
    """Log-probs renormalised over the kept tokens: the update's, over all tokens, would not agree with them."""
    vlm, records = policy("qwen3_vl", ends=[1]), prompts("qwen3_vl")[:1]
    ((completion,),) = write(vlm, records, group=1, max_new_tokens=1, top_p=1e-6)
    with torch.no_grad():
        hidden = vlm.encode(records).hidden
        exact = sampling_logits(vlm, hidden, 1.0).log_softmax(-1)[0]
    assert completion.token_ids.item() == exact.argmax()  # a nucleus of one
    assert completion.logprobs.item() == pytest.approx(exact.max().item(), abs=1e-5)
    assert completion.logprobs.item() < -0.1


@FAMILY
def test_temperature_zero_is_greedy(family: str):
    """Greedy decoding that still draws, or whose rows differ; its log-probs are those at temperature 1."""
    vlm, records = policy(family), prompts(family)
    greedy = write(vlm, records, group=2, temperature=0)
    assert ids(greedy) == ids(write(vlm, records, group=2, temperature=0, seed=9, step=9))
    with torch.no_grad():
        hidden = vlm.encode(records).hidden
        exact = sampling_logits(vlm, hidden, 1.0).log_softmax(-1)
    for group, logprobs in zip(greedy, exact, strict=True):
        assert torch.equal(group[0].token_ids, group[1].token_ids)
        assert group[0].token_ids[0] == logprobs.argmax()
        assert group[0].logprobs[0].item() == pytest.approx(logprobs.max().item(), abs=1e-5)


@FAMILY
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_vision_tokens_are_never_written(family: str, temperature: float):
    """With one in a completion the image tokens outnumber the image features, and the next forward stops.

    Their logits are made the largest; the same completions must come as without that.
    """
    vlm, records = policy(family), prompts(family)
    plain = write(vlm, records, temperature=temperature)
    vlm.lm_head.register_forward_hook(lambda module, inputs, logits: logits.index_fill(-1, vlm.forbidden, 50.0))
    with torch.no_grad():
        hidden = vlm.encode(records).hidden
        assert torch.isin(vlm.lm_head(hidden).argmax(-1), vlm.forbidden).all()
    biased = write(vlm, records, temperature=temperature)
    assert ids(biased) == ids(plain)
    for one, other in zip(sum(biased, []), sum(plain, []), strict=True):
        assert not torch.isin(one.token_ids, vlm.forbidden).any()
        torch.testing.assert_close(one.logprobs, other.logprobs, rtol=0, atol=1e-6)


def test_all_four_vision_tokens_are_forbidden():
    """One that is forgotten is enough to stop a run."""
    for family in FAMILIES:
        vlm = policy(family)
        tokens = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")
        assert {getattr(vlm.model.config, name) for name in tokens} == set(vlm.forbidden.tolist())
        assert len(set(vlm.forbidden.tolist())) == 4


# --- Where rows end -------------------------------------------------------------------------------------------
@FAMILY
def test_rows_stop_at_their_end_token(family: str):
    """Tokens after the end, an end that is cut off, or `finished` set by the limit."""
    groups = write(policy(family), prompts(family), group=8, max_new_tokens=10)
    rows = sum(groups, [])
    for completion in rows:
        is_end = torch.isin(completion.token_ids, torch.tensor(ENDS))
        assert len(completion.logprobs) == len(completion.token_ids) <= 10
        assert (completion.logprobs < 0).all() and completion.logprobs.dtype == torch.float32
        assert not is_end[:-1].any()
        assert completion.finished == bool(is_end[-1])
        assert completion.finished or len(completion.token_ids) == 10
    assert {completion.finished for completion in rows} == {True, False}


@FAMILY
def test_limit_of_one_token(family: str):
    """A buffer for T - 1 = 0 own tokens."""
    rows = sum(write(policy(family), prompts(family), group=20, max_new_tokens=1), [])
    assert all(len(c.token_ids) == len(c.logprobs) == 1 for c in rows)
    assert all(c.finished == (int(c.token_ids) in ENDS) for c in rows)
    assert {c.finished for c in rows} == {True, False}


def test_end_token_at_the_first_place():
    """Every row ends at once: nothing is decoded at all."""
    vlm = policy("qwen3_vl", ends=range(1800))
    vlm.decode = None  # must not be called
    groups = write(vlm, prompts("qwen3_vl"))
    assert all(len(c.token_ids) == 1 and c.finished for group in groups for c in group)


def decoded_rows(vlm: VLM, records: Sequence[Prompt], **settings: float) -> tuple[list, list[tuple[int, int]]]:
    """Completions, and the (prompts, rows) that were decoded at each step."""
    shapes, decode = [], vlm.decode

    def spied(token_ids: torch.Tensor, *arguments: object) -> torch.Tensor:
        shapes.append(tuple(token_ids.shape))
        return decode(token_ids, *arguments)

    vlm.decode = spied
    groups = write(vlm, records, **settings)
    vlm.decode = decode
    return groups, shapes


@FAMILY
def test_finished_rows_are_retired_and_results_do_not_change(family: str, monkeypatch: pytest.MonkeyPatch):
    """A cache gathered with the wrong rows writes other tokens; without retiring, time is spent on finished rows."""
    vlm, records = policy(family), prompts(family)
    settings = {"group": 8, "max_new_tokens": 24}
    retired, shapes = decoded_rows(vlm, records, **settings)
    monkeypatch.setattr(cohorts, "RETIRE_SHARE", 0.0)
    kept, all_shapes = decoded_rows(vlm, records, **settings)
    monkeypatch.setattr(cohorts, "RETIRE_SHARE", 1.0)
    eager, eager_shapes = decoded_rows(vlm, records, **settings)
    assert set(all_shapes) == {(3, 8)}
    assert len(shapes) == len(all_shapes) and shapes[0] == (3, 8)
    assert len(set(shapes)) > 3 and shapes[-1][0] < 3 and shapes[-1][1] < 8  # prompts and rows went
    assert sum(p * r for p, r in eager_shapes) <= sum(p * r for p, r in shapes) < 0.7 * 24 * len(all_shapes)
    for other in (retired, eager):
        assert ids(other) == ids(kept)
        for one, two in zip(sum(other, []), sum(kept, []), strict=True):
            torch.testing.assert_close(one.logprobs, two.logprobs, rtol=0, atol=1e-5)


def test_decoding_stops_when_all_rows_have_ended():
    """A loop that always runs to the limit: 200 steps for rows of a few tokens. Chance of a row of 120: 1e-7."""
    _, shapes = decoded_rows(policy("qwen3_vl"), prompts("qwen3_vl"), max_new_tokens=200)
    assert len(shapes) < 120
