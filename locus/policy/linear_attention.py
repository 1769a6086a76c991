"""Linear attention in the group forward: a prompt's last state, which each of its completions continues.

A layer of linear attention keeps no keys. Gated DeltaNet (arXiv 2412.06464) carries the last inputs of a short
convolution and one matrix per head from token to token, so a completion continues the prompt exactly when it begins
with these two. The stock layer computes both; a plan decides what it runs on, and keeps the states.

Shapes: R rows, T tokens of each, D width, C channels of the convolution, W its width, H heads, K and V widths of a
head's keys and values.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F


@dataclass(frozen=True, eq=False)
class LayerState:
    """What one layer carries behind the last token of each row, with its graph if there is one."""

    convolution: torch.Tensor
    """[R, C, W] its last inputs."""
    recurrent: torch.Tensor
    """[R, H, K, V]."""

    def select(self, rows: torch.Tensor) -> LayerState:
        """Of these rows [R'], copied; one may be taken several times."""
        return LayerState(self.convolution.index_select(0, rows), self.recurrent.index_select(0, rows))

    @classmethod
    def joined(cls, states: Sequence[LayerState]) -> LayerState:
        """Of all their rows."""
        names = ("convolution", "recurrent")
        return cls(*(torch.cat([getattr(state, name) for state in states]) for name in names))


LinearLayer = Callable[[torch.Tensor, LayerState | None, torch.Tensor | None], tuple[torch.Tensor, LayerState]]
"""Inputs [R, T, D], the states they continue, and [R, T] bool, False at padding before a row -> outputs [R, T, D] and
the states behind them."""


class StateCache:
    """One layer's state in the form of transformers' cache; unlike its own, it keeps the graph."""

    def __init__(self, state: LayerState | None):
        self.convolution = None if state is None else state.convolution
        self.recurrent = None if state is None else state.recurrent

    @property
    def state(self) -> LayerState:
        """The one behind the last token."""
        assert self.convolution is not None and self.recurrent is not None
        return LayerState(self.convolution, self.recurrent)

    def get_conv_state(self, layer_idx: int, state_idx: int = 0) -> torch.Tensor | None:
        return self.convolution

    def get_recurrent_state(self, layer_idx: int, state_idx: int = 0) -> torch.Tensor | None:
        return self.recurrent

    def is_recording_past(self, layer_idx: int) -> bool:
        """Whether more is asked for than the last state."""
        return False

    def update_conv_state(self, inputs: torch.Tensor, layer_idx: int, conv_kernel_size: int) -> torch.Tensor:
        """[R, C, T] -> the same behind those before, [R, C, W + T], where there are some."""
        whole = inputs if self.convolution is None else torch.cat([self.convolution.to(inputs.dtype), inputs], dim=-1)
        self.convolution = F.pad(whole, (conv_kernel_size - whole.shape[-1], 0))
        return whole

    def update_recurrent_state(self, state: torch.Tensor, layer_idx: int) -> None:
        self.recurrent = state


def after_padding(inputs: torch.Tensor, mask: torch.Tensor, layer: LinearLayer) -> tuple[torch.Tensor, LayerState]:
    """A layer on rows that are padded behind, whose states are those behind their last real tokens.

    Padding changes a state even where it holds zeros, for a state fades; so it is moved before the row, where it has
    none to change.

    Args:
        inputs: [R, T, D].
        mask: [R, T] bool, False at padding.

    Returns:
        [R, T, D], with whatever at padding, and the states.
    """
    tokens = inputs.shape[1]
    steps, padding = torch.arange(tokens, device=inputs.device), tokens - mask.sum(1, keepdim=True)

    def rolled(states: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        return states.gather(1, index.remainder(tokens)[..., None].expand_as(states))

    outputs, state = layer(rolled(inputs, steps - padding), None, steps >= padding)
    return rolled(outputs, steps + padding), state
