"""The released backbones without their weights: true configurations, processors and prompts, whole or shrunk.

``python -m tests.support.released FOLDER`` writes each as a folder that ``backbone.path`` takes for
``python -m locus.plan``: config.json as released, and a processor with its resize rule around the tiny tokenizer.

Sources: config.json, generation_config.json and preprocessor_config.json of each model on its hub. What their chat
templates write is checked against public copies: of Qwen2.5-VL's and Qwen3.5's in tests of other projects, and for
MiMo-VL ms-swift's template of the same name (Qwen's turns under a system text of its own; the model opens ``<think>``
itself).
"""

from __future__ import annotations

import copy
import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers import (
    AutoConfig,
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedTokenizerBase,
    ProcessorMixin,
    Qwen2_5_VLProcessor,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
)

from locus.policy.backbone import shallow
from locus.policy.families.qwen3_5 import Qwen3_5
from locus.policy.families.qwen_vl import QwenVL
from locus.policy.family import Family
from locus.policy.tiny_tokenizer import tiny_tokenizer

TOKENS = {
    "vision_start_token_id": 151652,
    "vision_end_token_id": 151653,
    "image_token_id": 151655,
    "video_token_id": 151656,
}
QWEN3_5_TOKENS = {
    "vision_start_token_id": 248053,
    "vision_end_token_id": 248054,
    "image_token_id": 248056,
    "video_token_id": 248057,
}
ENDS = [151645, 151643]
"""<|im_end|> and <|endoftext|>."""
QWEN3_5_ENDS = [248046, 248044]
"""The same of Qwen3.5's vocabulary."""


def qwen2_5(text: dict[str, Any], tied: bool, vision_mlp: int = 3420, **more: Any) -> dict[str, Any]:
    """config.json of the Qwen2.5-VL class; all sizes share the vision tower, but for its output."""
    vision = {
        **{"depth": 32, "hidden_size": 1280, "intermediate_size": vision_mlp, "num_heads": 16, "patch_size": 14},
        **{"spatial_merge_size": 2, "temporal_patch_size": 2, "window_size": 112, "tokens_per_second": 2},
        **{"fullatt_block_indexes": [7, 15, 23, 31], "hidden_act": "silu", "out_hidden_size": text["hidden_size"]},
    }
    base = {"rms_norm_eps": 1e-6, "use_sliding_window": False, "hidden_act": "silu", "attention_dropout": 0.0}
    rope = {"rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]}, "rope_theta": 1e6}
    written = {"architectures": ["Qwen2_5_VLForConditionalGeneration"], "model_type": "qwen2_5_vl", **TOKENS}
    ends = {"bos_token_id": 151643, "eos_token_id": 151645, "tie_word_embeddings": tied}
    return {
        **written,
        **base,
        **rope,
        **ends,
        "max_position_embeddings": 128000,
        **text,
        **more,
        "vision_config": vision,
    }


def qwen3(text: dict[str, Any], vision: dict[str, Any], tied: bool) -> dict[str, Any]:
    """config.json of the Qwen3-VL class."""
    base = {"rms_norm_eps": 1e-6, "hidden_act": "silu", "attention_bias": False, "head_dim": 128, "vocab_size": 151936}
    rope = {"rope_type": "default", "mrope_interleaved": True, "mrope_section": [24, 20, 20]}
    ends = {"bos_token_id": 151643, "eos_token_id": 151645, "tie_word_embeddings": tied}
    patches = {"patch_size": 16, "spatial_merge_size": 2, "temporal_patch_size": 2, "num_position_embeddings": 2304}
    return {
        **{"architectures": ["Qwen3VLForConditionalGeneration"], "model_type": "qwen3_vl", "tie_word_embeddings": tied},
        **TOKENS,
        "text_config": base
        | {"model_type": "qwen3_vl_text", "rope_scaling": rope, "rope_theta": 5e6, "max_position_embeddings": 262144}
        | ends
        | text,
        "vision_config": patches
        | {"model_type": "qwen3_vl", "num_heads": 16, "in_channels": 3, "hidden_act": "gelu_pytorch_tanh"}
        | {"out_hidden_size": text["hidden_size"]}
        | vision,
    }


def qwen3_5(text: dict[str, Any], vision: dict[str, Any], tied: bool) -> dict[str, Any]:
    """config.json of the Qwen3.5 class; all sizes share the kinds of their layers."""
    base = {"rms_norm_eps": 1e-6, "hidden_act": "silu", "attention_bias": False, "head_dim": 256, "vocab_size": 248320}
    rope = {"rope_type": "default", "mrope_interleaved": True, "mrope_section": [11, 11, 10], "rope_theta": 1e7}
    linear = {"linear_conv_kernel_dim": 4, "linear_key_head_dim": 128, "linear_value_head_dim": 128}
    heads = {"linear_num_key_heads": 16, "linear_num_value_heads": 32, "full_attention_interval": 4}
    kinds = {"layer_types": (3 * ["linear_attention"] + ["full_attention"]) * (text["num_hidden_layers"] // 4)}
    patches = {"patch_size": 16, "spatial_merge_size": 2, "temporal_patch_size": 2, "num_position_embeddings": 2304}
    return {
        **{"architectures": ["Qwen3_5ForConditionalGeneration"], "model_type": "qwen3_5", "tie_word_embeddings": tied},
        **QWEN3_5_TOKENS,
        "text_config": base
        | {"model_type": "qwen3_5_text", "rope_parameters": rope | {"partial_rotary_factor": 0.25}}
        | {"max_position_embeddings": 262144, "eos_token_id": 248044, "tie_word_embeddings": tied}
        | (linear | heads | kinds | text),
        "vision_config": patches
        | {"model_type": "qwen3_5", "num_heads": 16, "in_channels": 3, "hidden_act": "gelu_pytorch_tanh"}
        | {"out_hidden_size": text["hidden_size"]}
        | vision,
    }


def text_sizes(width: int, mlp: int, layers: int, heads: int, kv_heads: int, **more: Any) -> dict[str, Any]:
    """Of a language model, as config.json names them."""
    sizes = {"hidden_size": width, "intermediate_size": mlp, "num_hidden_layers": layers}
    return sizes | {"num_attention_heads": heads, "num_key_value_heads": kv_heads} | more


def vision_tokens(processor: ProcessorMixin) -> dict[str, int]:
    """The ids that a processor's tokenizer has for `TOKENS`."""
    names = ("vision_start", "vision_end", "image_pad", "video_pad")
    ids = [processor.tokenizer.convert_tokens_to_ids(f"<|{name}|>") for name in names]
    return dict(zip(TOKENS, ids, strict=True))


QWEN3_4B = qwen3(
    text_sizes(2560, 9728, 36, 32, 8),
    {"depth": 24, "hidden_size": 1024, "intermediate_size": 4096, "deepstack_visual_indexes": [5, 11, 17]},
    tied=True,
)
QWEN3_8B = qwen3(
    text_sizes(4096, 12288, 36, 32, 8),
    {"depth": 27, "hidden_size": 1152, "intermediate_size": 4304, "deepstack_visual_indexes": [8, 16, 24]},
    tied=False,
)
SYSTEM = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
"""What Qwen2.5-VL's template puts before a first turn that is the user's; Qwen3-VL's puts nothing."""


@dataclass(frozen=True)
class Released:
    """One of conf/backbone."""

    hub: str
    config: dict[str, Any]
    parameters: float
    """In 10^9, as the hub's page shows."""
    before: str
    """What the chat template writes before the user's turn."""
    opened: str = ""
    """What it opens of the answer."""
    ends: list[int] = field(default_factory=lambda: list(ENDS))
    """Of generation_config.json."""
    family: Family = QwenVL()
    trims: bool = False
    """Whether the chat template takes white space off both ends of a turn."""

    @property
    def template(self) -> str:
        """A chat template that writes, of one turn with images and text, what the released one writes."""
        content = (
            "{% for part in message.content %}{% if part.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
            "{% else %}{{ part.text }}{% endif %}{% endfor %}"
        )
        if self.trims:
            content = "{% set turn %}" + content + "{% endset %}{{ turn | trim }}"
        turns = "{% for message in messages %}<|im_start|>{{ message.role }}\n" + content + "<|im_end|>\n{% endfor %}"
        return (
            self.before + turns + "{% if add_generation_prompt %}<|im_start|>assistant\n" + self.opened + "{% endif %}"
        )

    def processor(self, tokenizer: PreTrainedTokenizerBase | None = None) -> ProcessorMixin:
        """The family's, with the released resize rule and patches, around the tiny tokenizer or another one."""
        tokenizer, newer = tokenizer or tiny_tokenizer(), self.config["model_type"] != "qwen2_5_vl"
        edges = (
            {"shortest_edge": 65536, "longest_edge": 16777216}
            if newer
            else {"shortest_edge": 3136, "longest_edge": 12845056}
        )
        settings: dict[str, Any] = {
            "patch_size": 16 if newer else 14,
            "merge_size": 2,
            "temporal_patch_size": 2,
            "size": edges,
        }
        half = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3} if newer else {}
        images = Qwen2VLImageProcessor(**settings, **half)
        if newer:
            return Qwen3VLProcessor(images, tokenizer, Qwen3VLVideoProcessor(**settings), chat_template=self.template)
        return Qwen2_5_VLProcessor(images, tokenizer, Qwen2VLVideoProcessor(**settings), chat_template=self.template)

    def shrunk(self) -> PreTrainedConfig:
        """Two layers of 64 in each tower, for the tiny tokenizer; class, patches, heads' kind and flags as released."""
        processor = self.processor()
        ids = processor.tokenizer.convert_tokens_to_ids
        config = shallow(self.opened_config(), 2)
        text, vision = config.get_text_config(), config.vision_config
        for name, value in text_sizes(64, 96, 2, 2, 1, vocab_size=len(processor.tokenizer)).items():
            setattr(text, name, value)
        text.head_dim = 32
        section = [2, 1, 1] if "partial_rotary_factor" in text.rope_parameters else [6, 5, 5]
        text.rope_parameters = text.rope_parameters | {"mrope_section": section}
        if "linear_attention" in (getattr(text, "layer_types", None) or []):
            text.layer_types = ["linear_attention", "full_attention"]
            text.linear_key_head_dim = text.linear_value_head_dim = 16
            text.linear_num_key_heads, text.linear_num_value_heads = 1, 2
        for name, value in {"hidden_size": 64, "intermediate_size": 96, "num_heads": 2, "out_hidden_size": 64}.items():
            setattr(vision, name, value)
        for name, token in vision_tokens(processor).items():
            setattr(config, name, token)
        text.bos_token_id, text.eos_token_id = None, ids("<|im_end|>")
        text.pad_token_id = ids("<|endoftext|>")
        return config

    def opened_config(self) -> PreTrainedConfig:
        """config.json as transformers reads it."""
        config = copy.deepcopy(self.config)
        return AutoConfig.for_model(config.pop("model_type"), **config)

    def save(self, folder: Path) -> None:
        """config.json as released but for the ids of the tiny tokenizer's vision tokens, and the processor."""
        folder.mkdir(parents=True, exist_ok=True)
        processor = self.processor()
        processor.save_pretrained(folder)
        config = self.config | vision_tokens(processor)
        (folder / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
        GenerationConfig(eos_token_id=self.ends).save_pretrained(folder)


RELEASED = {
    "qwen2_5_vl_3b": Released(
        "Qwen/Qwen2.5-VL-3B-Instruct",
        qwen2_5(text_sizes(2048, 11008, 36, 16, 2, vocab_size=151936), tied=True),
        3.75,
        SYSTEM,
    ),
    "qwen2_5_vl_7b": Released(
        "Qwen/Qwen2.5-VL-7B-Instruct",
        qwen2_5(text_sizes(3584, 18944, 28, 28, 4, vocab_size=152064), tied=False),
        8.29,
        SYSTEM,
    ),
    "qwen3_vl_4b_thinking": Released("Qwen/Qwen3-VL-4B-Thinking", QWEN3_4B, 4.44, "", "<think>\n"),
    "qwen3_vl_4b_instruct": Released("Qwen/Qwen3-VL-4B-Instruct", QWEN3_4B, 4.44, ""),
    "qwen3_vl_8b_thinking": Released("Qwen/Qwen3-VL-8B-Thinking", QWEN3_8B, 8.77, "", "<think>\n"),
    "qwen3_5_4b": Released(
        "Qwen/Qwen3.5-4B",
        qwen3_5(
            text_sizes(2560, 9216, 32, 16, 4), {"depth": 24, "hidden_size": 1024, "intermediate_size": 4096}, tied=True
        ),
        4.54,
        "",
        "<think>\n",
        QWEN3_5_ENDS,
        Qwen3_5(),
        trims=True,
    ),
    "mimo_vl_7b": Released(
        "XiaomiMiMo/MiMo-VL-7B-RL",
        qwen2_5(text_sizes(4096, 11008, 36, 32, 8, vocab_size=151680), tied=False, vision_mlp=3456),
        8.31,
        SYSTEM.replace("a helpful assistant.", "MiMo, an AI assistant developed by Xiaomi."),
        ends=[151645],
    ),
}

if __name__ == "__main__":
    for name, released in RELEASED.items():
        released.save(Path(sys.argv[1]) / name)
