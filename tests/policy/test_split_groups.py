"""A group in parts is the group: the same log-probs and gradients, in memory that does not grow with the group."""

from __future__ import annotations

import random
import re

import pytest
import torch
from omegaconf import OmegaConf

from locus.errors import LocusError
from locus.policy.dry_run import PeakBytes
from locus.policy.logprobs import CompletionBatch, PackedScorer, Scorer, SeparateScorer, TokenScores
from locus.policy.lora import LoRA
from locus.policy.split_groups import PromptBatch, cut_from_graph, prompt_batches
from locus.policy.vlm import VLM
from tests.support.group_forward import CPU, FAMILY, LOGPROB, RELATIVE, blank_prompt, largest_relative, weighted
from tests.support.models import completions, gradients, prompts, tiny_vlm, token_ids

PARTS = ([[1, 0, 0], [0, 1, 0], [1, 1, 0]], [[0, 1, 1], [1, 0, 0], [0, 0, 0]], [[0, 0, 0], [0, 0, 1], [0, 0, 1]])
"""The rows of three groups in three parts; one part lacks a prompt, one has rows of a single token."""


def in_parts(vlm: VLM, family: str, scorer: Scorer | None = None) -> TokenScores:
    """Scores of `completions` in these parts; with gradient, that of `weighted` gathers on the parameters."""
    scorer, parts = scorer or PackedScorer(), []
    encoded = scorer.encode(vlm, prompts(family), None)
    assert encoded is not None
    with cut_from_graph(encoded) as shared:
        for rows in torch.tensor(PARTS).bool():
            scores = scorer(vlm, prompts(family), completions().only(rows), 1.0, None, shared)
            assert torch.equal(scores.mask.any(-1), rows) and not scores.logprobs[~scores.mask].any()
            parts.append(scores)
            if torch.is_grad_enabled():
                weighted(scores).backward()
    return TokenScores.joined(parts)


# --- Exactness ------------------------------------------------------------------------------------------------
@FAMILY
@pytest.mark.parametrize("train_vision", [True, False])
@pytest.mark.parametrize("settings", ["full", "checkpointed", "adapters"])
def test_gradients_in_parts_are_those_of_the_whole(family: str, train_vision: bool, settings: str):
    """A part's gradient that does not reach the prompt, its pictures or DeepStack, or reaches them twice."""
    vlm = tiny_vlm(family, train_vision=train_vision, gradient_checkpointing=settings == "checkpointed").train()
    if settings == "adapters":
        LoRA(rank=4)(vlm)
        generator = torch.Generator().manual_seed(0)
        for layer in vlm.adapters.values():
            layer.lora_B["default"].weight.data.normal_(std=0.3, generator=generator)  # at 0, A has no gradient
    whole = gradients(vlm, lambda: weighted(PackedScorer()(vlm, prompts(family), completions(), 1.0)))
    assert whole.keys() == {name for name, parameter in vlm.named_parameters() if parameter.requires_grad}
    vlm.zero_grad()
    scores = in_parts(vlm, family)
    found = {name: parameter.grad for name, parameter in vlm.named_parameters() if parameter.grad is not None}
    assert largest_relative(found, whole) < RELATIVE
    with torch.no_grad():
        expected = PackedScorer()(vlm, prompts(family), completions(), 1.0)
    torch.testing.assert_close(scores.logprobs, expected.logprobs, rtol=0, atol=LOGPROB)


@FAMILY
def test_scores_in_parts_are_those_of_the_whole(family: str):
    """Without gradient, as for reference and old log-probs; plain rows, which share nothing, are an independent way."""
    vlm, batch = tiny_vlm(family), completions()
    assert SeparateScorer().encode(vlm, prompts(family), None) is None
    with torch.no_grad():
        found = in_parts(vlm, family)
        plain = [SeparateScorer()(vlm, prompts(family), batch.only(rows), 1.0) for rows in torch.tensor(PARTS).bool()]
    for expected in (PackedScorer()(vlm, prompts(family), batch, 1.0), TokenScores.joined(plain)):
        torch.testing.assert_close(found.logprobs, expected.logprobs, rtol=0, atol=LOGPROB)
        torch.testing.assert_close(found.entropy, expected.entropy, rtol=0, atol=5e-5)
        assert torch.equal(found.mask, batch.mask) and torch.equal(expected.mask, batch.mask)


def test_an_error_in_a_part_leaves_the_prompt_alone():
    """A loss that is not finite ends the update: the gradient so far must not run through the prompt for nothing."""
    vlm = tiny_vlm("qwen3_vl")
    encoded = vlm.encode(prompts("qwen3_vl"))
    with pytest.raises(ZeroDivisionError), cut_from_graph(encoded) as shared:
        shared.prefill.keys[0].sum().backward()
        raise ZeroDivisionError
    assert all(parameter.grad is None for parameter in vlm.parameters())


def test_no_completion_at_all_scores_nothing():
    """Rows that are all padding are allowed; together they are an empty part."""
    vlm, records = tiny_vlm("qwen3_vl"), prompts("qwen3_vl")
    ids = torch.zeros(len(records), 2, 3, dtype=torch.long)
    scores = PackedScorer()(vlm, records, CompletionBatch(ids, torch.zeros_like(ids, dtype=torch.bool)), 1.0)
    assert scores.logprobs.shape == ids.shape and not scores.logprobs.any()
    scores.logprobs.sum().backward()


# --- Work and memory ------------------------------------------------------------------------------------------
@FAMILY
def test_only_real_tokens_go_through_the_layers(family: str):
    """One completion of 40 tokens among some of 2 and 3: padded, 12 rows of 39 tokens, 468 in place of 52."""
    vlm, records, tokens = tiny_vlm(family), prompts(family), []
    batch = CompletionBatch.of(token_ids(((2, 3, 2, 3), (3, 40, 2, 2), (3, 2, 3, 2))), CPU)
    first = vlm.model.model.language_model.layers[0].mlp
    first.register_forward_pre_hook(lambda module, inputs: tokens.append(inputs[0].shape[:-1].numel()))
    with torch.no_grad():
        PackedScorer()(vlm, records, batch, 1.0)
    assert tokens == [3 * max(record.length for record in records), int(batch.mask.sum()) - 12]


@pytest.mark.parametrize("train_vision", [True, False])
def test_memory_of_an_update_does_not_grow_with_the_group(train_vision: bool):
    """At the budget that 4 completions fill, 32 take at most 1.2 times their peak; at once they take far more."""
    vlm = tiny_vlm("qwen3_vl", train_vision=train_vision)
    (record, *_), peaks = prompts("qwen3_vl", (((160, 128), (8, 12, 40, 44)),)), {}
    budget = record.length + 4 * 32
    for group, limit in ((4, budget), (32, budget), (32, 10_000)):
        vlm.zero_grad()
        batch = CompletionBatch.of(token_ids([[32] * group]), CPU)
        with PeakBytes() as memory:
            for part in prompt_batches([record], [[32] * group], limit):
                with cut_from_graph(vlm.encode([record])) as shared:
                    for rows in part.parts:
                        PackedScorer()(vlm, [record], batch.only(rows), 1.0, None, shared).logprobs.sum().backward()
        peaks[group, limit] = memory.peak
    assert peaks[32, budget] < 1.2 * peaks[4, budget] < 0.6 * peaks[32, 10_000], peaks


# --- What is scored together ----------------------------------------------------------------------------------
def as_lists(batches: list[PromptBatch]) -> list[tuple[list[int], list[list[list[int]]]]]:
    return [(batch.groups, [part.int().tolist() for part in batch.parts]) for batch in batches]


def test_batches_by_hand():
    """Prompts of 10, 30 and 20 with completions of 8 and 2: 60 padded tokens of the shorter two, 40 of the longest; a
    group that does not fit follows its prompt in parts, longest first."""
    three, both = [blank_prompt("a", 10), blank_prompt("b", 30), blank_prompt("c", 20)], [[1, 1]]
    lengths = [[2, 8], [8, 2], [2, 8]]
    assert as_lists(prompt_batches(three, lengths, 60)) == [([0, 2], [both * 2]), ([1], [both])]
    assert as_lists(prompt_batches(three, lengths, 120)) == [([0, 2, 1], [both * 3])]
    assert as_lists(prompt_batches(three, lengths, 39)) == [([0], [both]), ([1], [[[1, 0]], [[0, 1]]]), ([2], [both])]
    assert as_lists(prompt_batches(three[:1], [[3, 6, 1, 2]], 17)) == [([0], [[[0, 1, 0, 0]], [[1, 0, 1, 1]]])]
    assert prompt_batches([], [], 40) == []


@pytest.mark.parametrize("seed", range(20))
def test_budget_is_kept_and_nothing_is_lost(seed: int):
    """Padding that is not counted, a row dropped or scored twice, a group split that need not be."""
    rng = random.Random(seed)
    records = [blank_prompt(str(i), rng.randrange(1, 300)) for i in range(rng.randrange(1, 40))]
    lengths = [[rng.randrange(1, 100) for _ in range(4)] for _ in records]
    budget = rng.randrange(400, 2000)
    batches = prompt_batches(records, lengths, budget)
    assert sorted(i for batch in batches for i in batch.groups) == list(range(len(records)))
    for batch in batches:
        sizes = torch.tensor([lengths[i] for i in batch.groups])
        padded = len(batch.groups) * max(records[i].length for i in batch.groups)
        assert torch.stack(batch.parts).sum(0).eq(1).all()
        assert all(padded + int(sizes[part].sum()) <= budget for part in batch.parts)
        assert len(batch.parts) == 1 or (len(batch.groups) == 1 and padded + int(sizes.sum()) > budget)


def test_the_same_batches_in_any_order():
    """Sums in floating point depend on who is with whom: permuting a batch must not, also among equal lengths."""
    rng = random.Random(0)
    records = [blank_prompt(f"p{i:02d}", 10 * rng.randrange(1, 4)) for i in range(24)]
    lengths = [[rng.randrange(1, 30) for _ in range(3)] for _ in records]

    def names(order: list[int]) -> list:
        batches = prompt_batches([records[i] for i in order], [lengths[i] for i in order], 80)
        return [([records[order[i]].prompt_id for i in groups], parts) for groups, parts in as_lists(batches)]

    first = names(list(range(24)))
    assert len(first) > 3 and any(len(parts) > 1 for _, parts in first)
    for _ in range(20):
        assert names(rng.sample(range(24), 24)) == first


def test_a_prompt_with_one_completion_above_the_budget(compose_app):
    """Cut, its image tokens would no longer fit its pixels: it is refused by name, with the keys that help."""
    records = [blank_prompt("small", 10), blank_prompt("coco-9-51", 91)]
    assert len(prompt_batches(records, [[9, 9]] * 2, 100)[0].parts) == 2  # each exactly the budget
    with pytest.raises(LocusError) as caught:
        prompt_batches(records, [[9, 10]] * 2, 100)
    message = str(caught.value)
    assert "coco-9-51" in message and "101 tokens" in message and "100" in message and "small" not in message
    keys, config = re.findall(r"[a-z_]+\.[a-z_.]+[a-z_]", message), compose_app("train")
    assert "rollout.token_budget" in keys and len(keys) == 3
    for key in keys:  # a remedy that names no key of the configuration is none
        group, _, name = key.rpartition(".")
        assert name in OmegaConf.select(config, group), key
