"""A base in four bits: its numbers, the group forward and gradients over it, rollouts, export, and what is refused."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from transformers import AutoModelForImageTextToText

from locus.errors import LocusError
from locus.policy.inference import inference_policy
from locus.policy.logprobs import PackedScorer, Scorer, SeparateScorer
from locus.policy.lora import LoRA, adapters_off, merged_state
from locus.policy.vlm import VLM
from tests.support.models import FAMILIES, backbone, completions, gradients, prompts, tiny_vlm

FAMILY = pytest.mark.parametrize("family", FAMILIES)
NEEDED = "bitsandbytes"
# QLoRA (arXiv 2305.14314), appendix E, to six digits.
NF4 = (
    *(-1.0, -0.696193, -0.525073, -0.394917, -0.284441, -0.184773, -0.091050, 0.0),
    *(0.079580, 0.160930, 0.246112, 0.337915, 0.440710, 0.562617, 0.722957, 1.0),
)


def quantized(family: str, trained: bool = True, **settings: object) -> VLM:
    """A policy over a base in four bits, in evaluation mode; ``trained``: its adapters change it."""
    pytest.importorskip(NEEDED)
    vlm = tiny_vlm(family, **settings)
    LoRA(4, 6.0, quantization="nf4")(vlm)
    generator = torch.Generator().manual_seed(0)
    for layer in vlm.adapters.values():
        if trained:
            layer.lora_B["default"].weight.data.normal_(std=0.3, generator=generator)
    return vlm.eval()


def unpacked(vlm: VLM, family: str) -> VLM:
    """The same policy over plain float weights."""
    plain = tiny_vlm(family)
    with adapters_off(vlm):
        base = {name: tensor for name, tensor in vlm.state_dict().items() if ".lora_" in name}
        fresh = tiny_vlm(family)
        LoRA(4, 6.0, quantization="nf4")(fresh)
        plain.model.load_state_dict(merged_state(fresh))
    LoRA(4, 6.0)(plain)
    plain.load_state_dict(base, strict=False)
    return plain.eval()


def logprobs(vlm: VLM, family: str, scorer: Scorer | None = None) -> torch.Tensor:
    """[B, G, T] of the tests' completions."""
    return (scorer or PackedScorer())(vlm, prompts(family), completions(), 1.0).logprobs


# --- Numbers --------------------------------------------------------------------------------------------------
def test_weights_are_those_of_the_paper():
    """Codes in the wrong half of a byte, or scales of other blocks: a block of 64 ends within a row of 96."""
    pytest.importorskip(NEEDED)
    from locus.policy.quantization import NF4Linear

    layer = torch.nn.Linear(96, 7, bias=False)
    torch.nn.init.normal_(layer.weight, generator=torch.Generator().manual_seed(0))
    blocks = F.pad(layer.weight.data.flatten(), (0, -7 * 96 % 64)).reshape(-1, 64)
    scales = blocks.abs().amax(1, keepdim=True)
    codes = torch.tensor(NF4)
    nearest = codes[(blocks / scales)[..., None].sub(codes).abs().argmin(-1)]
    expected = (nearest * scales).flatten()[: 7 * 96].reshape(7, 96)
    found = NF4Linear(layer)
    torch.testing.assert_close(found.dequantized(torch.float32), expected, rtol=1e-5, atol=1e-5)
    assert found.weight.nbytes == 7 * 96 / 2 and found.scales.numel() == len(blocks)


def test_a_product_and_its_gradient_by_hand():
    """A gradient by other weights than the product's; a graph that holds them, or autocast that is not heard."""
    pytest.importorskip(NEEDED)
    from locus.policy.quantization import NF4Linear

    layer = NF4Linear(torch.nn.Linear(64, 48))
    weights, states = layer.dequantized(torch.float32), torch.randn(2, 5, 64, requires_grad=True)
    held: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda one: held.append(one.nbytes) or one, lambda one: one):
        output = layer(states)
    assert sum(held) == layer.weight.nbytes + layer.scales.nbytes
    assert torch.equal(output, F.linear(states, weights, layer.bias))
    output.sin().sum().backward()
    torch.testing.assert_close(states.grad, output.detach().cos() @ weights)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = layer(states)
        assert torch.equal(mixed, F.linear(states, layer.dequantized(torch.bfloat16), layer.bias))
    assert mixed.dtype == torch.bfloat16


@FAMILY
def test_the_group_forward_and_its_gradient(family: str):
    """Both scorers, and the gradient of every adapter, are those of the same policy over plain float weights."""
    vlm = quantized(family)
    plain = unpacked(vlm, family)
    with torch.no_grad():
        packed = logprobs(vlm, family)
        torch.testing.assert_close(packed, logprobs(vlm, family, SeparateScorer()), rtol=0, atol=2e-5)
        torch.testing.assert_close(packed, logprobs(plain, family), rtol=0, atol=2e-5)
        with adapters_off(vlm) as reference:
            assert (logprobs(reference, family) - packed).abs().max() > 0.1
    mine, theirs = (gradients(one, lambda one=one: logprobs(one, family).sum()) for one in (vlm, plain))
    assert mine.keys() == theirs.keys() and all(".lora_" in name for name in mine)
    for name, gradient in mine.items():
        torch.testing.assert_close(gradient, theirs[name], rtol=1e-4, atol=1e-4)


# --- Rollouts and export ----------------------------------------------------------------------------------------
def test_rollouts_keep_the_four_bits():
    """Adapters merged into a copy of all weights, four times their room; or weights that autocast changes again.

    What is made for a phase is not made anew by each rollout in it.
    """
    vlm, records = quantized("qwen3_vl", dtype="bfloat16", train_vision=False), prompts("qwen3_vl")
    before = {name: tensor.clone() for name, tensor in vlm.state_dict().items()}
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
        copied = inference_policy(vlm)
        assert torch.equal(copied.encode(records).hidden, vlm.encode(records).hidden)
        assert copied is not vlm and inference_policy(copied) is copied
    after, given = vlm.state_dict(), {tensor.data_ptr() for tensor in vlm.state_dict().values()}
    assert all(torch.equal(after[name], before[name]) for name in before)
    own = {name: tensor.dtype for name, tensor in copied.state_dict().items() if tensor.data_ptr() not in given}
    assert own == {name: torch.bfloat16 for name in before if ".lora_" in name}
    assert copied.adapters.keys() == vlm.adapters.keys()


@FAMILY
def test_exported_policy_is_the_trained_one(family: str, tmp_path: Path):
    """A folder that only bitsandbytes opens, or the base as it was before it was put into four bits."""
    vlm = quantized(family)
    with torch.no_grad():
        expected = logprobs(vlm, family)
        vlm.model.save_pretrained(tmp_path, state_dict=merged_state(vlm))
        stock = AutoModelForImageTextToText.from_pretrained(tmp_path)
        assert stock.state_dict().keys() == backbone(family).load().model.state_dict().keys()
        plain = tiny_vlm(family)
        plain.model.load_state_dict(stock.state_dict())
        torch.testing.assert_close(logprobs(plain, family), expected, rtol=0, atol=5e-5)
    assert {tensor.dtype for tensor in stock.state_dict().values()} == {torch.float32}


def test_layers_without_adapters_are_in_four_bits_too():
    """weights.targets that names a few layers would leave the rest in 16 bits, or out of the export."""
    pytest.importorskip(NEEDED)
    vlm = tiny_vlm("qwen3_vl", train_vision=False)
    LoRA(4, targets=r".*\.[qv]_proj", quantization="nf4")(vlm)
    packed = {name for name, one in vlm.named_parameters() if one.dtype == torch.uint8}
    assert len(packed) == 7 * 2 and not any("lm_head" in name or "visual" in name for name in packed)
    merged, stock = merged_state(vlm), backbone("qwen3_vl").load().model.state_dict()
    assert {name: one.shape for name, one in merged.items()} == {name: one.shape for name, one in stock.items()}


# --- Refusals -------------------------------------------------------------------------------------------------
def test_what_is_not_installed_is_said_at_once(monkeypatch: pytest.MonkeyPatch):
    """A traceback from within, or one after sixteen gigabytes are loaded."""
    monkeypatch.setitem(sys.modules, NEEDED, None)
    with pytest.raises(LocusError, match=r"weights\.quantization=nf4 needs bitsandbytes: pip install"):
        LoRA(quantization="nf4")


def test_another_kind_is_refused():
    """int8 that is taken for none."""
    with pytest.raises(LocusError, match=r"weights\.quantization=int8: give one of nf4"):
        LoRA(quantization="int8")
