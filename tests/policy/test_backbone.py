"""Where a policy comes from: the same weights each time, a plain folder that opens again, and clear refusals."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText, AutoProcessor, LlavaConfig

from locus.errors import LocusError
from locus.policy.backbone import Backbone
from locus.policy.logprobs import PackedScorer, SeparateScorer
from locus.policy.reference import FrozenCopy
from locus.policy.vlm import VLM
from locus.types import Frame
from tests.support.models import FAMILIES, backbone, completions, prompts, tiny_vlm

FAMILY = pytest.mark.parametrize("family", FAMILIES)


def same_weights(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    """Bit for bit, under the same names."""
    a, b = one.state_dict(), other.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture(params=FAMILIES)
def saved(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, VLM, Path]:
    """A policy, and the folder it was exported to as a run does it."""
    vlm = tiny_vlm(request.param)
    vlm.model.save_pretrained(tmp_path / "policy")
    backbone(request.param).processor().save_pretrained(tmp_path / "policy")
    return request.param, vlm, tmp_path / "policy"


# --- Weights --------------------------------------------------------------------------------------------------
@FAMILY
def test_load_gives_the_same_weights_each_time(family: str):
    """The reference is loaded a second time: with other weights the KL term is wrong from step 1."""
    one = backbone(family).load()
    torch.rand(5)
    assert same_weights(one, backbone(family).load())


@FAMILY
def test_another_seed_gives_other_weights_and_the_global_generator_is_left_alone(family: str):
    """A seed that is not used; loading that changes the run's other random numbers."""
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    one = backbone(family, seed=1).load()
    assert torch.equal(torch.rand(1), expected)
    other = backbone(family, seed=2).load()
    assert not torch.equal(one.lm_head.weight, other.lm_head.weight)


@FAMILY
def test_embedding_and_head_are_one(family: str):
    """Tied weights that come apart when loaded: half of the gradient would go astray."""
    vlm = backbone(family).load()
    assert vlm.lm_head.weight is vlm.model.get_input_embeddings().weight


@FAMILY
def test_reference_has_no_gradient_and_is_in_evaluation_mode(family: str):
    """A reference that could train; `FrozenCopy` is no module, so that nothing collects its parameters."""
    reference = FrozenCopy(backbone(family).load().train())
    assert not isinstance(reference, torch.nn.Module)
    with reference.on(torch.device("cpu")) as vlm:
        assert not vlm.training and not any(parameter.requires_grad for parameter in vlm.parameters())


def test_a_released_reference_leaves_its_device_and_comes_back(monkeypatch: pytest.MonkeyPatch):
    """A third of a run's memory that stays on the GPU while its report is made."""
    vlm, moves = backbone("qwen3_vl").load(), []
    reference = FrozenCopy(vlm)
    monkeypatch.setattr(vlm, "to", lambda device: moves.append(torch.device(device)))
    for _ in range(2):
        with reference.on(torch.device("cuda", 0)):
            pass
        reference.release()
    assert moves == [torch.device("cuda", 0), torch.device("cpu")] * 2


@FAMILY
def test_the_reference_has_a_type_of_its_own(family: str):
    """Float32 for weights of which nothing trains; bfloat16 for those that train; other weights than the policy's."""
    own = backbone(family, reference_dtype="bfloat16")
    policy, reference = own.load(), own.load_reference()
    assert {parameter.dtype for parameter in policy.parameters()} == {torch.float32}
    assert {parameter.dtype for parameter in reference.parameters()} == {torch.bfloat16}
    assert same_weights(policy.bfloat16(), reference)
    assert {parameter.dtype for parameter in backbone(family).load_reference().parameters()} == {torch.float32}
    with pytest.raises(LocusError, match=r"backbone\.reference_dtype=int8"):
        backbone(family, reference_dtype="int8")


# --- The exported policy --------------------------------------------------------------------------------------
def test_exported_policy_opens_by_path(saved: tuple[str, VLM, Path]):
    """A policy that changes on its way through the folder, or that cannot be trained further."""
    family, vlm, folder = saved
    again = Backbone(frame=FAMILIES[family][1], path=str(folder)).load().eval()
    assert same_weights(vlm, again)
    assert again.end_token_ids == vlm.end_token_ids and again.frame == vlm.frame
    with torch.no_grad():
        one, other = (PackedScorer()(model, prompts(family), completions(), 1.0) for model in (vlm, again))
    assert torch.equal(one.logprobs, other.logprobs)


def test_exported_policy_is_a_plain_transformers_model(saved: tuple[str, VLM, Path]):
    """A folder that only opens where locus is imported: config.json must not name its attention function."""
    family, vlm, folder = saved
    for file in folder.glob("*.json"):
        assert "locus" not in file.read_text(encoding="utf-8"), file.name
    assert list(folder.glob("*.safetensors"))
    stock = AutoModelForImageTextToText.from_pretrained(folder).eval()
    assert stock.config.get_text_config()._attn_implementation == "sdpa"
    record = prompts(family)[0]
    inputs = {
        "input_ids": record.input_ids[None],
        "mm_token_type_ids": record.mm_token_type_ids[None],
        "pixel_values": record.pixel_values,
        "image_grid_thw": record.image_grid_thw,
    }
    with torch.no_grad():
        torch.testing.assert_close(stock(**inputs).logits, vlm.model(**inputs).logits, rtol=0, atol=1e-5)


def test_exported_processor_makes_the_same_prompt(saved: tuple[str, VLM, Path]):
    """A processor saved without its pixel limits, patch size or chat template."""
    family, _, folder = saved
    ours, theirs = backbone(family).processor(), AutoProcessor.from_pretrained(folder)
    assert type(ours) is type(theirs) and ours.chat_template == theirs.chat_template
    for name in ("patch_size", "merge_size", "size", "image_mean", "image_std"):
        assert getattr(ours.image_processor, name) == getattr(theirs.image_processor, name), name
    assert ours.tokenizer.get_vocab() == theirs.tokenizer.get_vocab()
    for text in ("<think>x</think><answer>[1, 22, 333, 1000]</answer>", "two  red , stars  北京 1 2"):
        tokens = theirs.tokenizer.encode(text, add_special_tokens=False)
        assert tokens == ours.tokenizer.encode(text, add_special_tokens=False)
        assert theirs.tokenizer.decode(tokens) == text


def test_path_wins_over_architecture(saved: tuple[str, VLM, Path]):
    """``backbone=tiny backbone.path=<run>/policy`` that starts from random weights."""
    family, vlm, folder = saved
    assert same_weights(vlm, backbone(family, path=str(folder), seed=5).load())


def test_random_weights_take_only_the_folders_configuration(saved: tuple[str, VLM, Path]):
    """``random_weights`` that loads the trained weights after all, or another architecture."""
    family, vlm, folder = saved
    (folder / "model.safetensors").unlink()
    settings = {"frame": FAMILIES[family][1], "path": str(folder), "random_weights": True}
    fresh, again, other = (Backbone(**settings, seed=seed).load() for seed in (3, 3, 4))
    assert same_weights(fresh, again) and not same_weights(fresh, other) and not same_weights(fresh, vlm)
    shapes = [{name: p.shape for name, p in model.named_parameters()} for model in (fresh, vlm)]
    assert shapes[0] == shapes[1]


# --- Settings -------------------------------------------------------------------------------------------------
@FAMILY
def test_bfloat16_weights(family: str):
    """A dtype that is not used; both paths must run in it, and agree to its 8 bits."""
    vlm = tiny_vlm(family, scale=4.0, dtype="bfloat16")
    assert {parameter.dtype for parameter in vlm.parameters()} == {torch.bfloat16}
    with torch.no_grad():
        packed = PackedScorer()(vlm, prompts(family), completions(), 1.0).logprobs
        separate = SeparateScorer()(vlm, prompts(family), completions(), 1.0).logprobs
    assert packed.dtype == torch.float32
    torch.testing.assert_close(packed, separate, rtol=0, atol=0.1)


@FAMILY
def test_end_tokens_and_frame_come_from_the_backbone(family: str):
    """A policy that never ends, or whose frame is another than declared."""
    own = backbone(family)
    vlm = own.load()
    assert vlm.end_token_ids == (own.processor().tokenizer.convert_tokens_to_ids("<|im_end|>"),)
    assert vlm.frame is FAMILIES[family][1]


def test_all_end_tokens_of_the_generation_config_count(saved: tuple[str, VLM, Path]):
    """Published Qwen checkpoints have two; with one of them rollouts run on to the limit. The turn's own comes first:
    it is what supervised steps teach, and without generation_config.json transformers knows another one."""
    family, vlm, folder = saved
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [7, 11]}), encoding="utf-8")
    own = vlm.end_token_ids[0]
    assert Backbone(frame="unit1000", path=str(folder)).load().end_token_ids == (own, 7, 11)
    (folder / "generation_config.json").unlink()
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config["text_config"]["eos_token_id"] = 11
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    assert Backbone(frame="unit1000", path=str(folder)).load().end_token_ids == (own, 11)


@FAMILY
def test_train_vision_freezes_the_tower_alone(family: str):
    """Freezing that takes more or less than the vision tower."""
    for train_vision in (True, False):
        vlm = backbone(family, train_vision=train_vision).load()
        trainable = {name for name, parameter in vlm.named_parameters() if parameter.requires_grad}
        vision = {name for name, _ in vlm.named_parameters() if ".visual." in name}
        assert vision and bool(vision & trainable) == train_vision
        assert {name for name, _ in vlm.named_parameters()} - vision <= trainable


# --- Refusals -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"frame": None}, r"backbone\.frame is not declared"),
        ({"frame": "pixels"}, r"pixels.*file, processed, unit1000.*backbone\.frame"),
        ({"architecture": None}, r"backbone\.path is not set"),
        ({"dtype": "float33"}, r"backbone\.dtype=float33"),
        ({"dtype": "nn"}, r"backbone\.dtype=nn"),
        ({"dtype": "int64"}, r"backbone\.dtype=int64"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(settings: dict, message: str):
    """An undeclared frame (the peers' silent error), an unknown one, no model at all, or a dtype that is none."""
    with pytest.raises(LocusError, match=message) as caught:
        backbone("qwen3_vl", **settings)
    assert "\n" not in str(caught.value)


def refused(path: Path, **settings: object) -> str:
    """The one line that opening this path gives."""
    with pytest.raises(LocusError) as caught:
        Backbone(frame=Frame.UNIT1000, path=str(path), **settings).load()
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    return str(caught.value)


def test_path_that_does_not_exist(tmp_path: Path):
    """A page of traceback from the hub client, about a repository nobody meant."""
    assert "backbone.path" in refused(tmp_path / "nothing")


def test_folder_without_a_model(tmp_path: Path):
    """A run folder given instead of its ``policy`` folder."""
    (tmp_path / "metrics.csv").write_text("step\n", encoding="utf-8")
    assert "backbone.path" in refused(tmp_path)


def truncated(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])


def emptied(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"")


def removed(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def broken_config(folder: Path) -> None:
    (folder / "config.json").write_text("{", encoding="utf-8")


def text_model(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps(config["text_config"] | {"model_type": "gpt2"}), encoding="utf-8")


@pytest.mark.parametrize("damage", [truncated, emptied, removed, broken_config, text_model])
def test_damaged_folder_is_one_line_that_names_it(saved: tuple[str, VLM, Path], damage: Callable[[Path], None]):
    """A copy that was interrupted: safetensors' own error names no file."""
    _, _, folder = saved
    damage(folder)
    assert "backbone.path" in refused(folder)


def test_missing_weights_are_not_made_up(saved: tuple[str, VLM, Path]):
    """transformers fills weights that a file lacks with random numbers and only logs it."""
    _, _, folder = saved
    weights = load_file(folder / "model.safetensors")
    name = next(name for name in weights if name.endswith("layers.1.mlp.down_proj.weight"))
    del weights[name]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    assert "down_proj" in refused(folder)


def test_sliding_window_attention_is_refused():
    """The group attention has no window: scores would differ from the model's own without a word."""
    own = backbone("qwen2_5_vl")
    config = own.architecture.config(own.processor())
    config.text_config.use_sliding_window = True
    with pytest.raises(LocusError, match="sliding-window.*use_sliding_window"):
        VLM(AutoModelForImageTextToText.from_config(config), Frame.PROCESSED, [0])


def test_another_family_is_refused():
    """A model whose parts have other names: an AttributeError in place of what is supported."""
    text = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 1}
    vision = text | {"image_size": 28, "patch_size": 14}
    config = LlavaConfig(
        text_config=text | {"model_type": "llama", "vocab_size": 40},
        vision_config=vision | {"model_type": "clip_vision_model"},
        image_token_id=39,
    )
    with pytest.raises(LocusError, match="Qwen"):
        VLM(AutoModelForImageTextToText.from_config(config), Frame.UNIT1000, [0])
