"""The group attention: rollouts see what is scored, completions only their own past, and stock models nothing of it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn.utils.rnn import pad_sequence

from locus.policy.group_attention import NAME
from locus.policy.logprobs import CompletionBatch, PackedScorer
from locus.policy.rollouts import sample_groups
from locus.types import Completion, Sampling
from tests.support.group_forward import CPU, FAMILY, HEADS, LOGPROB, generated, stock_model
from tests.support.models import FAMILIES, LENGTHS, completions, prompts, tiny_vlm, token_ids


# --- Rollouts against scores ----------------------------------------------------------------------------------
@FAMILY
@HEADS
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_rollout_logprobs_are_those_scored(family: str, kv_heads: int, temperature: float):
    """Decoding and scoring that disagree on positions, masks, temperature or retired rows: the ratio is then not 1."""
    vlm, records = tiny_vlm(family, text_kv_heads=kv_heads), prompts(family)
    vlm.end_token_ids = tuple(range(0, 1800, 9))  # rows end at different lengths
    sampling = Sampling(temperature=temperature, max_new_tokens=12)
    with torch.no_grad():
        groups = sample_groups(vlm, records, vlm.encode(records), 4, sampling, seed=0, step=0)
        batch = CompletionBatch.of([[c.token_ids for c in group] for group in groups], CPU)
        scored = PackedScorer()(vlm, records, batch, temperature).logprobs[batch.mask]
    assert len({len(c.token_ids) for group in groups for c in group}) > 2
    written = torch.cat([c.logprobs for group in groups for c in group])
    torch.testing.assert_close(written, scored, rtol=0, atol=1e-4)


@FAMILY
def test_greedy_rollouts_are_those_of_transformers_generate(family: str):
    """An independent implementation: stock model, its own cache, mask and positions, one prompt at a time."""
    vlm, records = tiny_vlm(family), prompts(family)
    vlm.end_token_ids = tuple(range(0, 1800, 12))
    sampling = Sampling(temperature=0, max_new_tokens=24)
    groups = sample_groups(vlm, records, vlm.encode(records), 1, sampling, seed=0, step=0)
    stock = stock_model(vlm)
    for record, (completion,) in zip(records, groups, strict=True):
        assert completion.token_ids.tolist() == generated(stock, vlm, record, 24)
    assert len({len(completion.token_ids) for (completion,) in groups}) > 1  # some end early, and then stop


# --- Invariances ----------------------------------------------------------------------------------------------
@FAMILY
def test_order_of_the_batch_changes_nothing(family: str):
    """Pixels, features, random numbers or padding that go by a prompt's place in the batch."""
    vlm, records, order = tiny_vlm(family), prompts(family), [2, 0, 1]
    vlm.end_token_ids = tuple(range(0, 1800, 9))

    def written(batch: list) -> list[list[Completion]]:
        return sample_groups(vlm, batch, vlm.encode(batch), 3, Sampling(max_new_tokens=10), seed=3, step=7)

    straight, permuted = written(records), written([records[i] for i in order])
    for place, i in enumerate(order):
        for one, other in zip(straight[i], permuted[place], strict=True):
            assert torch.equal(one.token_ids, other.token_ids)
            torch.testing.assert_close(one.logprobs, other.logprobs, rtol=0, atol=LOGPROB)
    with torch.no_grad():
        scores = PackedScorer()(vlm, records, completions(), 1.0).logprobs
        rows = token_ids(LENGTHS)
        shuffled = CompletionBatch.of([rows[i] for i in order], CPU)
        again = PackedScorer()(vlm, [records[i] for i in order], shuffled, 1.0).logprobs
    torch.testing.assert_close(again, scores[order], rtol=0, atol=LOGPROB)


@FAMILY
def test_completions_do_not_see_their_siblings(family: str):
    """A mask that lets a completion attend to another of its group; also one that is longer than before."""
    vlm, records = tiny_vlm(family), prompts(family)[:1]
    (first, second, third), others = token_ids(((6, 6, 6),))[0], token_ids(((6, 9),), seed=1)[0]
    with torch.no_grad():
        scores, changed, longer = (
            PackedScorer()(vlm, records, CompletionBatch.of([[first, other, third]], CPU), 1.0).logprobs[0]
            for other in (second, *others)
        )
    assert (changed[1] - scores[1]).abs().min() > 1e-3  # it did change
    torch.testing.assert_close(changed[[0, 2]], scores[[0, 2]], rtol=0, atol=1e-6)
    torch.testing.assert_close(longer[[0, 2], :6], scores[[0, 2]], rtol=0, atol=LOGPROB)


@FAMILY
def test_a_completion_sees_only_its_own_past(family: str):
    """A mask that is not causal within a completion: the last token would leak into the log-probs before it."""
    vlm, records = tiny_vlm(family), prompts(family)[:1]
    row = token_ids(((6,),))[0][0]
    other = row.clone()
    other[-2] = (other[-2] + 1) % 1500
    with torch.no_grad():
        one, two = (
            PackedScorer()(vlm, records, CompletionBatch.of([[ids, ids]], CPU), 1.0).logprobs[0, 0]
            for ids in (row, other)
        )
    torch.testing.assert_close(one[:-2], two[:-2], rtol=0, atol=1e-6)
    assert (one[-2:] - two[-2:]).abs().min() > 1e-3


@FAMILY
def test_prompt_padding_does_not_matter(family: str):
    """A short prompt beside a long one: its padding is attended to, or its next position is the padded one."""
    vlm, records, batch = tiny_vlm(family), prompts(family), completions()
    assert len({record.length for record in records}) == 3
    with torch.no_grad():
        together = PackedScorer()(vlm, records, batch, 1.0).logprobs
        alone = [
            PackedScorer()(vlm, [record], CompletionBatch(batch.token_ids[[i]], batch.mask[[i]]), 1.0).logprobs[0]
            for i, record in enumerate(records)
        ]
    torch.testing.assert_close(together, torch.stack(alone), rtol=0, atol=LOGPROB)


@FAMILY
def test_pictures_matter(family: str):
    """A forward that loses the pictures agrees with itself in every test above."""
    vlm, batch = tiny_vlm(family), completions(LENGTHS[:1])
    record = prompts(family)[0]
    cut = int(record.image_grid_thw[0].prod())  # the full image's patches
    for part in (slice(0, cut), slice(cut, None)):
        levels = record.pixels.levels.clone()
        levels[part] = levels[part].flip(0)
        flipped = replace(record, pixels=replace(record.pixels, levels=levels))
        with torch.no_grad():
            one, other = (PackedScorer()(vlm, [r], batch, 1.0).logprobs for r in (record, flipped))
        assert (one - other)[batch.mask].abs().mean() > 1e-3


# --- The registered attention without a plan ------------------------------------------------------------------
@FAMILY
def test_without_a_plan_the_model_is_stock_sdpa(family: str):
    """A padding mask that the registered attention ignores: `generate` on a policy would be wrong in batches."""
    vlm, records = tiny_vlm(family), prompts(family)
    assert vlm.model.config.get_text_config()._attn_implementation == NAME
    stock = stock_model(vlm)

    def left_padded(rows: list[torch.Tensor], value: int) -> torch.Tensor:
        return pad_sequence([row.flip(0) for row in rows], True, value).flip(1)

    batch = {
        "input_ids": left_padded([r.input_ids for r in records], vlm.model.config.get_text_config().pad_token_id),
        "attention_mask": left_padded([torch.ones_like(r.input_ids) for r in records], 0),
        "mm_token_type_ids": left_padded([r.mm_token_type_ids for r in records], 0),
        "pixel_values": torch.cat([r.pixel_values for r in records]),
        "image_grid_thw": torch.cat([r.image_grid_thw for r in records]),
    }
    seen = batch["attention_mask"].bool()
    assert not bool(seen.all())
    with torch.no_grad():
        ours, theirs = (model(**batch).logits for model in (vlm.model, stock))
        torch.testing.assert_close(ours[seen], theirs[seen], rtol=0, atol=LOGPROB)
        for row, r in zip(ours, records, strict=True):
            alone = stock(
                input_ids=r.input_ids[None],
                mm_token_type_ids=r.mm_token_type_ids[None],
                pixel_values=r.pixel_values,
                image_grid_thw=r.image_grid_thw,
            ).logits[0]
            torch.testing.assert_close(row[-r.length :], alone, rtol=0, atol=5e-5)


def test_prompt_lengths_of_these_tests_differ():
    """Equal lengths would leave padding untested everywhere above."""
    for family in FAMILIES:
        lengths = [record.length for record in prompts(family)]
        assert len(set(lengths)) == len(lengths)
