"""Attention of the vision towers: patches packed in one row, each attending to those of its own segment.

A segment is an image or, in the windowed layers of Qwen2.5-VL, a window. With its SDPA, transformers calls the
attention once per segment. To an implementation that its name declares to be of the flash kind it gives all patches and
the segments' bounds at once, which is what is registered here: nothing is patched.

Shapes: N patches, S segments, H heads, D head width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import groupby, pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch.nn.attention.varlen import varlen_attn
from transformers import AttentionInterface

NAME = "locus_segments_flash"
"""Transformers reads the kind of an implementation in its name."""


def segment_attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    cu_seq_lens_q: torch.Tensor,
    max_length_q: int,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """The attention function as transformers calls it.

    Args:
        query, key, value: [1, H, N, D].
        cu_seq_lens_q: [S + 1] int32, where each segment begins, and N.
        max_length_q: patches of the longest segment.

    Returns:
        [1, N, H, D].
    """
    packed = [states[0].transpose(0, 1) for states in (query, key, value)]
    if _fused(query, scaling):
        q, k, v = (states.contiguous() for states in packed)
        output = varlen_attn(q, k, v, cu_seq_lens_q, cu_seq_lens_q, max_length_q, max_length_q)
        assert isinstance(output, torch.Tensor)
        return output[None], None
    return by_runs(packed, cu_seq_lens_q.tolist(), scaling)[None], None


def _fused(query: torch.Tensor, scale: float) -> bool:
    """Whether torch has one kernel for all segments: flash attention, which torch 2.11 gives no scale but its own."""
    if not query.is_cuda or query.dtype not in (torch.float16, torch.bfloat16):
        return False
    width = query.shape[-1]
    recent = torch.cuda.get_device_capability(query.device)[0] >= 8
    return recent and width % 8 == 0 and math.isclose(scale, width**-0.5)


def by_runs(packed: Sequence[torch.Tensor], bounds: Sequence[int], scale: float) -> torch.Tensor:
    """Query, key and value, [N, H, D] each -> [N, H, D]: one call for neighbouring segments of one length.

    In a row of windows only the last may be narrower. Gathering all of one length would make four calls of it, and
    costs more than it saves: on a CPU the copies take longer than the calls.
    """
    lengths = [(end - start) for start, end in pairwise(bounds) if end > start]
    outputs, start = [], 0
    for length, run in groupby(lengths):
        end = start + length * len(list(run))
        q, k, v = (states[start:end].unflatten(0, (-1, length)).transpose(1, 2) for states in packed)  # [S', H, ., D]
        outputs.append(F.scaled_dot_product_attention(q, k, v, scale=scale).transpose(1, 2).flatten(0, 1))
        start = end
    return torch.cat(outputs)


def register(name: str, attention: Any) -> None:
    """Gives transformers an attention function by name; one of the flash kind has it in its name."""
    AttentionInterface.register(name, attention)


register(NAME, segment_attention)
