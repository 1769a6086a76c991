"""Memory of a training step by part, found by a dry run of its passes (`locus.policy.dry_run`): no weight is needed.

Bytes of tensors, as a GPU's allocator counts them; a CUDA context, and what fragmentation costs, come on top.
Shapes: B prompts, G rollouts per prompt, P prompt tokens, T completion tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from locus.policy.dry_run import DryRun, PeakBytes
from locus.policy.logprobs import Scorer
from locus.policy.vlm import VLM
from locus.training.dry_passes import PLANNED, rollout_bytes, scoring_bytes, tensor_bytes
from locus.training.step_sizes import StepSizes
from locus.types import Pixels


@dataclass(frozen=True)
class Footprint:
    """Bytes by part."""

    weights: int
    gradients: int
    optimizer: int
    """Its state."""
    reference: int
    """0 where the policy without its adapters is the reference, or none is needed."""
    rollout_weights: int = 0
    """The copy in the compute type that rollouts run on."""
    features: int = 0
    """Of all images of a step, from the rollout."""
    cache: int = 0
    """Keys and values while decoding."""
    decode_pass: int = 0
    """What one token for every row takes beside the cache, its logits included."""
    prefill: int = 0
    """What encoding prompts for the rollout takes beside the cache."""
    scoring: int = 0
    """A micro-batch without gradient: the reference's."""
    vision: int = 0
    """The vision tower's graph of an update's micro-batch."""
    prefix: int = 0
    """The prompts' graph."""
    head: int = 0
    """Logits and their gradient."""
    completions: int = 0
    """The completions' graph, and all else at the peak of a micro-batch."""
    optimizer_step: int = 0
    """What the optimiser takes beside its state."""
    validation_pass: int = 0
    """Features, keys and values of a validation batch, and a pass of one token for every row."""
    validation_prefill: int = 0
    """The same, with what encoding its prompts takes in place of the pass."""
    shared_prefix: bool = False
    """The prompts' graph exists during the rollout, too."""
    frees_features: bool = False
    """The features end with the rollout: a vision tower that trains makes them anew."""
    offloaded_reference: bool = False
    """The reference leaves the device between its turns."""
    gathered_scoring: int = 0
    """Whole copies that score without gradient, where devices share the weights."""
    gathered_update: int = 0
    """What stands around the layers, whole, with its gradients, where devices share the weights."""

    def deeper(self, other: Footprint, steps: float, vision_steps: float) -> Footprint:
        """Of towers that have so many layers more, in multiples of what ``other`` has more: all layers are alike."""
        parts = {}
        for name in (one.name for one in fields(self) if one.type != "bool"):
            least, more = getattr(self, name), getattr(other, name)
            parts[name] = round(least + (vision_steps if name == "vision" else steps) * (more - least))
        return replace(self, **parts)

    def sharded(self, devices: int, rollout: int, scoring: int, update: int) -> Footprint:
        """Of one of so many devices that share what lasts, but for a reference that waits on the CPU.

        Args:
            devices: that share.
            rollout: bytes of the whole copy that each gathers to roll out.
            scoring: of those that it gathers to score without gradient.
            update: of what it gathers for an update, see `around_layers`.
        """
        names = ["weights", "gradients", "optimizer", "optimizer_step"] + ["reference"] * (not self.offloaded_reference)
        parts: dict[str, Any] = {name: getattr(self, name) // devices for name in names}
        parts |= {"rollout_weights": rollout, "gathered_scoring": scoring, "gathered_update": update}
        return replace(self, **parts)

    @property
    def static(self) -> int:
        """What lasts."""
        reference = 0 if self.offloaded_reference else self.reference
        return self.weights + self.gradients + self.optimizer + reference

    @property
    def micro_batch(self) -> int:
        """Of the update, beside the gradients."""
        return self.vision + self.prefix + self.head + self.completions

    @property
    def phases(self) -> dict[str, int]:
        """Phase -> bytes at its peak, of those that the run has."""
        between = self.static - self.gradients  # which only updates have
        kept = 0 if self.frees_features else self.features
        rolling = self.rollout_weights + self.cache + max(self.decode_pass, self.prefill)
        validating = max(self.validation_pass, self.validation_prefill)
        phases = {
            "rollout": between + self.features + rolling + (self.vision + self.prefix if self.shared_prefix else 0),
            "reference": between
            + kept
            + self.scoring
            + self.gathered_scoring
            + (self.reference if self.offloaded_reference else 0),
            "update": self.static + kept + self.gathered_update + self.micro_batch,
            "optimizer": self.static + kept + self.optimizer_step,
            "validation": between + self.rollout_weights + validating,
        }
        absent = {"reference": not self.scoring, "rollout": not self.cache, "validation": not self.validation_pass}
        return {name: size for name, size in phases.items() if not absent.get(name)}

    @property
    def rolling(self) -> int:
        """Bytes at the peak of all rollouts, of steps and validations."""
        return max(self.phases.get(name, 0) for name in ("rollout", "validation"))

    @property
    def peak(self) -> int:
        """Of the step."""
        return max(self.phases.values())


def footprint(
    policy: VLM,
    scorer: Scorer,
    optimizer: Callable[[Iterable[nn.Parameter]], Optimizer],
    sizes: StepSizes,
    reference_bytes: int,
    validation: StepSizes | None = None,
) -> Footprint:
    """A step's memory.

    Args:
        policy: on the meta device, or anywhere; its weights are made fake in place, and it is of no use afterwards.
        scorer: of the update.
        optimizer: trained parameters -> optimiser.
        sizes: of the step.
        reference_bytes: of a copy that is the reference; 0 without one.
        validation: of a validation batch; None where there is none.
    """
    mode = DryRun()
    mode.fake(policy)
    policy.model.set_attn_implementation({"vision_config": PLANNED})
    trained = [parameter for parameter in policy.parameters() if parameter.requires_grad]
    sizes = replace(sizes, prompts=[replace(one, pixels=dry_pixels(one.pixels, mode)) for one in sizes.prompts])
    autocast = torch.autocast("cpu", sizes.precision, cache_enabled=False) if sizes.precision else nullcontext()
    with mode:
        with autocast:
            rolling = rollout_bytes(policy, sizes, validation)
            scoring = scoring_bytes(policy, scorer, sizes)
        state, transient = optimizer_bytes(optimizer, trained, sizes.on_gpu)
    return Footprint(
        weights=weight_bytes(policy),
        gradients=tensor_bytes(trained),
        optimizer=state,
        reference=reference_bytes,
        optimizer_step=transient,
        shared_prefix=sizes.shares_prompts,
        frees_features=policy.train_vision and not sizes.shares_prompts,
        offloaded_reference=sizes.offloads_reference,
        **rolling,
        **scoring,
    )


def weight_bytes(policy: VLM) -> int:
    """Of all weights, with the scales of those in four bits."""
    return tensor_bytes([*policy.parameters(), *policy.buffers()])


# --- Shared weights -----------------------------------------------------------------------------------------------
def whole_bytes(policy: VLM, dtype: torch.dtype | None, stored: torch.dtype | None = None, merged: bool = False) -> int:
    """Of a copy that `locus.policy.sharding.whole` gathers.

    Args:
        policy: on the meta device, or anywhere.
        dtype: of its linear layers, as there; None for their own.
        stored: of all its weights; None for their own types.
        merged: as `locus.policy.inference.inference_policy` leaves it, adapters merged.
    """
    adapted = {id(one): one for layer in policy.adapters.values() for one in layer.parameters()}
    base = {id(one) for layer in policy.adapters.values() for one in layer.get_base_layer().parameters()}
    linear: dict[int, torch.Tensor] = {}
    other: dict[int, torch.Tensor] = {}
    for part in policy.modules():
        (linear if isinstance(part, nn.Linear) else other).update({id(one): one for one in part.parameters(False)})
    own = other if merged else other | adapted
    lora = adapted.keys() - base
    # A head that is tied to the embedding is cast apart from it where rollouts have it in another type.
    cast = [
        one for key, one in linear.items() if key not in lora and (key not in own or (merged and one.dtype != dtype))
    ]
    return (
        sum(one.numel() * (stored or one.dtype).itemsize for one in own.values())
        + sum(one.numel() * (dtype or stored or one.dtype).itemsize for one in cast)
        + tensor_bytes(policy.buffers())
    )


def around_layers(policy: VLM) -> int:
    """Of what an update of a shared policy gathers whole: embedding, head, norms, vision tower, and their gradients."""
    layers = {id(one) for one in policy.model.model.language_model.layers.parameters()}
    around = [one for one in policy.parameters() if id(one) not in layers]
    return tensor_bytes(around) + tensor_bytes(one for one in around if one.requires_grad)


class _DryPixels(Pixels):
    """Their values in one operation in place of a dozen for each channel."""

    def values(self, device: torch.device | None = None) -> torch.Tensor:
        patches, channels, values = self.levels.shape
        return self.table.new_empty(patches, channels * self.frames * values)


def dry_pixels(pixels: Pixels, mode: DryRun) -> Pixels:
    """Without numbers."""
    return _DryPixels(mode.like(pixels.levels), mode.like(pixels.table), pixels.frames)


# --- Optimiser ----------------------------------------------------------------------------------------------------
def optimizer_bytes(
    make: Callable[[Iterable[nn.Parameter]], Optimizer], trained: Sequence[nn.Parameter], at_once: bool
) -> tuple[int, int]:
    """State of an optimiser, and what its step takes beside; inside a dry run."""
    for parameter in trained:
        parameter.grad = torch.zeros_like(parameter)
    optimizer = make(trained)
    for group in optimizer.param_groups:
        if at_once and group.get("foreach", False) is None:  # torch's own choice on a GPU
            group["foreach"] = True
    with PeakBytes() as memory:
        optimizer.step()  # makes the state
        state = memory.held
        memory.peak = 0
        optimizer.step()
    return state, max(0, memory.peak - state)
