"""A vision-language model as the trainer sees it: pictures once, prompts once, then G rows.

Wraps a stock transformers model; what its `Family` does in its own way is asked of that. The language model is called
with embeddings, explicit positions and an attention plan (`group_attention`); the vision tower is called apart, so that
its features can serve rollout, reference and policy.

Shapes: B prompts, G rollouts per prompt, P prompt tokens, T completion tokens, D width, V vocabulary, L layers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel

from locus.errors import LocusError
from locus.policy.families.qwen_vl import QwenVL
from locus.policy.family import Family
from locus.policy.family import VisionFeatures as VisionFeatures
from locus.policy.group_attention import AttentionPlan, Continuation, Prefill, Watched
from locus.types import Frame, Prompt

if TYPE_CHECKING:
    from locus.policy.sharding import Sharding


@dataclass(frozen=True, eq=False)
class EncodedPrompts:
    """Prompts after one pass through the model: all that a completion needs to continue them."""

    features: list[VisionFeatures]
    """Of each prompt's images."""
    hidden: torch.Tensor
    """[B, D] the state that predicts the first completion token."""
    prefill: Prefill
    """Every layer's keys and values."""
    next_position: torch.Tensor
    """[B] the position of the first completion token, alike on all axes."""


class VLM(nn.Module):
    """A policy or reference: a transformers model and the frame it writes boxes in."""

    forbidden: torch.Tensor

    def __init__(
        self,
        model: PreTrainedModel,
        frame: Frame,
        end_token_ids: Sequence[int],
        train_vision: bool = True,
        vision_token_ids: Sequence[int] = (),
        family: Family | None = None,
    ):
        super().__init__()
        self.family: Family = QwenVL() if family is None else family
        self.family.prepare(model)
        self.model = model
        self.frame = frame
        self.end_token_ids = tuple(end_token_ids)
        self.train_vision = train_vision
        self.adapters: dict[str, Any] = {}
        """Layers with low-rank adapters, by their name in ``model``, where only those train (see `lora`)."""
        self.sharding: Sharding | None = None
        """Where the ranks of a run share its weights (see `sharding`)."""
        self.family.vision_tower(model).requires_grad_(train_vision)
        forbidden = self.family.vision_token_ids(model.config)
        forbidden += [token for token in vision_token_ids if token not in forbidden]
        # Not sampled and masked alike when scoring: with one of them in a completion the image features and the
        # image tokens no longer match, and transformers stops.
        self.register_buffer("forbidden", torch.tensor(forbidden), persistent=False)

    @property
    def device(self) -> torch.device:
        return self.forbidden.device

    @property
    def lm_head(self) -> nn.Linear:
        """[D] -> [V]."""
        return self.model.lm_head

    @property
    def recomputes(self) -> bool:
        """Whether activations are computed again in the backward pass (gradient checkpointing)."""
        return any(getattr(part, "gradient_checkpointing", False) for part in self.model.modules())

    @property
    def drops_out(self) -> bool:
        """Whether training is at random: some layer has dropout."""
        return any(isinstance(part, nn.Dropout) and part.p > 0 for part in self.modules())

    def vision_features(self, prompts: Sequence[Prompt]) -> list[VisionFeatures]:
        """Runs the vision tower once over all images of these prompts; without gradient when it is frozen."""
        pictured = [prompt for prompt in prompts if len(prompt.image_grid_thw)]
        none = VisionFeatures(torch.empty(0, self.lm_head.in_features, device=self.device), ())
        if not pictured:
            return [none for _ in prompts]
        pixels = torch.cat([prompt.pixels.values(self.device) for prompt in pictured])
        grids = torch.cat([prompt.image_grid_thw for prompt in pictured]).to(self.device)
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.train_vision):
            of_images = self.family.image_features(self.model, pixels, grids)
        features, start = [], 0
        for prompt in prompts:
            images = of_images[start : start + len(prompt.image_grid_thw)]
            start += len(images)
            if not images:
                features.append(none)
                continue
            layers = zip(*(image.deepstack for image in images), strict=True)
            embeddings = torch.cat([image.embeddings for image in images])
            features.append(VisionFeatures(embeddings, tuple(torch.cat(layer) for layer in layers)))
        return features

    def encode(
        self,
        prompts: Sequence[Prompt],
        features: Sequence[VisionFeatures] | None = None,
        plan_type: type[Prefill] = Prefill,
    ) -> EncodedPrompts:
        """Runs B prompts through the model once; with gradient, what continues them is differentiable, too.

        Args:
            prompts: B prompts; their batch is padded on the right.
            features: of their images, where they are known already.
            plan_type: what is kept of every layer.

        Raises:
            LocusError: features that do not fit a prompt's image tokens.
        """
        features = self.vision_features(prompts) if features is None else list(features)
        pad = self.model.config.get_text_config().pad_token_id or 0
        ids = pad_sequence([prompt.input_ids for prompt in prompts], True, pad).to(self.device)
        mask = pad_sequence([torch.ones_like(prompt.input_ids, dtype=torch.bool) for prompt in prompts], True, False)
        mask = mask.to(self.device)
        image_mask = (ids == self.model.config.image_token_id) & mask
        embeddings, deepstack = self._with_images(prompts, self.model.get_input_embeddings()(ids), image_mask, features)
        positions = [self.family.positions(self.model, prompt) for prompt in prompts]
        next_position = torch.stack([position.max() + 1 for position in positions]).to(self.device)
        padded = pad_sequence([position.T for position in positions], True, 0).permute(2, 0, 1).to(self.device)
        plan = plan_type(mask)
        hidden = self.family.hidden(self.model, embeddings, padded, plan, image_mask, deepstack)
        last = hidden[torch.arange(len(hidden), device=self.device), mask.sum(1) - 1]
        return EncodedPrompts(features, last, plan, next_position)

    def _with_images(
        self,
        prompts: Sequence[Prompt],
        embeddings: torch.Tensor,
        image_mask: torch.Tensor,
        features: list[VisionFeatures],
    ) -> tuple[torch.Tensor, list[torch.Tensor] | None]:
        """[B, P, D] embeddings with the images' features at the image tokens' places, and DeepStack's layers."""
        for prompt, tokens, feature in zip(prompts, image_mask.sum(1).tolist(), features, strict=True):
            if tokens != len(feature.embeddings):
                count = len(feature.embeddings)
                raise LocusError(
                    f"prompt {prompt.prompt_id} has {tokens} image tokens for {count} image features: "
                    "they are of another prompt, or its text was cut"
                )
        if not image_mask.any():
            return embeddings, None
        images = torch.cat([feature.embeddings for feature in features]).to(embeddings.dtype)
        layers = [feature.deepstack for feature in features if feature.deepstack]
        deepstack = [torch.cat(layer) for layer in zip(*layers, strict=True)] or None
        return embeddings.masked_scatter(image_mask[..., None], images), deepstack

    def attention_from_last(
        self, prompts: Sequence[Prompt], features: Sequence[VisionFeatures] | None = None
    ) -> torch.Tensor:
        """[L, B, P] where each prompt's last token looks, mean over heads, in every layer that attends."""
        prefill = self.encode(prompts, features, plan_type=Watched).prefill
        assert isinstance(prefill, Watched)
        return torch.stack(prefill.weights)

    def decode(self, token_ids: torch.Tensor, positions: torch.Tensor, plan: AttentionPlan) -> torch.Tensor:
        """One token for each active row: ids and positions [B, A] -> hidden [B, A, D]."""
        embeddings = self.model.get_input_embeddings()(token_ids)
        return self.family.hidden(self.model, embeddings, positions, plan, None, None)

    def completion_hidden(
        self,
        prompts: EncodedPrompts,
        token_ids: torch.Tensor,
        mask: torch.Tensor,
        plan_type: Callable[..., Continuation] = Continuation,
    ) -> torch.Tensor:
        """Hidden states that predict each completion token; only real tokens go through the layers.

        Args:
            prompts: B encoded prompts.
            token_ids: [B, G, T] completions, padded on the right.
            mask: [B, G, T] bool, False at padding; a row may be all padding.
            plan_type: makes the plan; another one may keep what it sees.

        Returns:
            [n, D]: one for each token of the mask, in its order. A row's last token is predicted, not fed.
        """
        fed = followed = mask[:, :, 1:]  # a token is fed where another follows
        count = int(fed.sum())
        before = torch.arange(len(mask), device=self.device)[:, None, None].repeat(1, *mask.shape[1:])
        if count == 0:
            if self.sharding is None:
                return prompts.hidden[before[mask]]
            # The layers' weights come from all ranks, who must all call them: a token that nothing depends on.
            token_ids, fed = token_ids.new_zeros(*mask.shape[:2], 2), torch.zeros_like(mask[:, :, :1])
            fed[0, 0] = True
        steps = torch.arange(fed.shape[-1], device=self.device)
        positions = (prompts.next_position[:, None, None] + steps).expand(fed.shape)[fed]
        embeddings = self.model.get_input_embeddings()(token_ids[:, :, :-1][fed])
        plan = plan_type(prompts.prefill, fed)
        hidden = self.family.hidden(self.model, embeddings[None], positions[None], plan, None, None)
        # What predicts a row's first token is its prompt's last state, shared by the group.
        before[:, :, 1:][followed] = len(mask) + torch.arange(count, device=self.device)
        return torch.cat([prompts.hidden, hidden[0]]).index_select(0, before[mask])
