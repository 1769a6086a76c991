"""Optimisers beside torch's: what ``optimizer.make._target_`` may name."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch.optim import Optimizer

from locus.policy.quantization import bitsandbytes


def adamw_8bit(
    parameters: Iterable[torch.nn.Parameter],
    lr: float = 1e-3,
    betas: Sequence[float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 1e-2,
) -> Optimizer:
    """AdamW whose two moments take a byte each (arXiv 2110.02861), by bitsandbytes, which is optional.

    Those of parameters of fewer than 4096 numbers stay in float32. Raises LocusError where it is not installed.
    """
    library = bitsandbytes("adamw_8bit")
    return library.optim.AdamW8bit(parameters, lr, tuple(betas), eps, weight_decay)
