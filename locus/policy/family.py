"""What one family of vision-language models does in its own way; `VLM` and `PromptBuilder` do the rest.

A family is a class with these methods in a file of ``policy/families``, and an option of conf/backbone that names it as
``family``. It calls transformers' model and image processor as they are.

Shapes: B prompts, S tokens of each, P prompt tokens, A axes of a position, D width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import nn

from locus.policy.group_attention import AttentionPlan
from locus.types import Prompt


@dataclass(frozen=True, eq=False)
class VisionFeatures:
    """The vision tower's output for an image, or for one prompt's images in order."""

    embeddings: torch.Tensor
    """[image tokens, D]."""
    deepstack: tuple[torch.Tensor, ...]
    """One [image tokens, D] for each early layer that adds them (Qwen3-VL); empty where none does."""


class Family(Protocol):
    """The contract. ``model`` is the whole transformers model, its head included."""

    @property
    def unlisted_tokens(self) -> tuple[str, ...]:
        """Tokens of the tokenizer that stand for vision and that the configuration does not list."""

    def prepare(self, model: Any) -> None:
        """Gives every layer its part in the group forward; LocusError where that would not be exact."""

    def vision_tower(self, model: Any) -> nn.Module:
        """What ``backbone.train_vision`` freezes."""

    def vision_token_ids(self, config: Any) -> list[int]:
        """Tokens that stand for vision, by the configuration: never sampled."""

    def image_features(self, model: Any, pixels: torch.Tensor, grids: torch.Tensor) -> list[VisionFeatures]:
        """[patches, patch values] and [images, 3] -> the features of each image."""

    def positions(self, model: Any, prompt: Prompt) -> torch.Tensor:
        """[A, P] of one prompt; a completion continues at the largest of them plus 1, alike on all axes."""

    def hidden(
        self,
        model: Any,
        embeddings: torch.Tensor,
        positions: torch.Tensor,
        plan: AttentionPlan,
        image_mask: torch.Tensor | None,
        deepstack: list[torch.Tensor] | None,
    ) -> torch.Tensor:
        """The language model under a plan.

        Args:
            embeddings: [B, S, D], images in their places.
            positions: [A, B, S], or [B, S] where all axes are alike.
            image_mask: [B, S] bool, where an image token is.
            deepstack: of all images, for each early layer that adds them.

        Returns:
            [B, S, D] final states.
        """

    def grid(self, image_processor: Any, width: int, height: int) -> tuple[int, int, int]:
        """Frames, rows and columns of patches that an image of this size gets, by the processor's own resize rule."""

    def image_tokens(self, image_processor: Any, grid: torch.Tensor) -> int:
        """Of an image with such a grid, [3]."""
