"""What the documents say of memory, counted from the published shapes of the backbones on the meta device."""

from __future__ import annotations

import re

import pytest
import torch
from transformers import (
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
)

from tests.support.paths import REPO

SHAPES = {
    "Qwen2.5-VL-7B": (
        Qwen2_5_VLForConditionalGeneration,
        Qwen2_5_VLConfig,
        {
            "text_config": {"hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28,
                            "num_attention_heads": 28, "num_key_value_heads": 4, "vocab_size": 152064},
            "vision_config": {"depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16,
                              "out_hidden_size": 3584},
            "tie_word_embeddings": False,
        },
    ),
    "Qwen3-VL-4B": (
        Qwen3VLForConditionalGeneration,
        Qwen3VLConfig,
        {
            "text_config": {"hidden_size": 2560, "intermediate_size": 9728, "num_hidden_layers": 36,
                            "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128,
                            "vocab_size": 151936, "tie_word_embeddings": True},
            "vision_config": {"depth": 24, "hidden_size": 1024, "intermediate_size": 4096, "num_heads": 16,
                              "out_hidden_size": 2560, "deepstack_visual_indexes": [5, 11, 17]},
            "tie_word_embeddings": True,
        },
    ),
}  # fmt: skip
"""As in the config.json of their checkpoints."""


def parameters(name: str) -> float:
    """In billions."""
    model, config, shape = SHAPES[name]
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in model(config(**shape)).parameters()) / 1e9


@pytest.mark.parametrize(("name", "billions"), [("Qwen2.5-VL-7B", 8.292), ("Qwen3-VL-4B", 4.438)])
def test_the_page_gives_the_memory_of_the_backbones(name, billions):
    """A 7 B model taken for 7 billion parameters: 112 GB in place of 133, and a card that is rented for it."""
    count = parameters(name)
    assert count == pytest.approx(billions, abs=5e-4)
    page = " ".join((REPO / "docs" / "training.md").read_text().split())
    said = re.search(rf"{re.escape(name)}, ([\d.]+) B( parameters)?, takes (\d+) \+ (\d+) GB", page)
    assert said and said[1] == f"{count:.2f}"
    assert [int(said[3]), int(said[4])] == [round(16 * count), round(4 * count)]  # 4 x 4 bytes, and 4
    weights = re.search(r"over `backbone.dtype=bfloat16` the weights take (\d+) and (\d+) GB", page)
    assert str(round(2 * count)) in weights.groups()


def test_experiments_give_the_memory_of_the_papers_backbone():
    """One of them that still counts 7.0 billion."""
    count, costs = parameters("Qwen2.5-VL-7B"), 0
    for file in (REPO / "conf" / "experiment").rglob("*.yaml"):
        for said, memory in re.findall(r"7 B \(([\d.]+) B\) parameters need (\d+) GB in float32", file.read_text()):
            assert (said, memory) == (f"{count:.2f}", str(round(16 * count))), file
            costs += 1
        assert not re.search(r"112 GB|88 GB", file.read_text()), file
    assert costs >= 7
