"""The group forward is exact: one packed row a prompt scores as G separate rows of stock transformers do."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from models import (
    FAMILIES,
    LENGTHS,
    SIZES,
    backbone,
    collator,
    completions,
    gradients,
    prompts,
    sample,
    text_prompt,
    tiny_vlm,
    token_ids,
)
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModelForImageTextToText

from locus.errors import LocusError
from locus.policy import logprobs
from locus.policy.group_attention import NAME
from locus.policy.logprobs import CompletionBatch, PackedScorer, SeparateScorer, TokenScores
from locus.policy.rollouts import sample_groups
from locus.policy.vlm import VLM
from locus.types import Completion, Sampling

FAMILY = pytest.mark.parametrize("family", FAMILIES)
HEADS = pytest.mark.parametrize("kv_heads", [1, 2])  # of two query heads: grouped-query attention, and not
LOGPROB, ENTROPY, RELATIVE = 1e-5, 5e-5, 1e-4
CPU = torch.device("cpu")


def weighted(scores: TokenScores) -> torch.Tensor:
    """A sum in which every token has a weight of its own, so that no two may be swapped unseen."""
    generator = torch.Generator().manual_seed(5)
    return (scores.logprobs * torch.randn(scores.logprobs.shape, generator=generator)).sum()


def largest_relative(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> float:
    """The worst relative difference of any parameter's gradient."""
    assert found.keys() == expected.keys()
    return max(float((found[name] - g).norm() / g.norm()) for name, g in expected.items())


def packed_gradients(vlm: VLM, family: str, chunk: int = 8192) -> dict[str, torch.Tensor]:
    """Gradients of `weighted` through the packed rows."""
    return gradients(vlm, lambda: weighted(PackedScorer(chunk)(vlm, prompts(family), completions(), 1.0)))


def stock_model(vlm: VLM) -> torch.nn.Module:
    """The same weights in a model that knows nothing of the group attention."""
    config = type(vlm.model.config).from_dict(vlm.model.config.to_dict())
    stock = AutoModelForImageTextToText.from_config(config, attn_implementation="sdpa").eval()
    stock.load_state_dict(vlm.model.state_dict())
    return stock


# --- Packed rows against separate rows ------------------------------------------------------------------------
@FAMILY
@HEADS
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_packed_logprobs_are_those_of_separate_rows(family: str, kv_heads: int, temperature: float):
    """A wrong mask, position or image place in the packed row; a temperature that only one path applies."""
    vlm, batch = tiny_vlm(family, text_kv_heads=kv_heads), completions()
    with torch.no_grad():
        packed = PackedScorer()(vlm, prompts(family), batch, temperature)
        separate = SeparateScorer()(vlm, prompts(family), batch, temperature)
    assert packed.logprobs.dtype == torch.float32
    torch.testing.assert_close(packed.logprobs, separate.logprobs, rtol=0, atol=LOGPROB)
    torch.testing.assert_close(packed.entropy, separate.entropy, rtol=0, atol=ENTROPY)
    assert torch.equal(packed.mask, batch.mask) and not packed.logprobs[~batch.mask].any()
    assert packed.entropy[batch.mask].mean() < 6.6  # of ln 1,700 = 7.4: a flat distribution would hide errors


@FAMILY
@pytest.mark.parametrize("temperature", [0.0, 1.0, 0.5])
def test_scores_by_definition(family: str, temperature: float):
    """Log-probs and entropy of softmax(logits / temperature) without the vision tokens, from a stock model's logits.

    Greedy rollouts, temperature 0, are scored at 1.
    """
    vlm, (record, *_), ids = tiny_vlm(family), prompts(family), token_ids(((9,),))[0][0]
    with torch.no_grad():
        logits = stock_model(vlm)(
            input_ids=torch.cat([record.input_ids, ids])[None],
            mm_token_type_ids=torch.cat([record.mm_token_type_ids, torch.zeros_like(ids)])[None],
            pixel_values=record.pixel_values,
            image_grid_thw=record.image_grid_thw,
        ).logits[0, record.length - 1 : -1]
        scores = PackedScorer()(vlm, [record], CompletionBatch.of([[ids]], CPU), temperature)
    allowed = [token for token in range(logits.shape[-1]) if token not in vlm.forbidden.tolist()]
    distribution = torch.distributions.Categorical(logits=logits[:, allowed].double() / (temperature or 1))
    expected = distribution.log_prob(torch.tensor([allowed.index(token) for token in ids]))
    torch.testing.assert_close(scores.logprobs[0, 0], expected.float(), rtol=0, atol=LOGPROB)
    torch.testing.assert_close(scores.entropy[0, 0], distribution.entropy().float(), rtol=0, atol=ENTROPY)


@FAMILY
@HEADS
def test_packed_gradients_are_those_of_separate_rows(family: str, kv_heads: int):
    """A path that the gradient does not take, e.g. through the shared prompt, the pictures or DeepStack."""
    vlm = tiny_vlm(family, text_kv_heads=kv_heads)
    separate = gradients(vlm, lambda: weighted(SeparateScorer()(vlm, prompts(family), completions(), 1.0)))
    packed = packed_gradients(vlm, family)
    assert packed.keys() == {name for name, _ in vlm.named_parameters()}
    assert all(gradient.abs().max() > 0 for gradient in packed.values())
    assert largest_relative(packed, separate) < RELATIVE


@FAMILY
def test_frozen_vision_tower_gets_no_gradient_and_leaves_the_others_unchanged(family: str):
    """A frozen tower that still trains, or freezing that also cuts the language model's gradient."""
    trained = packed_gradients(tiny_vlm(family), family)
    frozen = packed_gradients(tiny_vlm(family, train_vision=False), family)
    assert any(".visual." in name for name in trained)
    text = {name: gradient for name, gradient in trained.items() if ".visual." not in name}
    assert largest_relative(frozen, text) < 1e-6


@FAMILY
def test_completions_of_one_token(family: str):
    """T = 1 feeds no completion token at all: the row is the prompt alone."""
    vlm, batch = tiny_vlm(family), completions(((1, 1), (1, 1), (1, 1)))
    with torch.no_grad():
        packed = PackedScorer()(vlm, prompts(family), batch, 1.0).logprobs
        separate = SeparateScorer()(vlm, prompts(family), batch, 1.0).logprobs
    torch.testing.assert_close(packed, separate, rtol=0, atol=LOGPROB)


@FAMILY
def test_vision_tokens_have_no_probability_when_scored(family: str):
    """Scores that count tokens which are never sampled: the ratio of rollout and update would not be 1."""
    vlm = tiny_vlm(family)
    token = int(vlm.forbidden[0])
    batch = CompletionBatch.of([[torch.tensor([5, 6])]], CPU)
    bias = vlm.lm_head.register_forward_hook(lambda module, inputs, logits: logits.index_fill(-1, vlm.forbidden, 99.0))
    with torch.no_grad():
        biased = PackedScorer()(vlm, prompts(family)[:1], batch, 1.0).logprobs
        bias.remove()
        plain = PackedScorer()(vlm, prompts(family)[:1], batch, 1.0).logprobs
        stray = CompletionBatch.of([[torch.tensor([token])]], CPU)
        assert PackedScorer()(vlm, prompts(family)[:1], stray, 1.0).logprobs.item() < -1e30
    assert torch.equal(biased, plain)


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
        generated = stock.generate(
            input_ids=record.input_ids[None],
            attention_mask=torch.ones_like(record.input_ids[None]),
            mm_token_type_ids=record.mm_token_type_ids[None],
            pixel_values=record.pixel_values,
            image_grid_thw=record.image_grid_thw,
            do_sample=False,
            max_new_tokens=24,
            eos_token_id=list(vlm.end_token_ids),
            suppress_tokens=vlm.forbidden.tolist(),
        )
        assert completion.token_ids.tolist() == generated[0, record.length :].tolist()
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
        pixels = record.pixel_values.clone()
        pixels[part] = pixels[part].flip(0)
        with torch.no_grad():
            one, other = (
                PackedScorer()(vlm, [r], batch, 1.0).logprobs for r in (record, replace(record, pixel_values=pixels))
            )
        assert (one - other)[batch.mask].abs().mean() > 1e-3


# --- Vision features ------------------------------------------------------------------------------------------
@FAMILY
def test_features_passed_in_equal_recomputed_ones(family: str):
    """Features kept from the rollout that land in other places, or of which the DeepStack part is lost."""
    vlm, records, batch = tiny_vlm(family, train_vision=False), prompts(family), completions()
    with torch.no_grad():
        features = [vlm.vision_features([record])[0] for record in records]
        given = PackedScorer()(vlm, records, batch, 1.0, features).logprobs
        computed = PackedScorer()(vlm, records, batch, 1.0).logprobs
    torch.testing.assert_close(given, computed, rtol=0, atol=LOGPROB)


@FAMILY
@pytest.mark.parametrize("wrong", ["too few", "of another prompt"])
def test_features_that_do_not_fit_the_prompt_are_refused(family: str, wrong: str):
    """Features that are scattered into other prompts' places without a word; the total may still be right."""
    vlm, records = tiny_vlm(family), prompts(family)[:2]
    features = vlm.vision_features(records)
    assert len(features[0].embeddings) != len(features[1].embeddings)
    swapped = {"too few": [features[0], features[0]], "of another prompt": features[::-1]}[wrong]
    with pytest.raises(LocusError, match="image features"):
        vlm.encode(records, swapped)


@FAMILY
@pytest.mark.parametrize("images", [True, False])
def test_prompts_without_pictures(family: str, images: bool):
    """A text-only prompt, alone or beside one with pictures, scores as in a row of its own."""
    vlm = tiny_vlm(family)
    records = [text_prompt(family), *(prompts(family)[:1] if images else [text_prompt(family, "Which is it?")])]
    batch = completions(LENGTHS[:2])
    with torch.no_grad():
        packed = PackedScorer()(vlm, records, batch, 1.0).logprobs
        separate = SeparateScorer()(vlm, records, batch, 1.0).logprobs
    torch.testing.assert_close(packed, separate, rtol=0, atol=LOGPROB)


# --- Memory savers and precisions -----------------------------------------------------------------------------
@FAMILY
def test_chunked_head_is_exact(family: str, monkeypatch: pytest.MonkeyPatch):
    """Chunks that drop, repeat or reorder positions, or that lose the gradient; 43 positions in chunks of 16."""
    vlm, batch = tiny_vlm(family), completions()
    assert int(batch.mask.sum()) == 43
    whole = packed_gradients(vlm, family)
    sizes, head_scores = [], logprobs.head_scores

    def spied(policy: VLM, hidden: torch.Tensor, *arguments: object) -> tuple[torch.Tensor, torch.Tensor]:
        sizes.append(len(hidden))
        return head_scores(policy, hidden, *arguments)

    monkeypatch.setattr(logprobs, "head_scores", spied)
    chunked = packed_gradients(vlm, family, chunk=16)
    assert sizes[:3] == [16, 16, 11] and len(sizes) == 6  # each once more in the backward pass
    assert largest_relative(chunked, whole) < 1e-5
    with torch.no_grad():
        one, two = (PackedScorer(chunk=chunk)(vlm, prompts(family), batch, 1.0) for chunk in (8192, 16))
    torch.testing.assert_close(one.logprobs, two.logprobs, rtol=0, atol=1e-5)
    torch.testing.assert_close(one.entropy, two.entropy, rtol=0, atol=1e-5)


@FAMILY
def test_gradient_checkpointing_gives_the_same_gradients(family: str):
    """Checkpointed layers that lose the attention plan, or a setting that does nothing."""
    plain = packed_gradients(tiny_vlm(family).train(), family)
    vlm, calls = tiny_vlm(family, gradient_checkpointing=True).train(), []
    vlm.model.model.language_model.layers[0].mlp.register_forward_pre_hook(lambda *_: calls.append(1))
    checkpointed = packed_gradients(vlm, family)
    assert len(calls) == 4  # prompts and completions, each computed again in the backward pass
    assert largest_relative(checkpointed, plain) < 1e-5


@FAMILY
def test_gradient_checkpointing_with_a_frozen_vision_tower(family: str):
    """Reentrant checkpointing loses all gradients when a layer's input needs none."""
    plain = packed_gradients(tiny_vlm(family, train_vision=False).train(), family)
    vlm = tiny_vlm(family, train_vision=False, gradient_checkpointing=True).train()
    assert largest_relative(packed_gradients(vlm, family), plain) < 1e-5


@FAMILY
def test_bfloat16_autocast_runs_and_is_close(family: str):
    """A dtype that does not fit somewhere under mixed precision; log-probs stay float32."""
    vlm, records = tiny_vlm(family, scale=4.0), prompts(family)
    exact = PackedScorer()(vlm, records, completions(), 1.0)
    with torch.autocast("cpu", torch.bfloat16):
        written = sample_groups(vlm, records, vlm.encode(records), 2, Sampling(max_new_tokens=4), seed=0, step=0)
        mixed = PackedScorer()(vlm, records, completions(), 1.0)
    mixed.logprobs.sum().backward()
    assert mixed.logprobs.dtype == written[0][0].logprobs.dtype == torch.float32
    assert all(bool(p.grad.isfinite().all()) for p in vlm.parameters())
    difference = (mixed.logprobs - exact.logprobs).abs()
    assert 0 < difference.max() < 0.1  # bfloat16 has 8 bits: 2^-8 of logits of size 1 to 5


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


@FAMILY
def test_loaded_vision_tower_uses_sdpa(family: str):
    """The group attention set on the vision tower, where a plan never comes."""
    vlm = backbone(family).load()
    assert vlm.model.config.vision_config._attn_implementation == "sdpa"


def test_prompt_lengths_of_these_tests_differ():
    """Equal lengths would leave padding untested everywhere above."""
    for family in FAMILIES:
        lengths = [record.length for record in collator(family)([sample(*size) for size in SIZES])]
        assert len(set(lengths)) == len(lengths)
