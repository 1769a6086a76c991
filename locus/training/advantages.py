"""Rewards of a group -> advantages.

Shapes: B prompts, G rollouts per prompt.
"""

from __future__ import annotations

import torch

SPREAD = 1e-6
"""Rewards of a group that differ by less carry no signal: rounding, not preference."""


def has_spread(rewards: torch.Tensor) -> torch.Tensor:
    """[B, G] rewards -> [B] bool: do the rollouts of this group differ?"""
    return rewards.amax(dim=1) - rewards.amin(dim=1) > SPREAD


def length_penalty(lengths: torch.Tensor, limit: int, buffer: float) -> torch.Tensor:
    """DAPO's soft overlong punishment (arXiv 2503.14476, eq. 13).

    Args:
        lengths: tokens of completions, of any shape.
        limit: of new tokens.
        buffer: share of the limit, at its end, in which the penalty grows.

    Returns:
        float64 of that shape: 0 up to ``(1 - buffer) * limit`` tokens, then falling linearly to -1 at the limit.
    """
    return -((lengths.double() - (1 - buffer) * limit) / (buffer * limit)).clamp(0, 1)


def group_advantages(rewards: torch.Tensor, divide_by_std: bool = True, std_epsilon: float = 1e-6) -> torch.Tensor:
    """GRPO advantages (DeepSeekMath, arXiv 2402.03300, section 4.1.2): reward minus group mean, over group std.

    Args:
        rewards: [B, G] float.
        divide_by_std: off in Dr. GRPO (arXiv 2503.20783).
        std_epsilon: added to the unbiased std; EasyR1 1e-6, TRL 1e-4.

    Returns:
        [B, G] float32; exactly zero for a group without spread.
    """
    centred = rewards - rewards.mean(dim=1, keepdim=True)
    if divide_by_std and rewards.shape[1] > 1:
        centred = centred / (rewards.std(dim=1, keepdim=True) + std_epsilon)
    return torch.where(has_spread(rewards)[:, None], centred, torch.zeros_like(centred)).float()
