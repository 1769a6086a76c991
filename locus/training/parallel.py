"""Data-parallel training through Lightning: all that trains is whole on each rank, or but for the optimiser's state, or
each rank has a part of it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from lightning.pytorch.plugins import DeepSpeedPrecision
from lightning.pytorch.strategies import DDPStrategy, DeepSpeedStrategy, ModelParallelStrategy, Strategy
from torch import distributed, nn
from torch.distributed import checkpoint as parts
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict

from locus import ranks
from locus.errors import LocusError
from locus.files.checkpoints import PARTS_POSITION, could_not_be_written, reader_of
from locus.files.run_files import remove

if TYPE_CHECKING:
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
        """See `save_whole`."""
        save_whole(self, Path(filepath), lambda path: super(Sharded, self).save_checkpoint(checkpoint, path))

    def load_checkpoint(self, checkpoint_path: str | Path, weights_only: bool | None = None) -> dict[str, Any]:
        """Reads this rank's part of the weights that train, and of the optimiser's state, into these."""
        path = Path(checkpoint_path)
        check_reader(path, "fsdp2")
        module = cast("PolicyModule", self.lightning_module)
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


class PartedOptimizer(DeepSpeedStrategy):
    """Lightning's DeepSpeed, ZeRO stage 1: each rank steps its part of the weights, whose optimiser state it alone has.

    The engine's accumulation is the caller's: gradients add up on each rank over any number of backward passes, and are
    summed over the ranks with the step. Stage 2 sums them within each pass, where ranks have different ones here.

    Args:
        clip_norm: of the gradient.
    """

    def __init__(self, clip_norm: float) -> None:
        super().__init__(stage=1, overlap_comm=False, reduce_bucket_size=ranks.BUCKET)
        assert self.config is not None
        self.config |= {
            "managed_gradient_accumulation": False,
            "gradient_allreduce_op": "sum",
            "gradient_clipping": clip_norm,
            "train_micro_batch_size_per_gpu": 1,  # of its own statistics alone
        }

    def init_deepspeed(self) -> None:
        """Makes an engine to train; what is not trained is whole without one."""
        assert self.lightning_module is not None
        if self.lightning_module.trainer.training:
            super().init_deepspeed()
        else:
            self.model_to_device()

    def training_step(self, *arguments: Any, **options: Any) -> Any:
        """Past the engine's forward pass, whose autocast keeps weights from before an update for what follows it."""
        assert self.lightning_module is not None
        with self.precision_plugin.train_step_context():
            return self.lightning_module.training_step(*arguments, **options)

    def validation_step(self, *arguments: Any, **options: Any) -> Any:
        """As `training_step`."""
        assert self.lightning_module is not None
        with self.precision_plugin.val_step_context():
            return self.lightning_module.validation_step(*arguments, **options)

    def complete_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Gives zeros to those without a gradient: the engine sums what each rank has, which must be the same."""
        self.deepspeed_engine.backward(0.0 * torch.stack([one.sum() for one in parameters]).sum())

    def norm(self) -> float:
        """Of the last step's gradient before it was clipped; infinite where the engine has left the step out."""
        return float(self.deepspeed_engine.get_global_grad_norm())

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: str | Path, storage_options: Any = None) -> None:
        """See `save_whole`; frozen weights that adapters are added to are left out, but for a tied head."""
        module = cast("PolicyModule", self.lightning_module)
        self.exclude_frozen_parameters = bool(module.policy.adapters)

        def write(path: Path) -> None:
            super(PartedOptimizer, self).save_checkpoint(checkpoint, path)
            if self.is_global_zero:
                torch.save({"locus": checkpoint["locus"], "ranks": self.world_size}, path / PARTS_POSITION)

        save_whole(self, Path(filepath), write)

    def load_checkpoint(self, checkpoint_path: str | Path, weights_only: bool | None = None) -> dict[str, Any]:
        """Reads the weights, and this rank's part of the optimiser's state; raises LocusError for other ranks'."""
        path = Path(checkpoint_path)
        check_reader(path, "deepspeed")
        wrote = torch.load(path / PARTS_POSITION, weights_only=True)["ranks"]
        if wrote != self.world_size:
            raise LocusError(
                f"checkpoint {path} is of {wrote} ranks, and DeepSpeed does not divide it anew: give trainer.devices "
                f"times trainer.num_nodes = {wrote}"
            )
        return super().load_checkpoint(path)

    def teardown(self) -> None:
        """Frees what is not needed after the run."""
        destroy = getattr(self.model, "destroy", None)  # only an engine has one
        self.model = self.lightning_module
        super().teardown()
        self._reset_optimizers_and_schedulers()
        if destroy is not None:
            destroy()  # else its hooks on the weights keep it in memory


class WeightsAsTheyAre(DeepSpeedPrecision):
    """Leaves weights and samples in their types; arithmetic is cast as by Lightning's own plugin.

    Args:
        mixed: whether arithmetic is in bfloat16.
    """

    def __init__(self, mixed: bool) -> None:
        super().__init__("32-true")
        self.mixed = mixed

    def convert_module(self, module: nn.Module) -> nn.Module:
        """As it is: a backbone may be in bfloat16, with adapters in float32."""
        return module

    def convert_input(self, data: Any) -> Any:
        """As it is: Lightning's cannot look into frozen samples."""
        return data

    @contextmanager
    def forward_context(self) -> Iterator[None]:
        """As of ``bf16-mixed``; weights change within a step, so none is kept as it was cast."""
        device = "cuda" if torch.cuda.is_available() else "cpu"
        with torch.autocast(device, torch.bfloat16, enabled=self.mixed, cache_enabled=False):
            yield


# --- Checkpoints of several files -----------------------------------------------------------------------------
def save_whole(strategy: Strategy, path: Path, write: Callable[[Path], None]) -> None:
    """A folder that all ranks write, beside its place and moved there once all parts are on the disk.

    Raises LocusError when the disk is full; the previous checkpoint stays whole.
    """
    partial = path.with_name(f".{path.name}.partial")
    if strategy.is_global_zero:
        remove(partial)
    strategy.barrier()
    try:
        write(partial)
    except (OSError, RuntimeError, parts.CheckpointException) as error:
        if ranks.is_lost(error):
            raise
        raise could_not_be_written(path, error) from error
    strategy.barrier()
    if strategy.is_global_zero:
        with (partial / PARTS_POSITION).open("rb") as file:
            os.fsync(file.fileno())
        remove(path)
        os.replace(partial, path)
    strategy.barrier()  # no rank looks for it before


def check_reader(path: Path, strategy: str) -> None:
    """Raises LocusError unless this ``trainer.strategy`` reads the checkpoint."""
    if strategy not in (readers := reader_of(path)):
        raise LocusError(f"checkpoint {path} is not of trainer={strategy}: resume with trainer.strategy={readers[-1]}")
