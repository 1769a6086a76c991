"""Where a policy looks when it answers: Attention-in-Box and Peak-in-Box (paper, section on Attention-in-Box).

The map of a layer is the attention from the position that predicts the answer's first token to the image's tokens, mean
over heads, on the merged token grid. Shapes: L layers, a grid of [rows, columns] cells.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from locus.policy.vlm import VLM, VisionFeatures
from locus.types import Box, Prompt


@dataclass(frozen=True)
class AttentionInBox:
    """How much of the attention lies in the evidence boxes of a question."""

    by_layer: tuple[float, ...]
    """Share of each layer's attention to the image that lies in the boxes' cells, 0-1."""
    mean: float
    """The share in the mean of all layers' maps."""
    covered: float
    """The same, each cell counted by how much of it the boxes cover: for boxes smaller than a cell."""
    peak: bool
    """Whether the strongest cell of that mean is a cell of a box."""
    peak_by_layer: tuple[bool, ...]
    """The same of each layer's own map."""
    area: float
    """Share of the image's cells in the boxes: what attention spread evenly would give."""


def coverage(boxes: Sequence[Box], rows: int, columns: int) -> np.ndarray:
    """[rows, columns] share of each cell that lies in any of the boxes, 0-1; where boxes overlap it counts once.

    Cells above 0 are the paper's mask: those that intersect any box.
    """
    cells = np.array([columns, rows, columns, rows])
    # Times cells first: an edge that lies on a cell's edge must not reach into the next one by a rounding error.
    corners = np.array([np.array(box.xyxy) * cells / ((box.width, box.height) * 2) for box in boxes]).clip(0, cells)
    # On the grid of all cells' and boxes' edges every piece lies in one cell, and wholly in or out of a box.
    across = np.unique(np.concatenate([np.arange(columns + 1), corners[:, 0], corners[:, 2]]))
    down = np.unique(np.concatenate([np.arange(rows + 1), corners[:, 1], corners[:, 3]]))
    x, y = (across[1:] + across[:-1]) / 2, (down[1:] + down[:-1]) / 2
    inside = np.zeros((len(y), len(x)), dtype=bool)
    for x1, y1, x2, y2 in corners:
        inside |= ((y > y1) & (y < y2))[:, None] & ((x > x1) & (x < x2))
    pieces = inside * np.diff(down)[:, None] * np.diff(across)
    found = np.zeros((rows, columns))
    np.add.at(found, (y.astype(int)[:, None], x.astype(int)), pieces)
    return found


def attention_in_box(maps: np.ndarray, boxes: Sequence[Box]) -> AttentionInBox:
    """[L, rows, columns] maps of one question and its evidence boxes -> the shares."""
    share = coverage(boxes, *maps.shape[1:])
    mask, averaged = share > 0, maps.mean(0)
    by_layer = (maps * mask).sum((1, 2)) / maps.sum((1, 2))
    mean, covered = ((averaged * part).sum() / averaged.sum() for part in (mask, share))
    peak, *peaks = (bool(mask.flat[int(one.argmax())]) for one in (averaged, *maps))
    shares = tuple(by_layer.tolist()), float(mean), float(covered)
    return AttentionInBox(*shares, peak, tuple(peaks), float(mask.mean()))


@torch.no_grad()
def attention_maps(
    policy: VLM, prompts: Sequence[Prompt], features: Sequence[VisionFeatures] | None = None
) -> list[np.ndarray]:
    """[L, rows, columns] of each prompt of one batch, from its last token to its first image.

    ``features`` are of the prompts' images, where they are known already.
    """
    policy.eval()
    attention = policy.attention_from_last(prompts, features)  # [L, B, P]
    merge = policy.model.config.vision_config.spatial_merge_size
    maps = []
    for index, prompt in enumerate(prompts):
        _, rows, columns = (prompt.image_grid_thw[0] // torch.tensor([1, merge, merge])).tolist()
        here = prompt.mm_token_type_ids.bool().nonzero()[: rows * columns, 0].to(attention.device)
        maps.append(attention[:, index, here].float().view(-1, rows, columns).cpu().numpy())
    return maps
