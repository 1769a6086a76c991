"""How long a training step takes: its floating-point operations by phase, over rates that are stated or measured.

Shapes: B prompts, G rollouts per prompt, P prompt tokens, T completion tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from locus.policy.inference import inference_policy
from locus.policy.logprobs import CompletionBatch, Scorer
from locus.policy.operations import completion_flops, head_flops, image_flops, prompt_flops, text_flops
from locus.policy.rollouts import micro_batches, sample_groups
from locus.policy.vlm import VLM
from locus.training.step_sizes import StepSizes
from locus.types import Prompt

KERNELS = 51
"""Launched per text layer and decoded token (1,422 were counted for 28 layers in bfloat16)."""
MEASURED_TOKENS = 2048
"""Of prompts and completions that a measurement runs on, at most, where one prompt does not exceed it."""
MEASURED_STEPS = 12
"""Decoded tokens that a measurement takes the time of."""
STEADY = 2
"""Runs of each measurement; the last counts."""


@dataclass(frozen=True)
class Work:
    """Operations of a step."""

    encode: float
    """Images and prompts, for the rollout."""
    passes: float
    """Token passes of the rollout."""
    decode_pass: float
    """One token for every row that is decoded at a time."""
    reference: float
    update: float
    parameters: int
    """That the optimiser steps over, all updates of a step together."""
    layers: int
    """Of the language model."""
    decode_bytes: int
    """Weights, keys and values that a token pass reads."""


@dataclass(frozen=True)
class Pace:
    """Seconds of a step's parts, from its work."""

    encode: float
    """Operations per second; so with the next two."""
    score: float
    update: float
    parameters: float
    """Per second of the optimiser."""
    decode: Callable[[Work], float]
    """Seconds of a token pass."""

    def seconds(self, work: Work) -> dict[str, float]:
        """Phase -> seconds of one step, of those that it has."""
        phases = {
            "rollout": work.encode / self.encode + work.passes * self.decode(work),
            "reference": work.reference / self.score,
            "update": work.update / self.update + work.parameters / self.parameters,
        }
        return {name: seconds for name, seconds in phases.items() if seconds}


def stated_pace(tflops: float, efficiency: float, bandwidth_gb: float, launch_us: float, compiled: bool) -> Pace:
    """From a device's figures.

    Args:
        tflops: 10^12 operations per second of a large matrix product.
        efficiency: share of it that whole passes reach.
        bandwidth_gb: 10^9 bytes per second of its memory; a token pass reads every weight.
        launch_us: microseconds per kernel of a token pass, which small ones take at least.
        compiled: a token pass is one CUDA graph, so nothing is launched.
    """
    rate = tflops * 1e12 * efficiency

    def token_pass(work: Work) -> float:
        launches = 0.0 if compiled else KERNELS * work.layers * launch_us * 1e-6
        return max(work.decode_pass / rate, work.decode_bytes / (bandwidth_gb * 1e9), launches)

    # AdamW reads four numbers per parameter and writes three, 4 bytes each.
    return Pace(rate, rate, rate, bandwidth_gb * 1e9 / 28, token_pass)


# --- Work -----------------------------------------------------------------------------------------------------
def step_work(policy: VLM, sizes: StepSizes, scorings: int, epochs: int, cache_bytes: int) -> Work:
    """Operations of a step of this policy, whose weights may be on the meta device.

    Args:
        scorings: passes without gradient over prompts and completions: the reference's, off-policy the old policy's.
        epochs: updates that each prompt is in.
        cache_bytes: keys and values that are held while decoding.
    """
    model, visual = policy.model, policy.family.vision_tower(policy.model)
    lengths = [prompt.length for prompt in sizes.prompts]
    vision = image_flops(visual, [int(grid.prod()) for prompt in sizes.prompts for grid in prompt.image_grid_thw])
    text = prompt_flops(model, lengths)
    written = sizes.group * completion_flops(model, lengths, sizes.tokens)
    seen = vision if policy.train_vision else 0.0  # a frozen tower is run once, for the rollout
    alone = 0.0 if policy.train_vision or sizes.rolls_out else vision  # no rollout has left its features
    trains = [parameter for parameter in policy.parameters() if parameter.requires_grad]
    back = 1.0 if policy.adapters else 2.0  # frozen weights have no gradient, only what passes through them
    again = 1.0 if policy.recomputes else 0.0
    forward = 0.0 if sizes.shares_prompts else 1.0
    update = (seen + text) * (forward + back + again) + written * (1 + back + again)
    return Work(
        encode=vision + text if sizes.rolls_out else 0.0,
        passes=token_passes(sizes) if sizes.rolls_out else 0.0,
        decode_pass=sizes.rows * row_flops(policy, sizes),
        reference=(seen + text + written) * scorings,
        update=(update + alone) * epochs,
        parameters=sum(parameter.numel() for parameter in trains) * sizes.updates,
        layers=model.config.get_text_config().num_hidden_layers,
        decode_bytes=weight_traffic(policy, sizes.precision or policy.lm_head.weight.dtype) + cache_bytes,
    )


def weight_traffic(policy: VLM, dtype: torch.dtype) -> int:
    """Bytes of weights that a token pass reads; those in four bits are read, written in ``dtype`` and read again."""
    table = policy.model.get_input_embeddings().weight  # of which a token reads one row
    weights = [one for one in policy.model.model.language_model.parameters() if one is not table]
    weights.append(policy.lm_head.weight)
    plain = sum(one.numel() for one in weights if one.is_floating_point())
    codes = sum(one.nbytes for one in weights if not one.is_floating_point())
    return plain * dtype.itemsize + codes + 2 * 2 * codes * dtype.itemsize


def row_flops(policy: VLM, sizes: StepSizes) -> float:
    """One more token of one completion, half written."""
    length = sum(prompt.length for prompt in sizes.prompts) / len(sizes.prompts)
    return text_flops(policy.model, 1, length + sizes.tokens / 2) + head_flops(policy.model, 1)


def token_passes(sizes: StepSizes) -> float:
    """Token passes of a rollout: as long as prompts wait all rows are in use, then the longest completion ends."""
    most, tokens = sizes.sampling.max_new_tokens, sizes.tokens
    waves = len(sizes.prompts) * sizes.group * tokens / sizes.rows
    return max(most - 1, waves + most - tokens)


# --- Measurement ----------------------------------------------------------------------------------------------
def measured_pace(
    policy: VLM,
    scorer: Scorer,
    optimizer: Callable[[Iterable[nn.Parameter]], Optimizer],
    sizes: StepSizes,
    clock: Callable[[], float] = perf_counter,
) -> Pace:
    """Rates of this policy, which may be a shallow one, on the device that it is on.

    Args:
        policy: with any weights; they are changed.
        sizes: of the step that is planned; a few of its prompts are run.
        clock: seconds of what ran before it is asked.
    """
    batch = replace(sizes, prompts=_some(sizes), sampling=replace(sizes.sampling, max_new_tokens=_few(sizes)))
    batch = replace(batch, tokens=_few(sizes), updates=1, shares_prompts=False, rolls_out=True)
    work = step_work(policy, batch, scorings=1, epochs=1, cache_bytes=0)
    prompts, device = batch.prompts, policy.device
    completions = CompletionBatch.of(
        [[torch.zeros(batch.tokens, dtype=torch.long)] * batch.group for _ in prompts], device
    )
    temperature = sizes.sampling.temperature

    def timed(run: Callable[[], Any]) -> float:
        for _ in range(STEADY):
            start = clock()
            run()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            seconds = clock() - start
        return seconds

    def score() -> None:
        with torch.no_grad():
            scorer(policy, prompts, completions, temperature, features)

    def update() -> None:
        scorer(policy, prompts, completions, temperature, features).logprobs.sum().backward()

    with torch.autocast(device.type, sizes.precision or torch.bfloat16, enabled=sizes.precision is not None):
        with torch.no_grad():
            rolling = inference_policy(policy.eval())
            encoding = timed(lambda: rolling.encode(prompts))
            features = None if policy.train_vision else policy.vision_features(prompts)
            encoded = rolling.encode(prompts)
            group = max(1, sizes.rows // len(prompts))  # as many rows as the planned step decodes at a time
            decoding = timed(lambda: sample_groups(rolling, prompts, encoded, group, batch.sampling, 0, 0))
        scoring = timed(score)
        policy.train()
        updating = timed(update)
    make = optimizer([parameter for parameter in policy.parameters() if parameter.requires_grad])
    stepping = timed(make.step)
    decoded = group * len(prompts) * row_flops(policy, batch) * max(1, batch.tokens - 1)
    pace = decoded / decoding
    return Pace(
        work.encode / encoding,
        work.reference / scoring,
        work.update / updating,
        work.parameters / max(stepping, 1e-9),
        lambda planned: planned.decode_pass / pace,
    )


def _few(sizes: StepSizes) -> int:
    return min(sizes.tokens, MEASURED_STEPS)


def _some(sizes: StepSizes) -> Sequence[Prompt]:
    """Prompts of a micro-batch of the planned step, the middle one, of at most `MEASURED_TOKENS`."""
    longest = max(prompt.length for prompt in sizes.prompts)
    batches = micro_batches(sizes.prompts, max(longest, min(MEASURED_TOKENS, sizes.token_budget)))
    return [sizes.prompts[i] for i in batches[len(batches) // 2]]
