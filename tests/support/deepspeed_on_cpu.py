"""``trainer=deepspeed`` on a CPU, which DeepSpeed knows and Lightning's strategy refuses."""

from __future__ import annotations

import os
import runpy
from unittest import mock

import torch
from lightning.fabric.plugins.environments.lightning import find_free_network_port
from lightning.pytorch.strategies import DDPStrategy

from locus.run import settings, trainer
from locus.training.parallel import PartedOptimizer
from tests.support.runs import Ended, finish, spawn


class OnCPU(PartedOptimizer):
    """The same without the checks for CUDA."""

    @property
    def root_device(self) -> torch.device:
        """With an index, as a GPU's has."""
        return torch.device("cpu", 0)

    def setup_environment(self) -> None:
        """What Lightning's does behind its check."""
        DDPStrategy.setup_environment(self)

    def setup_distributed(self) -> None:
        """Ranks on a CPU have no numbers of devices."""
        with mock.patch("lightning.pytorch.strategies.deepspeed._validate_device_index_selection"):
            super().setup_distributed()


def ranks(count: int, *overrides: object) -> Ended:
    """``python -m locus.train <overrides>`` on so many ranks, which torchrun starts where they are several."""
    port = find_free_network_port()
    torchrun = "-m", "torch.distributed.run", f"--nproc-per-node={count}", f"--master-port={port}"
    return finish(spawn(*torchrun * (count > 1), "-m", __name__, *overrides), timeout=400)


if __name__ == "__main__":
    os.environ["DS_ACCELERATOR"] = "cpu"
    with (
        mock.patch.object(trainer, "PartedOptimizer", OnCPU),
        mock.patch.object(settings, "check_deepspeed"),
        mock.patch("deepspeed.comm.torch.build_shm_op", return_value=None),  # a minute of g++
    ):
        runpy.run_module("locus.train", run_name="__main__", alter_sys=True)
