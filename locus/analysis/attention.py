"""Where a policy looks when it answers: Attention-in-Box and Peak-in-Box (paper, section on Attention-in-Box).

The map of a layer is the attention from the position that predicts the answer's first token to the image's tokens, mean
over heads, on the merged token grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from locus.models.vlm import VLM
from locus.types import Box, QuestionPrompt

ANSWER_OPENED = "<think></think><answer>"
"""What a prompt's completion begins with, so that the next token is the answer's first."""


@dataclass(frozen=True)
class AttentionInBox:
    """How much of the attention lies in the evidence boxes of a question."""

    by_layer: tuple[float, ...]
    """Share of each layer's attention to the image that lies in the boxes, 0-1."""
    mean: float
    """The share in the mean of all layers' maps."""
    peak: bool
    """Whether the strongest cell of that mean lies in a box."""
    area: float
    """Share of the image's cells in the boxes: what attention spread evenly would give."""


def evidence_mask(boxes: Sequence[Box], rows: int, columns: int) -> np.ndarray:
    """[rows, columns] bool: cells that intersect any box."""
    mask = np.zeros((rows, columns), dtype=bool)
    for box in boxes:
        left, right = box.x1 * columns / box.width, box.x2 * columns / box.width
        top, bottom = box.y1 * rows / box.height, box.y2 * rows / box.height
        mask[int(top) : int(np.ceil(bottom)), int(left) : int(np.ceil(right))] = True
    return mask


def attention_in_box(maps: np.ndarray, mask: np.ndarray) -> AttentionInBox:
    """[L, rows, columns] maps of one question and its mask -> the shares."""
    averaged = maps.mean(0)
    shares = (maps * mask).sum((1, 2)) / maps.sum((1, 2))
    peak = bool(mask.flat[int(averaged.argmax())])
    mean = float((averaged * mask).sum() / averaged.sum())
    return AttentionInBox(tuple(shares.tolist()), mean, peak, float(mask.mean()))


@torch.no_grad()
def attention_maps(policy: VLM, prompts: Sequence[QuestionPrompt], batch: int = 64) -> list[np.ndarray]:
    """[L, rows, columns] of each prompt, from its last token; see `ANSWER_OPENED`."""
    policy.eval()
    maps = []
    for start in range(0, len(prompts), batch):
        part = prompts[start : start + batch]
        attention = policy.attention_from_last(part)  # [L, B, P]
        for index, prompt in enumerate(part):
            here = prompt.mm_token_type_ids.bool().nonzero()[:, 0].to(attention.device)
            merge = policy.model.config.vision_config.spatial_merge_size
            _, rows, columns = (prompt.image_grid_thw[0] // torch.tensor([1, merge, merge])).tolist()
            maps.append(attention[:, index, here].float().view(-1, rows, columns).cpu().numpy())
    return maps
