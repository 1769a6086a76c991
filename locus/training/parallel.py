"""Data-parallel training through Lightning, with whole weights on each rank or with a part of them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, cast

import torch
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy
from torch import distributed
from torch.distributed import checkpoint as parts
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict

from locus import ranks
from locus.errors import LocusError
from locus.files.run_files import PARTS_POSITION, could_not_be_written, remove
from locus.training.module import PolicyModule


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


class Sharded(ModelParallelStrategy):
    """Lightning's FSDP2, with checkpoints that are whole or not there; `PolicyModule.configure_model` shards.

    A checkpoint is a folder in PyTorch's distributed format, in which each rank has written its part; it is read by any
    number of ranks, each what it holds.
    """

    def __init__(self, ranks: int) -> None:
        super().__init__(data_parallel_size=ranks, tensor_parallel_size=1)

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: str | Path, storage_options: Any = None) -> None:
        """Written beside its place and moved there once all parts are on the disk.

        Raises LocusError when the disk is full; the previous checkpoint stays whole.
        """
        path = Path(filepath)
        partial = path.with_name(f".{path.name}.partial")
        if self.is_global_zero:
            remove(partial)
        self.barrier()
        try:
            super().save_checkpoint(checkpoint, partial, storage_options)
        except (OSError, RuntimeError, parts.CheckpointException) as error:
            if ranks.is_lost(error):
                raise
            raise could_not_be_written(path, error) from error
        self.barrier()
        if self.is_global_zero:
            with (partial / PARTS_POSITION).open("rb") as file:
                os.fsync(file.fileno())
            remove(path)
            os.replace(partial, path)
        self.barrier()  # no rank looks for it before

    def load_checkpoint(self, checkpoint_path: str | Path, weights_only: bool | None = None) -> dict[str, Any]:
        """Reads this rank's part of the weights that train, and of the optimiser's state, into these."""
        path = Path(checkpoint_path)
        if not path.is_dir():
            raise LocusError(
                f"checkpoint {path} is of a run whose ranks do not share weights: resume without trainer=fsdp2"
            )
        module = cast(PolicyModule, self.lightning_module)
        state: dict[str, Any] = {"state_dict": module.trained_state()}
        for index, optimizer in enumerate(self.optimizers):
            state[f"optimizer_{index}"] = get_optimizer_state_dict(module, optimizer)
        try:
            parts.load(state, checkpoint_id=path)
        except (RuntimeError, parts.CheckpointException) as error:
            raise LocusError(
                f"checkpoint {path} is of another model, or damaged: resume with the backbone it was made with, or "
                "delete it to resume from an earlier one"
            ) from error
        for index, optimizer in enumerate(self.optimizers):
            set_optimizer_state_dict(module, optimizer, state[f"optimizer_{index}"])
        return torch.load(path / PARTS_POSITION, weights_only=True)

    def teardown(self) -> None:
        """Frees what is not needed after the run."""
        super().teardown()
        self._reset_optimizers_and_schedulers()
