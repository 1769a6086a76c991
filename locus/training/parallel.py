"""Data-parallel training through Lightning."""

from __future__ import annotations

from lightning.pytorch.strategies import DDPStrategy
from torch import distributed


class DataParallel(DDPStrategy):
    """Lightning's DDP without torch's wrapper around the module: `PolicyModule.apply_update` sums the gradients.

    The wrapper sums them during a backward pass, and counts on one forward through it and one backward per step. Here
    a step calls the policy's parts, and has as many backward passes as its micro-batches, of which ranks have
    different numbers, some none: the wrapper would sum too often, or wait for ever. Its ``no_sync`` is right, but keeps
    a second copy of all gradients for nothing. One sum after the last micro-batch is the same update.
    """

    def configure_ddp(self) -> None:
        """Gives every rank the weights of rank zero, as the wrapper does."""
        assert self.model is not None
        for tensor in (*self.model.parameters(), *self.model.buffers()):
            distributed.broadcast(tensor.data, src=0)
