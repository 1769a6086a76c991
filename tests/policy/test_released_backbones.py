"""conf/backbone as released: unshrunk on the meta device, its prompts to the letter, and shrunk for two real steps."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from hydra.utils import instantiate
from PIL import Image
from transformers import AutoModelForImageTextToText

from locus.boxes import parse_frame
from locus.policy.prompts import PixelLimits, PromptBuilder
from locus.policy.vlm import VLM
from tests.support.released import RELEASED, TOKENS, Released
from tests.support.runs import SMALLEST, command, succeeded

NAMES = pytest.mark.parametrize("name", RELEASED)


def on_meta(released: Released) -> VLM:
    """The whole model without its weights, with the ids that it was released with."""
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(released.opened_config())
    return VLM(model, parse_frame("processed"), released.ends, family=released.family)


@NAMES
def test_the_released_architecture_is_taken_whole(name: str, compose_app):
    """A class that the wrapper refuses, or another size than the hub's page gives: conf names the wrong model."""
    released, conf = RELEASED[name], compose_app("train", [f"backbone={name}"]).backbone
    assert conf.path == released.hub
    vlm = on_meta(released)
    assert round(sum(parameter.numel() for parameter in vlm.parameters()) / 1e9, 2) == released.parameters
    assert {released.config[name] for name in TOKENS} == set(vlm.forbidden.tolist())
    assert vlm.end_token_ids == tuple(released.ends)


@NAMES
def test_the_frame_is_that_of_its_class(name: str, compose_app):
    """Qwen3 writes 0 to 1000, Qwen2.5-VL pixels of the processed image; the other one is a silent error."""
    backbone = instantiate(compose_app("train", [f"backbone={name}"]).backbone)
    newer = RELEASED[name].config["model_type"] != "qwen2_5_vl"
    assert backbone.frame == ("unit1000" if newer else "processed")


@NAMES
def test_the_prompt_is_what_the_released_template_writes(name: str):
    """Text around the pictures that the model was not trained with, or an opened thought that is not seen."""
    released = RELEASED[name]
    builder = PromptBuilder(released.processor(), PixelLimits())
    image = "<|vision_start|><|image_pad|><|vision_end|>"
    before, after = builder._around_text(2)
    assert before == f"{released.before}<|im_start|>user\n{image}{image}"
    assert after == f"<|im_end|>\n<|im_start|>assistant\n{released.opened}"
    assert builder.opened == released.opened
    side = builder.patch_size * builder.processor.image_processor.merge_size
    assert side == (32 if "qwen3" in name else 28)


@pytest.mark.parametrize("name", ["qwen2_5_vl_7b", "qwen3_5_4b"])
@pytest.mark.parametrize("count", [0, 1])
def test_white_space_around_a_question_is_the_templates_matter(name: str, count: int):
    """Qwen3.5's template takes it off, the others leave it: one token more than the model was trained with, or less."""
    processor = RELEASED[name].processor()
    builder, text = PromptBuilder(processor, PixelLimits()), "\n  Where is the cup? \n"
    content = [{"type": "image"}] * count + [{"type": "text", "text": text}]
    turn = [{"role": "user", "content": content}]
    whole = processor.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
    assert whole.count("cup? \n<|im_end|>") == (name != "qwen3_5_4b")
    images = [Image.new("RGB", (64, 64))] * count
    expected = processor(text=[whole], images=images or None, return_tensors="pt")["input_ids"][0]
    assert torch.equal(builder.build("0", text, images).input_ids, expected)
    assert whole.endswith(builder.turn(text).lstrip())


def hub_cache(folder: Path, released: Released) -> None:
    """A hub cache that holds the shrunk model with random weights under the released one's id."""
    snapshot = folder / f"models--{released.hub.replace('/', '--')}" / "snapshots" / "0"
    released.save(snapshot)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForImageTextToText.from_config(released.shrunk())
    model.generation_config.eos_token_id = model.config.get_text_config().eos_token_id
    model.save_pretrained(snapshot)
    refs = snapshot.parents[1] / "refs"
    refs.mkdir()
    (refs / "main").write_text("0")


@pytest.mark.slow
@NAMES
def test_two_steps_with_only_the_backbone_changed(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A backbone of conf that does not train: it is opened by its hub id, as released but for its sizes."""
    hub_cache(tmp_path / "hub", RELEASED[name])
    shared = [one for one in SMALLEST if not one.startswith(("backbone", "pixels"))]
    steps = ["trainer.steps=2", "rollout.sampling.max_new_tokens=4", "pixels.min_pixels=null", "pixels.max_pixels=null"]
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    succeeded(command("train", *shared, *steps, f"backbone={name}", f"hydra.run.dir={tmp_path / 'run'}"))
    assert (tmp_path / "run" / "policy" / "model.safetensors").is_file()
    lines = (tmp_path / "run" / "metrics.csv").read_text().splitlines()
    column = lines[0].split(",").index("train/grad_norm")
    assert sum(bool(line.split(",")[column]) for line in lines[1:]) == 2
