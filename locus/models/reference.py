"""The frozen reference: a copy of the policy's first weights, outside every checkpoint."""

from __future__ import annotations

import torch

from locus.models.vlm import VLM


class Reference:
    """Holds a frozen VLM without being an nn.Module, so that no state dict and no optimiser ever sees it."""

    def __init__(self, vlm: VLM):
        self._vlm = vlm.requires_grad_(False).eval()

    def on(self, device: torch.device) -> VLM:
        """The reference on ``device``; moved at the first call."""
        if self._vlm.device != device:
            self._vlm.to(device)
        return self._vlm
