"""A policy as its rollouts run it: adapters merged, weights in the type that is computed in."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from locus.policy.lora import merged_weight
from locus.policy.quantization import NF4Linear
from locus.policy.sharding import whole
from locus.policy.vlm import VLM


def compute_dtype(policy: VLM) -> torch.dtype:
    """The type that linear layers compute in here and now: autocast's where it is on, else the weights'."""
    device = policy.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else policy.lm_head.weight.dtype


@contextmanager
def fixed(policy: VLM) -> Iterator[VLM]:
    """Lends the policy for passes without gradient, adapters apart: of a sharded one a `whole` copy, for all ranks."""
    if policy.sharding is None:
        yield policy
    else:
        # Without autocast linear layers compute in their own type, adapters in float32.
        yield whole(policy, compute_dtype(policy) if torch.is_autocast_enabled(policy.device.type) else None)


@torch.no_grad()
def inference_policy(policy: VLM) -> VLM:
    """The policy itself where nothing is gained, else a copy of its linear layers; good until an update.

    Autocast casts a linear layer's weights at every call, which is once per token when decoding; here it is once per
    phase, and results are the same to the last bit: embeddings, convolutions and norms are shared with the policy.
    Adapters are added to the weights in float32, as in their export; that rounds otherwise than adding the outputs.
    Over weights in four bits they stay adapters: merged, a layer would take four times the room.
    Of a sharded policy it is a `whole` copy: all ranks must ask together.
    """
    dtype = compute_dtype(policy)
    linear = _plain_linear(policy)
    if policy.sharding is not None:
        copied = whole(policy, dtype)
    elif not _merges(policy) and all(layer.weight.dtype == dtype for layer in linear):
        return policy
    else:
        shared: dict[int, Any] = {id(tensor): tensor for tensor in [*policy.parameters(), *policy.buffers()]}
        copied = copy.deepcopy(policy, shared)  # what is in the memo is not copied
    adapters, copied.adapters = copied.adapters, {}
    for name, adapted in adapters.items():
        layer = adapted.get_base_layer()
        if isinstance(layer, NF4Linear):
            copied.adapters[name] = adapted
            continue
        layer.weight = _frozen(merged_weight(layer.weight, adapted), dtype)
        copied.model.set_submodule(name, layer)
    for part in _plain_linear(copied):
        part.weight = _frozen(part.weight, dtype)
        part.bias = None if part.bias is None else _frozen(part.bias, dtype)
    return copied


def _merges(policy: VLM) -> bool:
    """Whether some adapter is to be added to the weights below it."""
    return any(not isinstance(adapted.get_base_layer(), NF4Linear) for adapted in policy.adapters.values())


def _plain_linear(policy: VLM) -> list[nn.Linear]:
    """Layers whose weights are numbers; those in four bits compute in the type of their input."""
    return [part for part in policy.modules() if isinstance(part, nn.Linear) and not isinstance(part, NF4Linear)]


def _frozen(tensor: torch.Tensor, dtype: torch.dtype) -> nn.Parameter:
    return nn.Parameter(tensor.to(dtype), requires_grad=False)
