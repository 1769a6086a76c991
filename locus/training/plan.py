"""What a run takes, before any weight is loaded: memory by part against a card, seconds by phase, hours."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from locus.policy.backbone import Backbone, period
from locus.policy.logprobs import Scorer
from locus.policy.quantization import stored_numbers
from locus.policy.vlm import VLM
from locus.training.footprint import Footprint, around_layers, footprint, weight_bytes, whole_bytes
from locus.training.pace import Pace, Work, step_work
from locus.training.step_sizes import StepSizes

SHALLOW = 2
"""Layers of the towers that are run dry, and one more: all layers are alike, so the rest follows."""
MEASURED_LAYERS = 4
"""Of each tower, at most, where rates are measured."""
GRAIN = 1024
"""Budgets are planned in multiples of it."""
AIM = 0.97
"""Of the memory, what budgets are planned to fill: as micro-batches hold whole groups, they fill theirs unevenly."""


@dataclass(frozen=True)
class Planned:
    """A run that is planned, as objects."""

    backbone: Backbone
    weights: Callable[[VLM], None] | None
    """Puts adapters into a policy; None where all weights train."""
    scorer: Scorer
    optimizer: Callable[[Iterable[nn.Parameter]], Optimizer]
    sizes: StepSizes
    """Of a step of one device."""
    needs_reference: bool
    devices: int = 1
    sharded: bool = False
    """Devices share weights, gradients, optimiser state and reference."""
    validation: StepSizes | None = None
    """Of a validation batch of one device."""
    refill: int = 0
    """Times that fresh prompts may take the place of groups without spread; how many there are, no plan can know."""

    def policy(self, device: str = "meta", layers: int | None = None) -> VLM:
        """Without weights on the meta device, with random ones elsewhere."""
        policy = self.backbone.outline(device, layers)
        if self.weights is not None:
            self.weights(policy)
        return policy

    @cached_property
    def outline(self) -> VLM:
        """The whole policy, without weights."""
        return self.policy()

    @property
    def scorings(self) -> int:
        """Passes without gradient over a step's completions: the reference's, off-policy the old policy's."""
        return int(self.needs_reference) + int(self.sizes.updates > 1)

    @property
    def parameters(self) -> tuple[int, int]:
        """Trained and frozen."""
        counts = [(stored_numbers(one), one.requires_grad) for one in self.outline.parameters()]
        return sum(n for n, trains in counts if trains), sum(n for n, trains in counts if not trains)

    @cached_property
    def footprint(self) -> Footprint:
        """Memory of one device."""
        return self.footprint_of(self.sizes)

    def footprint_of(self, sizes: StepSizes) -> Footprint:
        """Memory of one device in another step than the planned one."""
        config = self.outline.model.config
        text, vision = config.get_text_config(), config.vision_config.depth
        layers = text.num_hidden_layers // period(text)
        least = max(SHALLOW, len(getattr(config.vision_config, "deepstack_visual_indexes", ())))
        if min(layers, vision) <= least:
            found = self.dry_run(sizes)
        else:
            shallow, deeper = (self.dry_run(sizes, depth) for depth in (least, least + 1))
            found = shallow.deeper(deeper, layers - least, vision - least)
            trained = sum(one.nbytes for one in self.outline.parameters() if one.requires_grad)
            # A vision tower is of another depth than the language model: these three are counted.
            times = trained / max(shallow.gradients, 1)
            found = replace(
                found,
                weights=weight_bytes(self.outline),
                gradients=trained,
                reference=self._reference_bytes(self.outline) if shallow.reference else 0,
                optimizer=round(times * shallow.optimizer),
                optimizer_step=round((times if sizes.on_gpu else 1) * shallow.optimizer_step),
            )
        return found.sharded(self.devices, **self._gathered(sizes)) if self.sharded else found

    def _gathered(self, sizes: StepSizes) -> dict[str, int]:
        """Bytes that a device gathers whole, by what for."""
        policy = self.outline
        own = whole_bytes(policy, sizes.precision)
        scoring = own * int(self.sizes.updates > 1)
        if self.needs_reference and (policy.adapters or not sizes.offloads_reference):
            stored = None if policy.adapters else self._reference_dtype
            scoring = max(scoring, whole_bytes(policy, sizes.precision, stored))  # one after the other
        rollout = whole_bytes(policy, sizes.precision or policy.lm_head.weight.dtype, merged=True)
        return {"rollout": rollout, "scoring": scoring, "update": around_layers(policy)}

    def dry_run(self, sizes: StepSizes, layers: int | None = None) -> Footprint:
        """Memory of a policy of so many layers in each tower; None for all."""
        policy = self.policy(layers=layers)
        copied = self.needs_reference and not policy.adapters
        reference = self._reference_bytes(policy) if copied else 0
        found = footprint(policy, self.scorer, self.optimizer, sizes, reference, self._validation_within(sizes))
        return found if self.scorings else replace(found, scoring=0)

    def _validation_within(self, sizes: StepSizes) -> StepSizes | None:
        """The validation batch with the budgets of these sizes."""
        if self.validation is None:
            return None
        return replace(self.validation, token_budget=sizes.token_budget, decoding=sizes.decoding)

    @property
    def _reference_dtype(self) -> torch.dtype:
        """Of a reference of its own."""
        return getattr(torch, self.backbone.reference_dtype or self.backbone.dtype)

    def _reference_bytes(self, policy: VLM) -> int:
        return sum(one.numel() for one in policy.parameters()) * self._reference_dtype.itemsize

    @cached_property
    def validation_work(self) -> Work | None:
        """Operations of a validation batch of one device; they are all of a rollout."""
        if self.validation is None:
            return None
        cache = self.footprint.cache * self.validation.cached_tokens // self.sizes.cached_tokens
        return step_work(self.outline, self.validation, scorings=0, epochs=1, cache_bytes=cache)

    @cached_property
    def work(self) -> Work:
        """Operations of a step of one device."""
        return step_work(self.outline, self.sizes, self.scorings, self.sizes.epochs, self.footprint.cache)

    def within(self, token_budget: int, decode_budget: int) -> Footprint:
        """Memory of one device with other budgets."""
        decoding = replace(self.sizes.decoding, budget=decode_budget)
        sizes = self.sizes
        whole = max(prompt.length for prompt in sizes.prompts) + sizes.group * sizes.sampling.max_new_tokens
        shared = sizes.shares_prompts and len(sizes.prompts) * whole <= min(token_budget, decode_budget)
        return self.footprint_of(replace(sizes, token_budget=token_budget, decoding=decoding, shares_prompts=shared))


def largest_budgets(planned: Planned, memory: float) -> tuple[int, int] | None:
    """The largest ``rollout.token_budget`` and ``decode_budget`` that fit in so many bytes; None where none is found.

    Both parts grow about evenly with their budget: two dry runs tell how, and a third whether what they tell fits.
    A budget that changes nothing is as given.
    """
    budgets = _estimated_budgets(planned, memory)
    if budgets is None:
        return None
    given = planned.sizes.token_budget, planned.sizes.decoding.budget
    found = planned.footprint if budgets == given else planned.within(*budgets)
    return budgets if found.peak <= memory else None


def _estimated_budgets(planned: Planned, memory: float) -> tuple[int, int] | None:
    sizes, here = planned.sizes, planned.footprint
    prompt = max(one.length for one in sizes.prompts)
    least = prompt + sizes.sampling.max_new_tokens
    least_decode = prompt + sizes.group * sizes.sampling.max_new_tokens
    small = planned.within(least, min(least_decode, sizes.decoding.budget))
    large = sizes.scored_tokens, here.phases["update"]
    token_budget = _largest((least, small.phases["update"]), large, memory, sizes.token_budget)
    decode_budget: int | None = sizes.decoding.budget
    if sizes.rolls_out and token_budget is not None:
        # Prompts are encoded beside the keys and values, within the other budget.
        every = prompt * len(sizes.prompts)
        filled, fewest, most = (min(budget, every) for budget in (token_budget, least, sizes.token_budget))
        share = (filled - fewest) / max(most - fewest, 1)
        encoding = {
            name: round((1 - share) * getattr(small, name) + share * getattr(here, name))
            for name in ("prefill", "validation_prefill")
        }
        rolling = [replace(one, **encoding).rolling for one in (small, here)]
        large = sizes.cached_tokens, rolling[1]
        decode_budget = _largest((least_decode, rolling[0]), large, memory, sizes.decoding.budget)
    if token_budget is None or decode_budget is None:
        return None
    return token_budget, decode_budget


def _largest(small: tuple[int, int], large: tuple[int, int], memory: float, given: int) -> int | None:
    """The largest budget, from two of (budget, bytes), the larger of which is what the given one is filled to."""
    if small[1] > memory:
        return None
    if large[0] <= small[0] or large[1] <= small[1]:
        return given
    budget = small[0] + (AIM * memory - small[1]) * (large[0] - small[0]) / (large[1] - small[1])
    return max(given if large[1] <= memory else small[0], int(budget) // GRAIN * GRAIN)


@dataclass(frozen=True)
class Outlook:
    """A plan's figures, for tables and ``plan.json``."""

    trained: int
    frozen: int
    footprint: Footprint
    memory: float | None
    """Bytes of the card that may be used; None where it is unknown."""
    seconds: dict[str, float] | None
    """Phase -> seconds of a step; None where no rate is known."""
    steps: int
    devices: int
    validation_seconds: float = 0.0
    """Of all validations of the run."""

    @property
    def fits(self) -> bool:
        """Whether the step's peak is within the card's memory."""
        return self.memory is None or self.footprint.peak <= self.memory

    @property
    def hours(self) -> float | None:
        """Of all steps and validations."""
        return (
            None if self.seconds is None else (self.steps * sum(self.seconds.values()) + self.validation_seconds) / 3600
        )

    def record(self) -> dict[str, Any]:
        """As JSON has it."""
        hours = self.hours
        sizes = [(name, size) for name, size in asdict(self.footprint).items() if not isinstance(size, bool)]
        return {
            "parameters": {"trained": self.trained, "frozen": self.frozen},
            "memory_gb": {name: round(size / 1e9, 3) for name, size in sizes},
            "peak_gb": {name: round(part / 1e9, 3) for name, part in self.footprint.phases.items()},
            "card_gb": None if self.memory is None else round(self.memory / 1e9, 3),
            "fits": self.fits,
            "seconds_per_step": self.seconds,
            "hours": hours,
            "gpu_hours": None if hours is None else hours * self.devices,
        }


def outlook(planned: Planned, memory: float | None, pace: Pace | None, steps: int, validation: float = 0.0) -> Outlook:
    """The figures of a planned run on a card, at a pace."""
    seconds = None if pace is None else pace.seconds(planned.work)
    return Outlook(*planned.parameters, planned.footprint, memory, seconds, steps, planned.devices, validation)
