"""Qwen3.5 behind the contract: layers with a state share the prompt exactly, in scores, gradients and rollouts."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForImageTextToText

from locus.errors import LocusError
from locus.policy.families.qwen3_5 import Qwen3_5
from locus.policy.families.qwen_vl import QwenVL
from locus.policy.inference import inference_policy
from locus.policy.linear_attention import LayerState, after_padding
from locus.policy.logprobs import CompletionBatch, PackedScorer, SeparateScorer
from locus.policy.lora import LoRA, merged_state
from locus.policy.rollouts import RolloutDecoding, encode_in_parts, sample_groups, sample_in_turn
from locus.policy.split_groups import cut_from_graph
from locus.policy.vlm import VLM
from locus.types import Completion, Frame, Sampling
from tests.support.group_forward import CPU, LOGPROB, RELATIVE, generated, largest_relative, stock_model, weighted
from tests.support.hybrid import TinyQwen3_5, hybrid_backbone, hybrid_vlm
from tests.support.models import LENGTHS, SMALLEST, backbone, completions, gradients, prompts, token_ids

SINGLE = ((2, 1, 1), (1, 1, 2), (1, 2, 1))
"""Rows of which one token is fed, which a layer takes for decoding, or none."""


@pytest.fixture(scope="module")
def vlm() -> VLM:
    """Three layers: linear, full, linear."""
    return hybrid_vlm()


# --- Scores and gradients -------------------------------------------------------------------------------------
@pytest.mark.parametrize("lengths", [LENGTHS, SINGLE])
def test_the_group_forward_is_that_of_plain_rows(vlm: VLM, lengths: tuple):
    """A state that has seen padding, another prompt or a sibling; or one whose gradient does not reach the prompt."""
    records, batch = prompts("qwen3_vl"), completions(lengths)
    objectives = {
        scorer: gradients(vlm, lambda scorer=scorer: weighted(scorer()(vlm, records, batch, 1.0)))
        for scorer in (PackedScorer, SeparateScorer)
    }
    assert largest_relative(objectives[PackedScorer], objectives[SeparateScorer]) < RELATIVE
    with torch.no_grad():
        packed, plain = (scorer()(vlm, records, batch, 1.0) for scorer in objectives)
    torch.testing.assert_close(packed.logprobs, plain.logprobs, rtol=0, atol=LOGPROB)


def test_what_the_first_layers_state_remembers_matters(vlm: VLM):
    """A model that forgets its prompt within some tokens would pass every test here with any state at all."""
    (record, *_), batch = prompts("qwen3_vl"), completions(((3, 3),))
    encoded = vlm.encode([record])
    encoded.prefill.states[0] = LayerState(
        *(torch.zeros_like(part) for part in vars(encoded.prefill.states[0]).values())
    )
    with torch.no_grad():
        forgotten = PackedScorer()(vlm, [record], batch, 1.0, encoded=encoded).logprobs
        scores = PackedScorer()(vlm, [record], batch, 1.0).logprobs
    assert (forgotten - scores)[..., 1:].abs().min() > 1e-3


def test_gradients_in_parts_and_recomputed_are_those_of_the_whole(vlm: VLM):
    """States cut from the graph without their gradient; states kept twice when a layer is run again."""
    records, batch = prompts("qwen3_vl"), completions()

    def whole(policy: VLM) -> dict[str, torch.Tensor]:
        return gradients(policy, lambda: weighted(PackedScorer()(policy, records, batch, 1.0)))

    expected = whole(vlm)
    vlm.zero_grad()
    with cut_from_graph(vlm.encode(records)) as shared:
        for rows in torch.tensor([[[1, 0, 0]] * 3, [[0, 1, 1]] * 3]).bool():
            weighted(PackedScorer()(vlm, records, batch.only(rows), 1.0, None, shared)).backward()
    in_parts = {name: p.grad for name, p in vlm.named_parameters() if p.grad is not None}
    assert largest_relative(in_parts, expected) < RELATIVE
    recomputed = hybrid_vlm(gradient_checkpointing=True).train()
    assert recomputed.recomputes and largest_relative(whole(recomputed), expected) < RELATIVE


def test_padding_behind_a_row_by_hand():
    """A state that halves with each token, zeros too: rows 1 2 and 1 2 3 leave 2.5 and 4.25, whatever the padding."""

    def halving(rows: torch.Tensor, state: LayerState | None, mask: torch.Tensor | None) -> tuple:
        assert state is None and mask is not None
        sums, outputs = torch.zeros(len(rows), 1), []
        for step in (rows * mask[..., None]).unbind(1):
            sums = sums / 2 + step
            outputs.append(sums)
        return torch.stack(outputs, 1), LayerState(sums, sums)

    inputs, mask = torch.tensor([[1.0, 2, 9], [1, 2, 3]])[..., None], torch.tensor([[1, 1, 0], [1, 1, 1]]).bool()
    outputs, state = after_padding(inputs, mask, halving)
    assert state.recurrent[:, 0].tolist() == [2.5, 4.25]
    assert outputs[mask][:, 0].tolist() == [1, 2.5, 1, 2.5, 4.25]


# --- Rollouts -------------------------------------------------------------------------------------------------
def test_greedy_rollouts_are_those_of_transformers_generate():
    """An independent implementation: the stock model with its own cache of states, one prompt at a time."""
    vlm, records = hybrid_vlm(), prompts("qwen3_vl")
    vlm.end_token_ids = tuple(range(0, 1800, 12))
    sampling = Sampling(temperature=0, max_new_tokens=16)
    groups = sample_groups(vlm, records, vlm.encode(records), 1, sampling, seed=0, step=0)
    stock = stock_model(vlm)
    for record, (completion,) in zip(records, groups, strict=True):
        assert completion.token_ids.tolist() == generated(stock, vlm, record, 16)


def test_rollouts_in_turn_are_those_scored_whatever_the_budget_and_the_step():
    """Rows that leave, prompts that wait, several cohorts, fixed slots: a state that goes to another row."""
    vlm, records = hybrid_vlm(), prompts("qwen3_vl")
    vlm.end_token_ids = tuple(range(0, 1800, 9))  # rows end at different lengths
    sampling, least = Sampling(max_new_tokens=12), max(record.length for record in records) + 4 * 11

    def written(budget: int, step: str) -> list[list[Completion]]:
        with torch.no_grad():
            return sample_in_turn(
                vlm,
                records,
                lambda indices: encode_in_parts(vlm, [records[i] for i in indices], 4000),
                *(4, sampling, 1, 2, RolloutDecoding(budget, step)),
            )

    whole, *others = (
        written(budget, step) for budget, step in ((9999, "dynamic"), (least, "dynamic"), (least, "static"))
    )
    for other in others:
        for one, group in zip(whole, other, strict=True):
            assert [c.token_ids.tolist() for c in one] == [c.token_ids.tolist() for c in group]
    batch = CompletionBatch.of([[c.token_ids for c in group] for group in whole], CPU)
    assert len(set(batch.mask.sum(-1).flatten().tolist())) > 2
    with torch.no_grad():
        scored = PackedScorer()(vlm, records, batch, 1.0).logprobs[batch.mask]
    torch.testing.assert_close(torch.cat([c.logprobs for group in whole for c in group]), scored, rtol=0, atol=1e-4)


def test_adapters_are_in_both_kinds_of_layers_and_merge_exactly():
    """Adapters that miss the layers of linear attention, three quarters of the model, or are lost in the export."""
    vlm, records, batch = hybrid_vlm(), prompts("qwen3_vl"), CompletionBatch.of(token_ids(((5, 3),)), CPU)
    LoRA(rank=2)(vlm)
    kinds = {name.split(".")[4] for name in vlm.adapters if ".layers." in name and "language_model" in name}
    assert kinds == {"linear_attn", "self_attn", "mlp"}
    with torch.no_grad():
        for layer in vlm.adapters.values():
            layer.lora_B.default.weight.normal_(std=0.05, generator=torch.Generator().manual_seed(1))
        expected = PackedScorer()(vlm, records[:1], batch, 1.0).logprobs
        rolled = PackedScorer()(inference_policy(vlm), records[:1], batch, 1.0).logprobs
        exported = hybrid_backbone().load().eval()
        exported.model.load_state_dict(merged_state(vlm))
        merged = PackedScorer()(exported, records[:1], batch, 1.0).logprobs
    for found in (rolled, merged):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


# --- Refusals -------------------------------------------------------------------------------------------------
def test_a_family_that_is_not_the_models_is_refused():
    """Layers of linear attention under Qwen3-VL's contract would run completions one behind another, without a word."""
    own = hybrid_backbone()
    hybrid = AutoModelForImageTextToText.from_config(TinyQwen3_5(**SMALLEST).config(own.processor()))
    with pytest.raises(LocusError, match=r"linear_attention.*backbone\.family"):
        VLM(hybrid, Frame.UNIT1000, [0], family=QwenVL())
    plain = backbone("qwen3_vl")
    with pytest.raises(LocusError, match=r"backbone\.family=Qwen3_5.*leave it out"):
        VLM(plain.load().model, Frame.UNIT1000, [0], family=Qwen3_5())
    with pytest.raises(LocusError, match=r"backbone\.family=qwen3_5 is not a family.*_target_"):
        hybrid_backbone(family="qwen3_5")
