"""A policy whose weights the ranks of a run share (FSDP2): each holds a part of every tensor.

An update gathers them layer by layer, as PyTorch's hooks do around each decoder layer that transformers calls. What
stands around the layers (embedding, head, norms, vision tower) is gathered once per update, with the first call of
`VLM.encode` or `VLM.completion_hidden`. Where nothing trains, in rollouts and under the reference, a rank works on a
`whole` copy: gathered once, it may decode as many tokens as it likes, alone.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from locus.errors import LocusError
from locus.policy.vlm import VLM

PASSES = ("encode", "completion_hidden")
"""Methods of a VLM that an update calls; each is a pass through all layers."""


@dataclass(frozen=True, eq=False)
class Sharding:
    """What a sharded policy knows of itself."""

    outline: VLM
    """The same without weights: what a whole copy is made of, as PyTorch copies no sharded module."""


def shard(policy: VLM, mesh: DeviceMesh, dtype: torch.dtype | None = None) -> None:
    """Leaves this rank its part of each weight, in place; the parts are on the mesh's device.

    Gradients are summed over the ranks, in the type of the weights. Each rank must make the same passes, in number and
    order: there the ranks gather from each other.

    Args:
        policy: whole, the same on every rank.
        mesh: of the ranks.
        dtype: in which an update gathers decoder layers; None for their own.
    """
    if odd := sorted({str(one.dtype) for one in policy.parameters() if not one.dtype.is_floating_point}):
        raise LocusError(
            f"trainer=fsdp2 shares floating-point weights, the backbone has {', '.join(odd)}: load it whole"
        )
    weights: dict[int, Any] = {
        id(one): nn.Parameter(one.detach().to("meta"), requires_grad=False) for one in policy.parameters()
    }
    policy.sharding = Sharding(copy.deepcopy(policy, weights))  # what is in the memo is not copied
    precision = MixedPrecisionPolicy(dtype, reduce_dtype=torch.float32 if dtype else None, cast_forward_inputs=False)
    for layer in policy.model.model.language_model.layers:
        fully_shard(layer, mesh=mesh, mp_policy=precision)
    fully_shard(policy, mesh=mesh)
    for part in policy.modules():
        if isinstance(part, FSDPModule):
            part.set_gradient_divide_factor(1.0)
            part.set_force_sum_reduction_for_comms(True)  # a factor alone is a reduction that gloo does not know
    assert isinstance(policy, FSDPModule)
    # A prompt without an image leaves the tower without a gradient, maybe on one rank alone.
    policy.set_reduce_scatter_unused_params(True, recurse=False)
    policy.set_reshard_after_backward(False, recurse=False)  # `cut_from_graph` goes backward through prompts later
    policy.forward = lambda work: work()
    for name in PASSES:
        setattr(policy, name, _in_forward(policy, getattr(policy, name)))


def _in_forward(policy: VLM, method: Callable[..., Any]) -> Callable[..., Any]:
    """The method with FSDP's hooks around it, which do not see what it takes and gives: that has graphs of its own."""

    @functools.wraps(method)
    def call(*arguments: Any, **options: Any) -> Any:
        results: list[Any] = []
        policy(lambda: results.append(method(*arguments, **options)))
        return results[0]

    return call


@torch.no_grad()
def whole(policy: VLM, dtype: torch.dtype | None = None, keep: bool = True, device: torch.device | None = None) -> VLM:
    """A frozen copy that is not sharded, with its adapters apart; all ranks must ask together.

    Args:
        policy: sharded.
        dtype: of linear layers, but for adapters, weights that these are added to, and a tied head; None for their own.
        keep: whether this rank wants the copy; else its weights stay on the meta device.
        device: of the copy; None for the policy's.
    """
    assert policy.sharding is not None
    outline = policy.sharding.outline
    kept = {id(one) for layer in outline.adapters.values() for one in layer.parameters()}
    # A head that is tied to the embedding is cast apart from it, as in one process.
    kept |= {id(one) for part in outline.modules() if not isinstance(part, nn.Linear) for one in part.parameters(False)}
    memo: dict[int, Any] = {}
    for empty, part in zip(outline.parameters(), policy.parameters(), strict=True):
        tensor = part.detach()
        if dtype is not None and id(empty) not in kept:
            tensor = tensor.to(dtype)
        gathered = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
        memo[id(empty)] = nn.Parameter(gathered.to(device), requires_grad=False) if keep else empty
    memo |= {id(empty): one.to(device) for empty, one in zip(outline.buffers(), policy.buffers(), strict=True)}
    return copy.deepcopy(outline, memo).eval()


def free(policy: VLM) -> None:
    """Gives back what an update has gathered; the optimiser's step makes it stale."""
    if isinstance(policy, FSDPModule):
        policy.reshard()


def clip_gradients(parameters: Sequence[nn.Parameter], largest: float) -> float:
    """Scales the gradients to a norm of at most ``largest``; returns it before, of all parts that ranks hold."""
    norm = torch.nn.utils.get_total_norm([one.grad for one in parameters if one.grad is not None])
    if isinstance(norm, DTensor):
        norm = norm.full_tensor()
    torch.nn.utils.clip_grads_with_norm_(parameters, largest, norm)
    return float(norm)
