"""Low-rank adapters (LoRA, arXiv 2106.09685) by peft: put into a policy, switched off, merged for its export.

A layer's weight W becomes W + (alpha / rank) B A; only A and B train. B begins at zero: fresh adapters change nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from locus.errors import LocusError, by_name, whole
from locus.policy.quantization import KIND, NF4Linear, bitsandbytes, quantize
from locus.policy.vlm import VLM


@dataclass(frozen=True)
class LoRA:
    """Freezes a policy and puts adapters at its linear layers, in place: it stays of its transformers class."""

    rank: int = 16
    alpha: float = 32.0
    dropout: float = 0.0
    """Of the adapters' input, while training."""
    targets: str = r"model\.language_model\..*"
    """Regular expression that the names of linear layers match as a whole."""
    vision_targets: str = r"model\.visual\..*"
    """The same for the vision tower, where the policy trains it."""
    seed: int = 0
    """Of A's first values."""
    quantization: str | None = None
    """Of the language model's frozen weights: nf4 (four bits), or None for as the backbone is."""

    def __post_init__(self) -> None:
        whole("weights.rank", self.rank)
        whole("weights.seed", self.seed, 0)
        if not self.alpha > 0 or not 0 <= self.dropout < 1:
            raise LocusError(
                f"weights.alpha={self.alpha} weights.dropout={self.dropout}: "
                "give an alpha above 0 and a dropout in [0, 1)"
            )
        for key in ("targets", "vision_targets"):
            try:
                re.compile(getattr(self, key))
            except re.error as error:
                raise LocusError(f"weights.{key}={getattr(self, key)} is not a regular expression: {error}") from error
        if self.quantization is not None:
            by_name("weights.quantization", self.quantization, {KIND: KIND})
            bitsandbytes(self._quantization_key)  # before hours of loading

    @property
    def _quantization_key(self) -> str:
        return f"weights.quantization={self.quantization}"

    def __call__(self, policy: VLM) -> None:
        """Changes the policy; raises LocusError where no linear layer has a name that fits."""
        # These take a second, for which runs of full weights need not wait.
        from peft import LoraConfig, inject_adapter_in_model
        from peft.tuners.lora import LoraLayer

        targets = self._targets(policy)
        self.prepare(policy)
        config = LoraConfig(
            r=self.rank,
            lora_alpha=self.alpha,  # type: ignore[arg-type]  # peft says int and only divides it by the rank
            lora_dropout=self.dropout,
            target_modules=targets,
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            inject_adapter_in_model(config, policy.model)
        policy.adapters = {name: part for name, part in policy.model.named_modules() if isinstance(part, LoraLayer)}
        for layer in policy.adapters.values():  # peft gives them the backbone's type; bfloat16 would lose small updates
            layer.lora_A.float()
            layer.lora_B.float()

    def prepare(self, policy: VLM) -> None:
        """Puts a policy's weights, in place, into what they are below the adapters."""
        if self.quantization is not None:
            quantize(policy, self._quantization_key)

    def _targets(self, policy: VLM) -> list[str]:
        patterns = [self.targets, self.vision_targets] if policy.train_vision else [self.targets]
        # The head may be tied to the embedding, from which an adapter would part it in the export; nothing flows back
        # through a frozen vision tower.
        left_out: set[nn.Module] = {policy.lm_head}
        if not policy.train_vision:
            left_out |= set(policy.family.vision_tower(policy.model).modules())
        layers = [
            name for name, part in policy.model.named_modules() if isinstance(part, nn.Linear) and part not in left_out
        ]
        found: dict[str, None] = {}  # a set that keeps its order
        for pattern in patterns:
            matched = [name for name in layers if re.fullmatch(pattern, name)]
            found |= dict.fromkeys(matched)
            if not matched:
                raise LocusError(
                    f"weights.targets={self.targets} weights.vision_targets={self.vision_targets}: {pattern} is the "
                    "whole name of no linear layer; one is called model.language_model.layers.0.mlp.up_proj"
                )
        return list(found)


@contextmanager
def adapters_off(policy: VLM) -> Iterator[VLM]:
    """The policy as it was before training, for as long as the context lasts."""
    for layer in policy.adapters.values():
        layer.enable_adapters(False)
    try:
        yield policy
    finally:
        for layer in policy.adapters.values():
            layer.enable_adapters(True)


@torch.no_grad()
def merged_weight(base: torch.Tensor, adapted: Any) -> torch.Tensor:
    """A layer's weight with its adapter added, in float32 even where autocast would multiply in less."""
    with torch.autocast(base.device.type, enabled=False):
        return base.float() + adapted.get_delta_weight("default")


@torch.no_grad()
def merged_state(policy: VLM) -> dict[str, torch.Tensor]:
    """The transformers model's weights, the adapters added in float32; the policy itself is left as it is.

    Weights in four bits are given in the type that they were quantised from.
    """
    quantized = {name: part for name, part in policy.model.named_modules() if isinstance(part, NF4Linear)}
    merged = {}
    for name, tensor in policy.model.state_dict().items():
        owner, _, own = name.rpartition(".")
        if owner in quantized and own == "scales":
            continue
        if owner in quantized and own == "weight":
            tensor = quantized[owner].dequantized(quantized[owner].dtype)
        layer, base, parameter = name.partition(".base_layer.")
        if base and parameter == "weight":
            merged[f"{layer}.weight"] = merged_weight(tensor, policy.adapters[layer]).to(tensor.dtype)
        elif base:
            merged[f"{layer}.{parameter}"] = tensor
        elif name.rpartition(".lora_")[0] not in policy.adapters:
            merged[name] = tensor
    return merged


def frozen_state(policy: VLM) -> dict[str, torch.Tensor]:
    """The weights that a policy with adapters keeps from its backbone; empty for one without."""
    if not policy.adapters:
        return {}
    trained = {name for name, parameter in policy.named_parameters() if parameter.requires_grad}
    return {name: tensor for name, tensor in policy.state_dict().items() if name not in trained}


def fingerprint(weights: dict[str, torch.Tensor]) -> torch.Tensor:
    """Some values of every tensor: tells whether adapters meet the backbone that they were trained on."""
    return torch.cat([tensor.flatten()[:: max(1, tensor.numel() // 16)].float().cpu() for tensor in weights.values()])
