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
import torch.nn.functional as F
from torch import nn
from torch.optim import Optimizer
from torch.utils.checkpoint import checkpoint

from locus.policy.decoding import GROWTH, Decoding
from locus.policy.dry_run import DryRun, PeakBytes
from locus.policy.inference import compute_dtype, inference_policy
from locus.policy.logprobs import CompletionBatch, PackedScorer, Scorer, head_scores, sampling_logits
from locus.policy.rollouts import RolloutDecoding, micro_batches
from locus.policy.sampling import choose_tokens
from locus.policy.split_groups import PromptBatch, cut_from_graph, prompt_batches
from locus.policy.vision_attention import register as register_vision_attention
from locus.policy.vlm import VLM, EncodedPrompts, VisionFeatures
from locus.types import Prompt, Sampling

PLANNED = "locus_planned_flash"
HEAD_CHUNKS = 2
"""That are run dry, of the many alike that follow one another."""


@dataclass(frozen=True)
class StepSizes:
    """What a step works on."""

    prompts: Sequence[Prompt]
    """B of one rollout batch; their pixels may be blank."""
    group: int
    sampling: Sampling
    tokens: int
    """Of a completion that is neither short nor long; ``sampling`` has the most."""
    token_budget: int
    decoding: RolloutDecoding
    updates: int = 1
    """Optimiser steps per rollout batch."""
    epochs: int = 1
    """Passes over it, among which they are divided."""
    rolls_out: bool = True
    """False for supervised fine-tuning."""
    shares_prompts: bool = False
    """Whether rollout and update share the encoded prompts, see `locus.training.grpo.shares_prompts`."""
    offloads_reference: bool = False
    """Whether the reference leaves the device between its turns."""
    precision: torch.dtype | None = None
    """Of mixed precision; None without."""
    on_gpu: bool = False
    """There optimisers step over all parameters at once, which takes copies of them."""

    @property
    def cached_tokens(self) -> int:
        """Tokens whose keys and values are held while decoding, at most."""
        return min(self.decoding.budget, len(self.prompts) * self.tokens_per_prompt)

    @property
    def tokens_per_prompt(self) -> int:
        """Of the longest prompt and its rows' buffers once they are as long as they get."""
        length = self.sampling.max_new_tokens - 1
        written = min(length, -(-length // GROWTH) * GROWTH)
        return max(prompt.length for prompt in self.prompts) + self.group * written

    @property
    def rows(self) -> int:
        """Rows that are decoded at a time."""
        return self.group * max(1, self.cached_tokens // self.tokens_per_prompt)


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
    """Of all images of a step, kept from the rollout."""
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
    shared_prefix: bool = False
    """The prompts' graph exists during the rollout, too."""
    offloaded_reference: bool = False
    """The reference leaves the device between its turns."""

    def deeper(self, other: Footprint, steps: float, vision_steps: float) -> Footprint:
        """Of towers that have so many layers more, in multiples of what ``other`` has more: all layers are alike."""
        parts = {}
        for name in (one.name for one in fields(self) if one.type != "bool"):
            least, more = getattr(self, name), getattr(other, name)
            parts[name] = round(least + (vision_steps if name == "vision" else steps) * (more - least))
        return replace(self, **parts)

    def sharded(self, devices: int) -> Footprint:
        """Of one of so many devices that share what lasts; each gathers a copy to roll out with."""
        shared = {name: getattr(self, name) // devices for name in ("weights", "gradients", "optimizer", "reference")}
        return replace(self, **shared, optimizer_step=self.optimizer_step // devices)

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
        """Phase -> bytes at its peak."""
        held = self.static + self.features
        between = held - self.gradients  # which only updates have
        rolling = self.rollout_weights + self.cache + max(self.decode_pass, self.prefill)
        return {
            "rollout": between + rolling + (self.vision + self.prefix if self.shared_prefix else 0),
            "reference": between + self.scoring + (self.reference if self.offloaded_reference else 0),
            "update": held + self.micro_batch,
            "optimizer": held + self.optimizer_step,
        }

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
) -> Footprint:
    """A step's memory.

    Args:
        policy: on the meta device, or anywhere; its weights are made fake in place, and it is of no use afterwards.
        scorer: of the update.
        optimizer: trained parameters -> optimiser.
        sizes: of the step.
        reference_bytes: of a copy that is the reference; 0 without one.
    """
    mode = DryRun()
    mode.fake(policy)
    policy.model.set_attn_implementation({"vision_config": PLANNED})
    trained = [parameter for parameter in policy.parameters() if parameter.requires_grad]
    prompts = [replace(one, pixels=replace(one.pixels, levels=mode.like(one.pixels.levels))) for one in sizes.prompts]
    sizes = replace(sizes, prompts=prompts)
    autocast = torch.autocast("cpu", sizes.precision, cache_enabled=False) if sizes.precision else nullcontext()
    with mode:
        with autocast:
            rolling = rollout_bytes(policy, sizes)
            scoring = scoring_bytes(policy, scorer, sizes)
        state, transient = optimizer_bytes(optimizer, trained, sizes.on_gpu)
    return Footprint(
        weights=weight_bytes(policy),
        gradients=_bytes(trained),
        optimizer=state,
        reference=reference_bytes,
        optimizer_step=transient,
        shared_prefix=sizes.shares_prompts,
        offloaded_reference=sizes.offloads_reference,
        **rolling,
        **scoring,
    )


def weight_bytes(policy: VLM) -> int:
    """Of all weights, with the scales of those in four bits."""
    return _bytes(policy.parameters()) + _bytes(policy.buffers())


def _bytes(tensors: Iterable[torch.Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors)


def one_segment(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: Any,
    scaling: float,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attention of a vision tower as if all images were one: it holds the same, in one call."""
    output = F.scaled_dot_product_attention(query, key, value, scale=scaling)
    return output.transpose(1, 2).contiguous(), None


register_vision_attention(PLANNED, one_segment)


# --- Rollout --------------------------------------------------------------------------------------------------
@torch.no_grad()
def rollout_bytes(policy: VLM, sizes: StepSizes) -> dict[str, int]:
    """Parts of the rollout; inside a dry run."""
    batch = _longest(sizes)
    with PeakBytes() as memory:
        rolling = inference_policy(policy.eval())
        copied = memory.held
        encoded = rolling.encode(batch)
        held, peak = memory.held - copied, memory.peak - copied
        features = _bytes(part for one in encoded.features for part in (one.embeddings, *one.deepstack))
        images = sum(len(one.embeddings) for one in encoded.features)
        all_images = sum(int(prompt.mm_token_type_ids.sum()) for prompt in sizes.prompts)
        parts = {"features": features * all_images // max(images, 1)}
        if not sizes.rolls_out:
            return {"features": 0}
        prefill = encoded.prefill
        dtype = compute_dtype(rolling)
        states = sum(states.numel() for states in (*prefill.keys, *prefill.values))
        per_token = states * dtype.itemsize // prefill.prompt_mask.numel()
        decoding = Decoding.start(prefill, sizes.group, sizes.sampling.max_new_tokens - 1, dtype)
        rows = torch.zeros(len(batch), sizes.group, dtype=torch.long)
        row_states = sum(_bytes((state.convolution, state.recurrent)) for state in decoding.states) // rows.numel()
        decoding.step = max(decoding.keys[0].shape[3] - 1, 0)
        before, memory.peak = memory.held, 0
        hidden = rolling.decode(rows, rows, decoding)
        choose_tokens(sampling_logits(rolling, hidden, sizes.sampling.temperature), rows.double(), sizes.sampling)
        decode_pass = (memory.peak - before) * sizes.rows // rows.numel()
    waits = sizes.cached_tokens < len(sizes.prompts) * sizes.tokens_per_prompt
    cache = sizes.cached_tokens * per_token + sizes.rows * row_states
    if sizes.shares_prompts:  # the prompts' keys are those of the graph
        cache -= len(sizes.prompts) * max(prompt.length for prompt in sizes.prompts) * per_token
    # Where all enter at once, no row has a buffer yet.
    prefill_bytes = peak - held if waits else max(0, peak - features - cache)
    return parts | {
        "rollout_weights": copied,
        "cache": cache,
        "decode_pass": decode_pass,
        "prefill": 0 if sizes.shares_prompts else prefill_bytes,
    }


def _longest(sizes: StepSizes) -> list[Prompt]:
    """The micro-batch of the most padded tokens that is encoded for the rollout."""
    batches = micro_batches(sizes.prompts, sizes.token_budget)
    most = max(batches, key=lambda batch: len(batch) * sizes.prompts[batch[-1]].length)
    return [sizes.prompts[i] for i in most]


# --- Reference and update ---------------------------------------------------------------------------------------
def scoring_bytes(policy: VLM, scorer: Scorer, sizes: StepSizes) -> dict[str, int]:
    """Parts of the heaviest micro-batch, without gradient and with; inside a dry run."""
    tokens = sizes.tokens
    mini_batch = sizes.prompts[: -(-len(sizes.prompts) * sizes.epochs // sizes.updates)]
    lengths = [[tokens] * sizes.group for _ in mini_batch]
    batches = prompt_batches(mini_batch, lengths, sizes.token_budget)
    if sizes.shares_prompts:
        batches = [PromptBatch.whole(range(len(mini_batch)), sizes.group)]
    heaviest = max(batches, key=lambda batch: _tokens(batch, mini_batch, tokens))
    prompts = [mini_batch[i] for i in heaviest.groups]
    completions = CompletionBatch.of(
        [[torch.zeros(tokens, dtype=torch.long)] * sizes.group] * len(prompts), policy.device
    )
    given = _kept_features(policy, prompts)
    with torch.no_grad(), PeakBytes() as memory:
        _score(policy, scorer, prompts, completions.only(heaviest.parts[0]), sizes.sampling.temperature, given)
        scoring = memory.peak
    parts = sum(len(batch.parts) for batch in batches)
    return {"scoring": scoring} | _updated(policy, scorer, prompts, completions, heaviest, sizes, given, parts > 1)


def _tokens(batch: PromptBatch, prompts: Sequence[Prompt], tokens: int) -> int:
    padded = len(batch.groups) * max(prompts[i].length for i in batch.groups)
    return padded + int(batch.parts[0].sum()) * tokens


def _kept_features(policy: VLM, prompts: Sequence[Prompt]) -> list[VisionFeatures] | None:
    """Those of a frozen vision tower, which the rollout has left."""
    if policy.train_vision:
        return None
    with torch.no_grad():
        return policy.vision_features(prompts)


def _updated(
    policy: VLM,
    scorer: Scorer,
    prompts: Sequence[Prompt],
    completions: CompletionBatch,
    batch: PromptBatch,
    sizes: StepSizes,
    features: list[VisionFeatures] | None,
    accumulates: bool,
) -> dict[str, int]:
    """A micro-batch forward and back, its parts one after the other; gradients that it makes are not counted."""
    policy.train(not sizes.shares_prompts)
    trained = [parameter for parameter in policy.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.grad = torch.zeros_like(parameter) if accumulates else None
    temperature = sizes.sampling.temperature
    with PeakBytes() as memory:
        found: list[VisionFeatures] | None = features or policy.vision_features(prompts)
        vision = memory.held
        encoded = scorer.encode(policy, prompts, found)
        if encoded is None:  # nothing is shared, and the pictures are encoded for each row
            found, vision = features, 0
        prefix = memory.held - vision
        with cut_from_graph(encoded) if encoded else nullcontext() as shared:
            for rows in batch.parts:
                part = completions.only(rows)
                _score(policy, scorer, prompts, part, temperature, found, shared).backward()
    made = 0 if accumulates else _bytes(parameter.grad for parameter in trained if parameter.grad is not None)
    for parameter in trained:
        parameter.grad = None
    positions = scorer.positions(policy) if isinstance(scorer, PackedScorer) else int(completions.mask.sum(-1).max())
    head = head_bytes(policy, int(completions.mask.sum()), positions, temperature)
    rest = max(0, memory.peak - made - vision - prefix - head)
    return {"vision": vision, "prefix": prefix, "head": head, "completions": rest}


def _score(
    policy: VLM,
    scorer: Scorer,
    prompts: Sequence[Prompt],
    completions: CompletionBatch,
    temperature: float,
    features: list[VisionFeatures] | None,
    encoded: EncodedPrompts | None = None,
) -> torch.Tensor:
    """A scalar of the log-probs. Of a packed scorer's head, only the first chunks: the others are alike."""
    if not isinstance(scorer, PackedScorer):
        return scorer(policy, prompts, completions, temperature, features, encoded).logprobs.sum()
    encoded = encoded or policy.encode(prompts, features)
    states = policy.completion_hidden(encoded, completions.token_ids, completions.mask)
    chunk, total = scorer.positions(policy), states.sum()
    for part in states.split(chunk)[:HEAD_CHUNKS]:
        arguments = policy, part, torch.zeros(len(part), dtype=torch.long), temperature
        many = len(states) > chunk and torch.is_grad_enabled()
        found = checkpoint(head_scores, *arguments, use_reentrant=False) if many else head_scores(*arguments)
        total = total + found[0].sum()
    return total


def head_bytes(policy: VLM, tokens: int, positions: int, temperature: float) -> int:
    """Logits and their gradient of as many positions as are held at a time."""
    weight = policy.lm_head.weight
    count = min(tokens, positions)
    states = weight.new_zeros(count, weight.shape[1]).requires_grad_()
    with torch.enable_grad(), PeakBytes() as memory:
        logprobs, _ = head_scores(policy, states, torch.zeros(count, dtype=torch.long), temperature)
        torch.autograd.grad(logprobs.sum(), states)
    return memory.peak


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
