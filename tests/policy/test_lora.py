"""Low-rank adapters: nothing at first, then only they train; switched off, exported and refused as they should be."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForImageTextToText

from locus.errors import LocusError
from locus.policy.backbone import Backbone
from locus.policy.logprobs import PackedScorer, Scorer, SeparateScorer
from locus.policy.lora import LoRA, adapters_off, fingerprint, frozen_state, merged_state
from locus.policy.vlm import VLM
from tests.support.models import FAMILIES, backbone, completions, gradients, prompts, tiny_vlm

FAMILY = pytest.mark.parametrize("family", FAMILIES)
RANK, ALPHA = 4, 6.0


def adapted(family: str, trained: bool = True, dropout: float = 0.0, **settings: object) -> VLM:
    """A policy with adapters, in evaluation mode; ``trained``: B is far from zero."""
    vlm = tiny_vlm(family, **settings)
    LoRA(RANK, ALPHA, dropout)(vlm)
    generator = torch.Generator().manual_seed(0)
    for layer in vlm.adapters.values():
        if trained:
            layer.lora_B["default"].weight.data.normal_(std=0.3, generator=generator)
    return vlm.eval()


def logprobs(vlm: VLM, family: str, scorer: Scorer | None = None) -> torch.Tensor:
    """[B, G, T] of the tests' completions."""
    return (scorer or PackedScorer())(vlm, prompts(family), completions(), 1.0).logprobs


@pytest.fixture(autouse=True)
def no_gradient(request: pytest.FixtureRequest) -> Iterator[None]:
    """Most tests only look."""
    with torch.set_grad_enabled("gradient" in request.node.name):
        yield


# --- What it adds ---------------------------------------------------------------------------------------------
@FAMILY
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_fresh_adapters_change_nothing(family: str, dtype: str):
    """Training that starts from another policy than the backbone: every bit of its log-probs is the backbone's."""
    base, vlm = tiny_vlm(family, dtype=dtype), adapted(family, trained=False, dtype=dtype)
    assert type(vlm.model) is type(base.model)
    assert torch.equal(logprobs(vlm, family), logprobs(base, family))


@FAMILY
def test_both_scorers_see_the_adapters(family: str):
    """A group forward that passes the adapters by."""
    vlm = adapted(family)
    packed = logprobs(vlm, family)
    torch.testing.assert_close(packed, logprobs(vlm, family, SeparateScorer()), rtol=0, atol=2e-5)
    assert (packed - logprobs(tiny_vlm(family), family)).abs().max() > 0.1


@FAMILY
def test_a_layer_by_hand(family: str):
    """W x + (alpha / rank) B A x: a scale that is left out, or squared."""
    vlm = adapted(family)
    layer = vlm.adapters["model.language_model.layers.0.mlp.up_proj"]
    x = torch.randn(5, layer.base_layer.in_features)
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    assert a.shape[0] == RANK
    expected = x @ layer.base_layer.weight.T + (x @ a.T @ b.T) * (ALPHA / RANK)
    torch.testing.assert_close(layer(x), expected, rtol=1e-5, atol=1e-5)


@FAMILY
@pytest.mark.parametrize("train_vision", [True, False])
def test_where_gradient_and_adapters_are(family: str, train_vision: bool):
    """backbone.train_vision that LoRA ignores; a backbone weight, or the tied head, that trains along."""
    vlm = adapted(family, train_vision=train_vision)
    parts = {name.split(".")[1] for name in vlm.adapters}
    assert parts == ({"language_model", "visual"} if train_vision else {"language_model"})
    linear = {
        name
        for name, part in tiny_vlm(family).model.named_modules()
        if isinstance(part, torch.nn.Linear) and name.split(".")[:2][-1] in parts
    }
    assert set(vlm.adapters) == linear
    found = gradients(vlm, lambda: logprobs(vlm, family).sum())
    trainable = {name for name, parameter in vlm.named_parameters() if parameter.requires_grad}
    assert set(found) == trainable == {name for name, _ in vlm.named_parameters() if ".lora_" in name}
    assert all(gradient.abs().max() > 0 for gradient in found.values())


@FAMILY
@pytest.mark.parametrize("train_vision", [True, False])
def test_gradient_is_the_merged_models(family: str, train_vision: bool):
    """An independent implementation: d / dB is (alpha / rank) (d / dW) A^T, with W of the plain merged model."""
    vlm = adapted(family, train_vision=train_vision)
    plain = tiny_vlm(family, train_vision=train_vision)
    plain.model.load_state_dict(merged_state(vlm), strict=False)
    mine, merged = (gradients(model, lambda model=model: logprobs(model, family).sum()) for model in (vlm, plain))
    for name, layer in vlm.adapters.items():
        a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
        full = merged[f"model.{name}.weight"] * (ALPHA / RANK)
        for factor, expected in {"A": b.T @ full, "B": full @ a.T}.items():
            found = mine[f"model.{name}.lora_{factor}.default.weight"]
            assert (found - expected).norm() < 2e-4 * expected.norm(), (name, factor)


@FAMILY
def test_gradient_checkpointing(family: str):
    """With a frozen embedding no input of a checkpointed layer wants a gradient: some checkpoints then give none."""
    plain = adapted(family, train_vision=False).train()
    again = adapted(family, train_vision=False, gradient_checkpointing=True).train()
    one, other = (gradients(vlm, lambda vlm=vlm: logprobs(vlm, family).sum()) for vlm in (plain, again))
    assert one.keys() == other.keys()
    for name, gradient in one.items():
        torch.testing.assert_close(other[name], gradient, rtol=1e-4, atol=1e-5)


def test_seed_and_the_global_generator():
    """Adapters that begin alike whatever the seed, or that change the run's other random numbers."""
    torch.manual_seed(0)
    expected = torch.rand(1)
    states = []
    for seed in (1, 1, 2):
        vlm = backbone("qwen3_vl").load()
        torch.manual_seed(0)
        LoRA(RANK, seed=seed)(vlm)
        assert torch.equal(torch.rand(1), expected)
        states.append(torch.cat([p.flatten() for p in vlm.parameters() if p.requires_grad]))
    assert torch.equal(states[0], states[1]) and not torch.equal(states[0], states[2])


def test_dropout_only_while_training():
    """Rollouts drawn from a policy with holes; training without any although they were asked for."""
    vlm = adapted("qwen3_vl", dropout=0.5)
    assert vlm.drops_out and not adapted("qwen3_vl").drops_out
    first = logprobs(vlm, "qwen3_vl")
    assert torch.equal(first, logprobs(vlm, "qwen3_vl"))
    assert not torch.equal(first, logprobs(vlm.train(), "qwen3_vl"))


def test_bfloat16_backbone_has_float32_adapters():
    """At a small rate bfloat16 adapters lose their updates to rounding, and do not learn."""
    vlm = adapted("qwen3_vl", dtype="bfloat16")
    assert {p.dtype for p in vlm.parameters() if p.requires_grad} == {torch.float32}
    assert {p.dtype for p in vlm.parameters() if not p.requires_grad} == {torch.bfloat16}


# --- Off ------------------------------------------------------------------------------------------------------
@FAMILY
def test_off_is_the_backbone_and_on_again(family: str):
    """The reference of a run: the backbone to the last bit; afterwards, and after an error, the policy is as before."""
    vlm, base = adapted(family), tiny_vlm(family)
    before, trainable = logprobs(vlm, family), [p.requires_grad for p in vlm.parameters()]
    with adapters_off(vlm) as reference:
        assert torch.equal(logprobs(reference, family), logprobs(base, family))
        assert not any(p.requires_grad for p in reference.parameters())
    with pytest.raises(ZeroDivisionError), adapters_off(vlm):
        raise ZeroDivisionError
    assert torch.equal(logprobs(vlm, family), before)
    assert [p.requires_grad for p in vlm.parameters()] == trainable


@FAMILY
def test_gradient_of_a_graph_that_is_older_than_the_reference(family: str):
    """Prompts encoded before the reference is asked serve the update after: their gradient must not be lost."""
    vlm = adapted(family)

    def between(asked: bool) -> torch.Tensor:
        encoded = vlm.encode(prompts(family))
        if asked:
            with adapters_off(vlm), torch.no_grad():
                logprobs(vlm, family)
        return PackedScorer()(vlm, prompts(family), completions(), 1.0, encoded=encoded).logprobs.sum()

    plain, asked = (gradients(vlm, lambda asked=asked: between(asked)) for asked in (False, True))
    assert plain.keys() == asked.keys() and all(torch.equal(plain[name], asked[name]) for name in plain)


# --- Out of it ------------------------------------------------------------------------------------------------
@FAMILY
@pytest.mark.parametrize("train_vision", [True, False])
def test_exported_policy_is_the_trained_one(family: str, train_vision: bool, tmp_path: Path):
    """A folder of the backbone without its adapters, or that needs peft to open; training that an export disturbs."""
    vlm = adapted(family, train_vision=train_vision)
    before, expected = copy.deepcopy(vlm.state_dict()), logprobs(vlm, family)
    vlm.model.save_pretrained(tmp_path, state_dict=merged_state(vlm))
    backbone(family).processor().save_pretrained(tmp_path)
    assert all(torch.equal(tensor, before[name]) for name, tensor in vlm.state_dict().items())
    assert torch.equal(logprobs(vlm, family), expected)

    assert not [file.name for file in tmp_path.glob("*adapter*")]
    stock = AutoModelForImageTextToText.from_pretrained(tmp_path)
    plain = tiny_vlm(family)
    assert type(stock) is type(plain.model) and stock.state_dict().keys() == plain.model.state_dict().keys()
    assert stock.lm_head.weight is stock.get_input_embeddings().weight
    again = Backbone(frame=FAMILIES[family][1], path=str(tmp_path)).load().eval()
    torch.testing.assert_close(logprobs(again, family), expected, rtol=0, atol=5e-5)


def test_merging_adds_in_float32():
    """bfloat16 + bfloat16 rounds the small addend first; the sum is rounded once."""
    vlm = adapted("qwen3_vl", dtype="bfloat16")
    name, layer = next(iter(vlm.adapters.items()))
    delta = layer.lora_B["default"].weight.double() @ layer.lora_A["default"].weight.double() * (ALPHA / RANK)
    expected = (layer.base_layer.weight.double() + delta).bfloat16()
    found = merged_state(vlm)[f"{name}.weight"]
    assert found.dtype == torch.bfloat16
    assert (found != expected).float().mean() < 1e-3  # a tie may fall to either side
    assert (layer.base_layer.weight + delta.bfloat16() != expected).float().mean() > 0.01


def test_without_adapters_all_is_as_it_was():
    """Runs of full weights that pay for this, or that leave weights out of their checkpoints."""
    vlm = tiny_vlm("qwen3_vl")
    merged, own = merged_state(vlm), vlm.model.state_dict()
    assert merged.keys() == own.keys() and all(merged[name].data_ptr() == own[name].data_ptr() for name in own)
    assert frozen_state(vlm) == {} and not vlm.drops_out


def test_fingerprint_tells_backbones_apart():
    """Adapters resumed on other weights: the values of any tensor count, adapters do not."""
    vlm = adapted("qwen3_vl")
    first = fingerprint(frozen_state(vlm))
    assert torch.equal(first, fingerprint(frozen_state(adapted("qwen3_vl", trained=False))))
    assert not torch.equal(first, fingerprint(frozen_state(adapted("qwen3_vl", seed=1))))
    vlm.model.model.language_model.norm.weight.mul_(1.001)
    assert not torch.equal(first, fingerprint(frozen_state(vlm)))


# --- Refusals -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rank": 0}, r"weights\.rank=0"),
        ({"rank": 2.5}, r"weights\.rank=2\.5"),
        ({"rank": 16.0}, r"weights\.rank=16\.0"),
        ({"seed": 0.5}, r"weights\.seed=0\.5"),
        ({"alpha": 0.0}, r"weights\.alpha=0\.0"),
        ({"alpha": float("nan")}, r"weights\.alpha=nan"),
        ({"dropout": 1.0}, r"weights\.dropout=1\.0"),
        ({"targets": "("}, r"weights\.targets=\( is not a regular expression"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(settings: dict, message: str):
    """A rank that trains nothing; a traceback from within peft."""
    with pytest.raises(LocusError, match=message):
        LoRA(**settings)


@pytest.mark.parametrize("pattern", ["q_proj", "lm_head", r".*embed_tokens", r".*norm"])
def test_targets_without_a_linear_layer(pattern: str):
    """A name in part, the tied head or another kind of layer: adapters that train nothing, or tear weights apart."""
    with pytest.raises(LocusError, match=r"weights\.targets=.*of no linear layer"):
        LoRA(targets=pattern)(backbone("qwen3_vl").load())


def test_targets_are_where_a_gradient_comes():
    """Adapters on a frozen vision tower, whose layers are called as the language model's, that never train; a pattern
    of all layers, of which none is left for the tower's own."""
    vlm = backbone("qwen2_5_vl", train_vision=False).load()
    LoRA(targets=r".*\.(gate|up|down)_proj")(vlm)
    assert vlm.adapters and all(name.startswith("model.language_model.") for name in vlm.adapters)
    vlm = backbone("qwen2_5_vl", train_vision=True).load()
    LoRA(targets=".*")(vlm)
    assert {name.split(".")[1] for name in vlm.adapters} == {"language_model", "visual"}


def test_chosen_targets():
    """A regular expression that is not heard."""
    vlm = backbone("qwen3_vl", train_vision=False).load()
    LoRA(targets=r".*\.layers\.1\.self_attn\.[qv]_proj")(vlm)
    assert set(vlm.adapters) == {f"model.language_model.layers.1.self_attn.{which}_proj" for which in "qv"}
