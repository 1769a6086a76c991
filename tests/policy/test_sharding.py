"""Ranks that share a policy's weights: as many passes on each, the gradient of one process, and whole copies."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import distributed
from torch.distributed.device_mesh import init_device_mesh

from locus import ranks
from locus.errors import LocusError
from locus.policy.inference import inference_policy
from locus.policy.logprobs import PackedScorer
from locus.policy.sharding import Sharding, clip_gradients, free, shard, whole
from locus.policy.split_groups import PromptBatch, cut_from_graph, in_step
from locus.policy.vlm import VLM
from tests.support.group_forward import FAMILY, largest_relative, weighted
from tests.support.models import completions, gradients, prompts, text_prompt, tiny_vlm
from tests.support.ranks import on_ranks


@FAMILY
@pytest.mark.parametrize("length", [0, 1])
def test_a_pass_without_a_token_to_feed_calls_every_layer(family: str, length: int):
    """A rank whose rows have one token, or none, while the others wait for it to gather the next layer."""
    vlm = tiny_vlm(family)
    batch = completions([[length] * 2] * 3) if length else completions([[2] * 2] * 3).only(torch.zeros(3, 2).bool())
    encoded = vlm.encode(prompts(family))
    expected = vlm.completion_hidden(encoded, batch.token_ids, batch.mask)
    vlm.sharding = Sharding(vlm)
    called = []
    for layer in vlm.model.model.language_model.layers:
        layer.register_forward_hook(lambda layer, *_: called.append(layer))
    with cut_from_graph(encoded) as shared:
        hidden = vlm.completion_hidden(shared, batch.token_ids, batch.mask)
        assert torch.equal(hidden, expected) and called == list(vlm.model.model.language_model.layers)
        hidden.square().sum().backward()
        layers = [one.grad for one in called[0].parameters()]
        assert layers and all(grad is not None and not grad.any() for grad in layers)
        assert all(keys.grad is not None and not keys.grad.any() for keys in shared.prefill.keys)


@pytest.mark.parametrize(
    ("counts", "others", "expected"),
    [([1, 3], [1, 1, 2], [3, 1, 1]), ([2], [], [2]), ([], [2, 1], [2, 1])],
)
def test_every_rank_makes_as_many_passes(
    monkeypatch: pytest.MonkeyPatch, counts: list[int], others: list[int], expected: list[int]
):
    """A wait without end for a rank that has fewer micro-batches; rows that are scored twice, or not at all."""
    monkeypatch.setattr(ranks, "exchanged", lambda own: [own, sorted(others, reverse=True)])
    rows = torch.ones(1, 4, dtype=torch.bool)
    own = [PromptBatch([place], [rows] * count) for place, count in enumerate(counts)]
    found = in_step(own, group=4, idle=7)
    assert [len(batch.parts) for batch in found] == expected
    scored = {batch.groups[0]: sum(int(part.any()) for part in batch.parts) for batch in found}
    assert {place: count for place, count in scored.items() if count} == dict(enumerate(counts))
    assert all(part.shape == (1, 4) for batch in found for part in batch.parts)
    assert {place for place, count in scored.items() if not count} <= {7}


def test_weights_that_are_no_numbers_to_average_are_refused():
    """Parts of quantised weights, which are bytes."""
    vlm = tiny_vlm("qwen3_vl")
    vlm.lm_head.register_parameter("packed", torch.nn.Parameter(torch.zeros(2, dtype=torch.uint8), requires_grad=False))
    with pytest.raises(LocusError, match="fsdp2.*uint8"):
        shard(vlm, None)  # type: ignore[arg-type]


def objective(vlm: VLM, family: str, rank: int) -> torch.Tensor:
    """Of what a rank scores: pictures on rank zero alone."""
    shown, rows = (prompts(family), completions()) if rank == 0 else ([text_prompt(family)], completions([[4, 2]]))
    return weighted(PackedScorer()(vlm, shown, rows, 1.0))


def sharded_gradients(family: str) -> tuple[dict[str, torch.Tensor], float, dict[str, torch.Tensor]]:
    """One rank's work: the summed gradient, its norm, and the weights of a copy."""
    vlm = tiny_vlm(family)
    shard(vlm, init_device_mesh("cpu", (2,)))
    objective(vlm, family, distributed.get_rank()).backward()
    free(vlm)
    trained = [one for one in vlm.parameters() if one.requires_grad]
    found = {name: one.grad.full_tensor() for name, one in vlm.named_parameters() if one.grad is not None}
    norm = clip_gradients(trained, 1e-3)
    clipped = float(torch.stack([one.grad.full_tensor().norm() for one in trained if one.grad is not None]).norm())
    assert abs(clipped - 1e-3) < 1e-7
    rounded = whole(vlm, torch.bfloat16)
    assert rounded.model.get_input_embeddings().weight.dtype == torch.float32
    assert rounded.model.model.language_model.layers[0].mlp.up_proj.weight.dtype == torch.bfloat16
    return found, norm, inference_policy(vlm).state_dict()


@pytest.mark.slow
def test_a_gradient_that_one_rank_alone_has_reaches_all(tmp_path: Path):
    """A vision tower without a gradient on a rank whose prompt has no image: parts that are summed with others'."""
    vlm = tiny_vlm("qwen3_vl")
    expected = gradients(vlm, lambda: objective(vlm, "qwen3_vl", 0) + objective(vlm, "qwen3_vl", 1))
    norm = float(torch.stack([gradient.norm() for gradient in expected.values()]).norm())
    for found, measured, copied in on_ranks(2, sharded_gradients, tmp_path, "qwen3_vl"):
        assert largest_relative({name: found[name] for name in expected}, expected) < 1e-5
        assert not any(gradient.any() for name, gradient in found.items() if name not in expected)
        assert measured == pytest.approx(norm, rel=1e-5)
        assert copied.keys() == vlm.state_dict().keys()
        assert all(torch.equal(copied[name], tensor) for name, tensor in vlm.state_dict().items())
