"""Tiny backbones: the real transformers classes and processors, small enough for two CPU cores.

`TinyQwen3VL` is the embedded default: its vision tower has absolute position embeddings, so a patch's place is in its
features. `TinyQwen2_5VL` is its sibling with rotary-only vision and windowed attention.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from transformers import (
    PreTrainedConfig,
    ProcessorMixin,
    Qwen2_5_VLConfig,
    Qwen2_5_VLProcessor,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
    Qwen3VLConfig,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
)

from locus.policy.tiny_tokenizer import END, PAD, tiny_tokenizer


@dataclass(frozen=True)
class TinyArchitecture:
    """Sizes shared by both families. Heads have 32 dimensions in the text model."""

    text_layers: int = 4
    text_width: int = 160
    text_heads: int = 5
    text_kv_heads: int = 5
    text_mlp: int = 480
    vision_layers: int = 3
    vision_width: int = 128
    vision_heads: int = 4
    vision_mlp: int = 384
    patch_size: int = 8
    min_pixels: int = 32 * 32
    max_pixels: int = 1024 * 1024
    initializer_range: float = 0.02

    def processor(self) -> ProcessorMixin:
        """The family's real processor around the tiny tokenizer."""
        raise TypeError("TinyArchitecture holds sizes only: build TinyQwen3VL or TinyQwen2_5VL")

    def config(self, processor: ProcessorMixin) -> PreTrainedConfig:
        """The family's configuration for the processor's vocabulary."""
        raise TypeError("TinyArchitecture holds sizes only: build TinyQwen3VL or TinyQwen2_5VL")

    def _text(self, vocabulary: int, processor: ProcessorMixin) -> dict[str, Any]:
        return {
            "vocab_size": vocabulary,
            "hidden_size": self.text_width,
            "initializer_range": self.initializer_range,
            "intermediate_size": self.text_mlp,
            "num_hidden_layers": self.text_layers,
            "num_attention_heads": self.text_heads,
            "num_key_value_heads": self.text_kv_heads,
            "max_position_embeddings": 32768,
            "bos_token_id": None,
            "eos_token_id": processor.tokenizer.convert_tokens_to_ids(END),
            "pad_token_id": processor.tokenizer.convert_tokens_to_ids(PAD),
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [6, 5, 5]},
        }

    def _vision(self) -> dict[str, Any]:
        return {
            "depth": self.vision_layers,
            "hidden_size": self.vision_width,
            "initializer_range": self.initializer_range,
            "intermediate_size": self.vision_mlp,
            "num_heads": self.vision_heads,
            "patch_size": self.patch_size,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "out_hidden_size": self.text_width,
        }

    def _pixels(self) -> dict[str, Any]:
        return {
            "patch_size": self.patch_size,
            "merge_size": 2,
            "temporal_patch_size": 2,
            "size": {"shortest_edge": self.min_pixels, "longest_edge": self.max_pixels},
        }


def _token_ids(processor: ProcessorMixin) -> dict[str, Any]:
    to_id = processor.tokenizer.convert_tokens_to_ids
    return {
        "image_token_id": to_id("<|image_pad|>"),
        "video_token_id": to_id("<|video_pad|>"),
        "vision_start_token_id": to_id("<|vision_start|>"),
        "vision_end_token_id": to_id("<|vision_end|>"),
    }


@dataclass(frozen=True)
class TinyQwen3VL(TinyArchitecture):
    """Qwen3-VL: DeepStack, interleaved M-RoPE, learned absolute positions in the vision tower."""

    position_grid: int = 32
    """The learned position grid is this many patches a side, resampled to each image."""

    def processor(self) -> Qwen3VLProcessor:
        """Qwen3VLProcessor with this architecture's patch size and pixel limits."""
        tokenizer = tiny_tokenizer()
        half = [0.5, 0.5, 0.5]
        images = Qwen2VLImageProcessor(**self._pixels(), image_mean=half, image_std=half)
        videos = Qwen3VLVideoProcessor(**self._pixels())
        return Qwen3VLProcessor(images, tokenizer, videos, chat_template=tokenizer.chat_template)

    def config(self, processor: ProcessorMixin) -> Qwen3VLConfig:
        """Qwen3VLConfig for the processor's vocabulary."""
        text = self._text(len(processor.tokenizer), processor)
        text["head_dim"] = 32
        text["rope_parameters"]["mrope_interleaved"] = True
        vision = self._vision() | {
            "num_position_embeddings": self.position_grid**2,
            "deepstack_visual_indexes": list(range(self.vision_layers - 1)),
        }
        return Qwen3VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=True, **_token_ids(processor))


@dataclass(frozen=True)
class TinyQwen2_5VL(TinyArchitecture):
    """Qwen2.5-VL: rotary-only vision tower with windowed and full attention layers."""

    patch_size: int = 14
    min_pixels: int = 56 * 56
    max_pixels: int = 14 * 14 * 4 * 16384

    def processor(self) -> Qwen2_5_VLProcessor:
        """Qwen2_5_VLProcessor with this architecture's patch size and pixel limits."""
        tokenizer = tiny_tokenizer()
        images, videos = Qwen2VLImageProcessor(**self._pixels()), Qwen2VLVideoProcessor(**self._pixels())
        return Qwen2_5_VLProcessor(images, tokenizer, videos, chat_template=tokenizer.chat_template)

    def config(self, processor: ProcessorMixin) -> Qwen2_5_VLConfig:
        """Qwen2_5_VLConfig for the processor's vocabulary."""
        vision = self._vision() | {
            "window_size": 8 * self.patch_size,
            "fullatt_block_indexes": [self.vision_layers - 1],
        }
        return Qwen2_5_VLConfig(
            text_config=self._text(len(processor.tokenizer), processor),
            vision_config=vision,
            tie_word_embeddings=True,
            **_token_ids(processor),
        )
