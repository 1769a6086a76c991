"""The frozen reference, the policy's first weights: outside every checkpoint, and a second copy only where needed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

import torch

from locus.policy.lora import adapters_off
from locus.policy.vlm import VLM


class Reference(Protocol):
    """Lends the reference, frozen, for scoring without gradient."""

    def on(self, device: torch.device) -> AbstractContextManager[VLM]:
        """``with reference.on(device) as vlm``: only inside, ``vlm`` is the reference."""

    def release(self) -> None:
        """Gives the device's memory back; `on` takes it again."""


class FrozenCopy:
    """Holds a frozen VLM without being an nn.Module, so that no state dict and no optimiser ever sees it."""

    def __init__(self, vlm: VLM):
        self._vlm = vlm.requires_grad_(False).eval()

    @contextmanager
    def on(self, device: torch.device) -> Iterator[VLM]:
        """Moved to ``device`` at the first call."""
        if self._vlm.device != device:
            self._vlm.to(device)
        yield self._vlm

    def release(self) -> None:
        """Moved to the CPU."""
        self._vlm.to("cpu")


class AdaptersOff:
    """The policy itself without its adapters; held in no way that makes it a second module of the run."""

    def __init__(self, policy: VLM):
        self._policy = policy

    def on(self, device: torch.device) -> AbstractContextManager[VLM]:
        """Where the policy is, which is the run's device."""
        return adapters_off(self._policy)

    def release(self) -> None:
        """Nothing: the policy is the run's own."""


def reference_of(policy: VLM, load: Callable[[], VLM]) -> Reference:
    """The policy with its adapters off where only those train, else a copy that ``load`` makes."""
    return AdaptersOff(policy) if policy.adapters else FrozenCopy(load())
