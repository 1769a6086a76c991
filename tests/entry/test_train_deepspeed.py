"""``trainer=deepspeed``: a run whose ranks share the optimiser's state is the run of one; its checkpoints."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from lightning_utilities.core.imports import RequirementCache

from locus.files.checkpoints import DEEPSPEED as PARTS
from locus.files.checkpoints import PARTS_POSITION, checkpoint_path
from locus.run import settings
from tests.support.deepspeed_on_cpu import ranks
from tests.support.interrupted import cut, refused_without
from tests.support.run_of_ranks import DEEPSPEED, overrides, same_run
from tests.support.runs import SMALLEST, command, refused, succeeded, train

needs_deepspeed = pytest.mark.skipif(
    not RequirementCache(settings.DEEPSPEED), reason=f"needs {settings.DEEPSPEED}, which is not among the requirements"
)


@needs_deepspeed
@pytest.mark.slow
@pytest.mark.parametrize("case", ["full", "lora"])
def test_ranks_that_share_the_optimisers_state_make_the_run_of_one(tmp_path: Path, case: str):
    """Means for sums, a rank without a gradient, a norm of one part, and the other ranks' state lost with a checkpoint.

    Mini-batches of which a rank has nothing and groups that are split, with several backward passes, are among it.
    """
    one, folder = tmp_path / "one", tmp_path / "run"
    train(one, *overrides(case))
    begun = *SMALLEST, *DEEPSPEED, *overrides(case), "trainer.devices=2", f"hydra.run.dir={folder}"
    succeeded(ranks(2, *begun))
    same_run(folder, one)
    if case == "full":
        return
    cut(folder, 2)
    succeeded(ranks(2, f"resume={folder}"))
    same_run(folder, one)
    # Other ranks, and other trainers, say so.
    alone = f"resume={folder}", "trainer.devices=1", "trainer.steps=5"
    ended = ranks(1, *alone)
    assert ended.status == 2 and "is of 2 ranks" in ended.stderr and "Traceback" not in ended.stderr, ended.stderr
    for strategy in ("auto", "fsdp2"):
        refused(command("train", *alone, f"trainer.strategy={strategy}"), "trainer.strategy=deepspeed")


@needs_deepspeed
@pytest.mark.slow
def test_mixed_precision_is_that_of_ddp(tmp_path: Path):
    """Weights cast before an update that score what follows it in the same step, as in an autocast of the engine's."""
    sizes = *SMALLEST, *overrides("full"), "algorithm.refill=0", "trainer.steps=2", "trainer.devices=2"
    on_cpu = "trainer.accelerator=cpu", "trainer.precision=bf16-mixed", "trainer.workers=0"
    runs = [tmp_path / name for name in ("ddp", "deepspeed")]
    succeeded(command("train", *sizes, *on_cpu, "trainer=ddp", f"hydra.run.dir={runs[0]}"))
    succeeded(ranks(2, *sizes, *on_cpu, "trainer=deepspeed", f"hydra.run.dir={runs[1]}"))
    same_run(*runs)


def saved_by_engine(folder: Path, step: int) -> Path:
    """A checkpoint of this step with the files that the engine writes on two ranks."""
    path = checkpoint_path(folder, step)
    (path / PARTS).mkdir(parents=True)
    for name in ("mp_rank_00_model", *(f"zero_pp_rank_{rank}_mp_rank_00_optim" for rank in range(2))):
        torch.save({"weight": torch.ones(100)}, path / PARTS / f"{name}_states.pt")
    torch.save({"locus": {"finished_steps": step}, "ranks": 2}, path / PARTS_POSITION)
    return path


@pytest.mark.parametrize("name", [PARTS_POSITION, f"{PARTS}/zero_pp_rank_1_mp_rank_00_optim_states.pt"])
@pytest.mark.parametrize("kept", [None, 0.9])
def test_a_checkpoint_with_a_part_missing_or_cut_is_corrupt(tmp_path: Path, name: str, kept: float | None):
    """A run that goes on with a part of the optimiser's state from a checkpoint, and the rest from nothing."""
    refused_without(saved_by_engine, tmp_path, name, kept)


def test_what_deepspeed_cannot_do_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Lightning's traceback after the weights are loaded, or an engine that sums gradients in each backward pass."""
    given = *SMALLEST, "trainer=deepspeed", f"hydra.run.dir={tmp_path}"
    refused(command("train", *given, "trainer.accelerator=cpu"), "trainer.accelerator=cpu", "trainer=ddp")
    monkeypatch.setattr(settings, "DEEPSPEED", "deepspeed>=999")
    refused(command("train", *given), "needs deepspeed>=999", "pip install")
