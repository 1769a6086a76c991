"""The frozen reference, the policy's first weights: outside every checkpoint, and a second copy only where needed."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh

from locus.policy.inference import fixed
from locus.policy.lora import adapters_off
from locus.policy.sharding import shard
from locus.policy.vlm import VLM


class Reference(Protocol):
    """Lends the reference, frozen, for scoring without gradient."""

    def on(self, device: torch.device) -> AbstractContextManager[VLM]:
        """``with reference.on(device) as vlm``: only inside, ``vlm`` is the reference."""

    def rest(self) -> None:
        """Its turn in a step is over; `on` begins the next."""

    def release(self) -> None:
        """Gives the device's memory back; `on` takes it again."""

    def shard(self, mesh: DeviceMesh) -> None:
        """From here on the ranks share it; all must call `on` together."""


class FrozenCopy:
    """Holds a frozen VLM without being an nn.Module, so that no state dict and no optimiser ever sees it."""

    def __init__(self, vlm: VLM):
        self._vlm = vlm.requires_grad_(False).eval()

    @contextmanager
    def on(self, device: torch.device) -> Iterator[VLM]:
        """Moved to ``device`` at the first call; gathered at each where the ranks share it."""
        if self._vlm.device != device:
            self._vlm.to(device)
        with fixed(self._vlm) as vlm:
            yield vlm

    def shard(self, mesh: DeviceMesh) -> None:
        """Leaves this rank its part of the weights."""
        shard(self._vlm, mesh)

    def rest(self) -> None:
        """Nothing: it waits on the device."""

    def release(self) -> None:
        """Moved to the CPU; a part that ranks share stays."""
        if self._vlm.sharding is None:
            self._vlm.to("cpu")


class OffloadedCopy:
    """A frozen VLM that stays on the CPU, and is copied to the device for its turn in each step."""

    def __init__(self, vlm: VLM):
        self._vlm = vlm.requires_grad_(False).eval()
        self._copy: VLM | None = None

    @contextmanager
    def on(self, device: torch.device) -> Iterator[VLM]:
        """Copied to ``device`` at the first call of a turn."""
        if self._copy is None:
            tensors: dict[int, Any] = {id(one): nn.Parameter(one.to(device), False) for one in self._vlm.parameters()}
            tensors |= {id(one): one.to(device) for one in self._vlm.buffers()}
            self._copy = copy.deepcopy(self._vlm, tensors)
        yield self._copy

    def shard(self, mesh: DeviceMesh) -> None:
        """Nothing: each rank copies it whole, for a turn."""

    def rest(self) -> None:
        """The device's copy is dropped."""
        self._copy = None

    def release(self) -> None:
        """As after every turn."""
        self.rest()


class AdaptersOff:
    """The policy itself without its adapters; held in no way that makes it a second module of the run."""

    def __init__(self, policy: VLM):
        self._policy = policy

    @contextmanager
    def on(self, device: torch.device) -> Iterator[VLM]:
        """Where the policy is, which is the run's device."""
        with fixed(self._policy) as policy, adapters_off(policy):
            yield policy

    def shard(self, mesh: DeviceMesh) -> None:
        """Nothing: the policy is sharded by its own."""

    def rest(self) -> None:
        """Nothing: it has no memory of its own."""

    def release(self) -> None:
        """Nothing: the policy is the run's own."""


def reference_of(policy: VLM, load: Callable[[], VLM], offload: bool = False) -> Reference:
    """The policy with its adapters off where only those train, else a copy that ``load`` makes.

    offload: whether the copy leaves the device between its turns.
    """
    if policy.adapters:
        return AdaptersOff(policy)
    return (OffloadedCopy if offload else FrozenCopy)(load())
