"""What a run took, beside what it was planned to take: both stand in ``run.json``."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import nn

from locus.errors import LocusError
from locus.files.progress import peak_memory_gb
from locus.policy.quantization import stored_numbers

COSTS = ("peak_memory_gb", "outcome")
"""Keys of `costs`."""


def read_plan(folder: str | None, parameters: Iterable[nn.Parameter]) -> dict[str, Any] | None:
    """GB at the peak, seconds per step by phase and hours, from the folder of a plan; None without one.

    Raises LocusError for a folder without a plan, or with one of a policy of other parameters than these.
    """
    if folder is None:
        return None
    path = Path(folder) / "plan.json"
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        planned = record["parameters"]["trained"], record["parameters"]["frozen"]
        figures = {
            "peak_gb": max(record["peak_gb"].values()),
            "seconds_per_step": record["seconds_per_step"],
            "hours": record["hours"],
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise LocusError(
            f"planned={folder}: no plan.json of python -m locus.plan there; give its run folder"
        ) from error
    counts = [(stored_numbers(one), one.requires_grad) for one in parameters]
    own = sum(n for n, trains in counts if trains), sum(n for n, trains in counts if not trains)
    if planned != own:
        raise LocusError(
            f"planned={folder}: the plan is of {planned[0]:,} trained and {planned[1]:,} frozen parameters, the run "
            f"has {own[0]:,} and {own[1]:,}: plan it with the run's own overrides"
        )
    return figures


def held_before(on_gpu: bool) -> float:
    """GB of the process that are not the run's: on a CPU its peak so far, on a GPU, whose peak begins anew, tensors."""
    if not on_gpu:
        return peak_memory_gb(on_gpu)
    if not torch.cuda.is_available():  # it is missed soon
        return 0.0
    torch.cuda.reset_peak_memory_stats()
    return torch.cuda.memory_allocated() / 1e9


def costs(metrics: pd.DataFrame, on_gpu: bool, before: float) -> dict[str, Any]:
    """What ``run.json`` says of the process, and under ``outcome`` the same as a plan, as measured.

    The outcome's ``peak_gb`` is None where the process has held more before, as in a sweep on a CPU.

    Args:
        metrics: rows of ``metrics.csv``.
        on_gpu: where the run was.
        before: see `held_before`.
    """
    names = [name for name in metrics if name.startswith("time/")]
    seconds = {name.removeprefix("time/").removesuffix("_s"): float(metrics[name].mean()) for name in names}
    peak = peak_memory_gb(on_gpu)
    measured = {"peak_gb": peak - before if peak > before else None, "seconds_per_step": seconds}
    return {"peak_memory_gb": peak, "outcome": measured}
