"""conf/scale/one_gpu*: each preset by its name, at the smallest sizes: trained, resumed, exported, and refused."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from transformers import AutoModelForImageTextToText

from locus.policy.lora import LoRA, frozen_state
from locus.run.building import base_policy
from locus.run.settings import TrainSettings
from tests.support.interrupted import cut
from tests.support.released import RELEASED
from tests.support.runs import SMALLEST, command, differences, metrics, refused, resume, succeeded, warm_policy

NEEDED = "bitsandbytes"
PRESETS = {"one_gpu": (), "one_gpu_4bit": (NEEDED,), "one_gpu_full": (NEEDED,)}
"""Preset -> what it needs."""
COCO = "data.annotations=instances.json", "data.images=train2014"


def small(preset: str, folder: Path, *overrides: str) -> tuple[str, ...]:
    """The preset's run on a CPU, three steps in the preset's own precision."""
    own = "trainer=cpu", "trainer.precision=bf16-mixed", f"hydra.run.dir={folder}", *overrides
    return "experiment=table8", f"scale={preset}", *SMALLEST, *own


@pytest.mark.slow
@pytest.mark.parametrize("preset", PRESETS)
def test_a_run_its_resumption_and_its_export(preset: str, tmp_path: Path):
    """Two steps and one resumed are three steps, bit for bit; plain from_pretrained opens what is exported."""
    for name in PRESETS[preset]:
        pytest.importorskip(name)
    whole, folder = tmp_path / "whole", tmp_path / "cut"
    moving = f"backbone.path={warm_policy()}", "optimizer.make.lr=2e-3"
    succeeded(command("train", *small(preset, whole, *moving)))
    shutil.copytree(whole, folder)
    cut(folder, 2)
    resume(folder)
    assert list(differences(folder, whole)) == []
    assert (metrics(whole)["train/grad_norm"].dropna() > 0).all()
    states = [torch.load(path, weights_only=True)["state_dict"] for path in sorted(whole.glob("checkpoints/*"))]
    assert {one.dtype for one in states[0].values()} == {torch.float32}
    trained = [name for name in states[0] if not torch.equal(states[0][name], states[-1][name])]
    assert trained and all(".lora_" in name for name in states[0]) == (preset != "one_gpu_full")
    stock, info = AutoModelForImageTextToText.from_pretrained(whole / "policy", output_loading_info=True)
    assert not any(info.values())
    assert stock.dtype == (torch.float32 if preset == "one_gpu_full" else torch.bfloat16)


def test_the_base_of_a_report_has_four_bits_too(tmp_path: Path, compose_app):
    """A 24 GB card that trains a policy, and is then given its base in 16 bits beside it; or another base."""
    pytest.importorskip(NEEDED)
    config = compose_app("train", [*small("one_gpu_4bit", tmp_path), "backbone.train_vision=false"])
    backbone = instantiate(config.backbone)
    base, policy = base_policy(config, backbone), backbone.load()
    instantiate(config.weights)(policy)
    expected = {name.replace(".base_layer", ""): one for name, one in frozen_state(policy).items()}
    found = base.state_dict()
    assert found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in found)
    assert any(one.dtype == torch.uint8 for one in base.parameters())


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("backbone", RELEASED)
def test_every_backbone_takes_the_preset(preset: str, backbone: str, compose_app):
    """A backbone whose own file wins over the preset, or weights that would train in bfloat16."""
    for name in PRESETS[preset]:
        pytest.importorskip(name)
    config = compose_app("train", ["experiment=table8", f"scale={preset}", f"backbone={backbone}", *COCO])
    settings, base, weights = TrainSettings.of(config), instantiate(config.backbone), instantiate(config.weights)
    full = preset == "one_gpu_full"
    assert (base.dtype, base.train_vision) == (("float32", True) if full else ("bfloat16", False))
    assert isinstance(weights, LoRA) != full
    assert full or weights.quantization == ("nf4" if preset == "one_gpu_4bit" else None)
    assert (base.reference_dtype, settings.trainer.offload_reference) == (("bfloat16", True) if full else (None, False))
    assert config.optimizer.make.lr == (1e-6 if full else 1e-5) and settings.trainer.precision == "bf16-mixed"


def test_what_is_not_installed_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A traceback in place of one line that says what to install."""
    monkeypatch.setitem(sys.modules, NEEDED, None)
    for preset, key in (("one_gpu_4bit", "weights.quantization=nf4"), ("one_gpu_full", "optimizer.make")):
        refused(command("train", *small(preset, tmp_path / preset)), key, "pip install 'locus[bitsandbytes]'")
