"""Frozen linear layers in four bits (NF4: QLoRA, arXiv 2305.14314), by the kernels of bitsandbytes, which is optional.

A block of 64 weights is 64 codes of four bits and one float32 scale, 0.5625 bytes a weight. A product dequantises its
layer's weights, and its backward pass does so again: only one layer's are there at a time.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from locus.errors import LocusError
from locus.policy.vlm import VLM

BLOCK = 64
"""Weights that share a scale; a row may end within one."""
KIND = "nf4"


def bitsandbytes(key: str) -> Any:
    """The library; raises LocusError that names ``key``, which asks for it, where it is not installed."""
    try:
        return import_module("bitsandbytes")
    except ImportError as error:
        raise LocusError(f"{key} needs bitsandbytes: pip install 'locus[bitsandbytes]'") from error


class NF4Linear(nn.Linear):
    """A frozen linear layer; ``weight`` has two codes a byte. It computes in the type of its input, or autocast's."""

    scales: torch.Tensor

    def __init__(self, layer: nn.Linear):
        nn.Module.__init__(self)
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.dtype = layer.weight.dtype
        """Of the weights that were quantised, and of those that are exported."""
        codes, scales = torch.ops.bitsandbytes.quantize_4bit(layer.weight.data, BLOCK, KIND, torch.uint8)
        self.weight = nn.Parameter(codes, requires_grad=False)
        self.bias = None if layer.bias is None else nn.Parameter(layer.bias.data, requires_grad=False)
        self.register_buffer("scales", scales)

    def dequantized(self, dtype: torch.dtype) -> torch.Tensor:
        """[out, in]: the weights that the layer has."""
        return _dequantized(self.weight, self.scales, (self.out_features, self.in_features), dtype)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """[..., in] -> [..., out]."""
        device = input.device.type
        if torch.is_autocast_enabled(device):
            input = input.to(torch.get_autocast_dtype(device))
        bias = None if self.bias is None else self.bias.to(input.dtype)
        return _Product.apply(input, self.weight, self.scales, (self.out_features, self.in_features), bias)


class _Product(torch.autograd.Function):
    """A linear layer whose graph holds the codes in place of the weights."""

    @staticmethod
    def forward(ctx: Any, states: torch.Tensor, codes: torch.Tensor, scales: torch.Tensor, shape: tuple[int, int],
                bias: torch.Tensor | None) -> torch.Tensor:  # fmt: skip
        ctx.save_for_backward(codes, scales)
        ctx.shape = shape
        return F.linear(states, _dequantized(codes, scales, shape, states.dtype), bias)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        codes, scales = ctx.saved_tensors
        return grads[0] @ _dequantized(codes, scales, ctx.shape, grads[0].dtype), None, None, None, None


def _dequantized(codes: torch.Tensor, scales: torch.Tensor, shape: tuple[int, int], dtype: torch.dtype) -> torch.Tensor:
    # In one row: the CPU's kernel takes wrong scales where rows end within a block (bitsandbytes 0.50).
    row = torch.ops.bitsandbytes.dequantize_4bit(codes, scales, BLOCK, KIND, (shape[0] * shape[1],), dtype)
    return row.view(shape)


def quantize(policy: VLM, key: str) -> None:
    """Puts the language model's linear layers into four bits, in place; embeddings, head and vision tower stay.

    Raises LocusError naming ``key`` where bitsandbytes is not installed.
    """
    bitsandbytes(key)
    language_model = policy.model.model.language_model
    for name, part in list(language_model.named_modules()):
        if isinstance(part, nn.Linear):
            language_model.set_submodule(name, NF4Linear(part))


def stored_numbers(parameter: torch.Tensor) -> int:
    """Weights that a parameter holds: two a byte in NF4."""
    return 2 * parameter.numel() if parameter.dtype == torch.uint8 else parameter.numel()
