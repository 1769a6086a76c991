"""The passes of a training step, run dry (`locus.policy.dry_run`): bytes of the rollout, of scoring, of the update.

Shapes: B prompts, G rollouts per prompt, P prompt tokens, T completion tokens.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

from locus.policy.decoding import Decoding
from locus.policy.dry_run import PeakBytes
from locus.policy.inference import compute_dtype, inference_policy
from locus.policy.logprobs import CompletionBatch, PackedScorer, Scorer, head_scores, sampling_logits
from locus.policy.rollouts import micro_batches
from locus.policy.sampling import choose_tokens
from locus.policy.split_groups import PromptBatch, cut_from_graph, prompt_batches
from locus.policy.vision_attention import register as register_vision_attention
from locus.policy.vlm import VLM, EncodedPrompts, VisionFeatures
from locus.training.step_sizes import StepSizes
from locus.types import Prompt

PLANNED = "locus_planned_flash"
HEAD_CHUNKS = 2
"""That are run dry, of the many alike that follow one another."""
PARTS = 2
"""Of a group that is split: the second finds the first one's gradient on the prompt, and so do all that follow."""


def tensor_bytes(tensors: Iterable[torch.Tensor]) -> int:
    """Of all of them."""
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
def rollout_bytes(policy: VLM, sizes: StepSizes, validation: StepSizes | None = None) -> dict[str, int]:
    """Parts of the rollout, and of a validation batch's; inside a dry run."""
    batch = _longest(sizes)
    with PeakBytes() as memory:
        rolling = inference_policy(policy.eval())
        copied = memory.held
        encoded = rolling.encode(batch)
        held, peak = memory.held - copied, memory.peak - copied
        feature_bytes = tensor_bytes(part for one in encoded.features for part in (one.embeddings, *one.deepstack))
        images = sum(len(one.embeddings) for one in encoded.features)
        prefill = encoded.prefill
        dtype = compute_dtype(rolling)
        states = sum(states.numel() for states in (*prefill.keys, *prefill.values))
        per_token = states * dtype.itemsize // prefill.prompt_mask.numel()
        decoding = Decoding.start(prefill, sizes.group, max(1, sizes.sampling.max_new_tokens - 1), dtype)
        rows = torch.zeros(len(batch), sizes.group, dtype=torch.long)
        linear = [part for state in decoding.states for part in (state.convolution, state.recurrent)]
        row_states = tensor_bytes(linear) // rows.numel()
        decoding.step = max(decoding.keys[0].shape[3] - 1, 0)
        before, memory.peak = memory.held, 0
        hidden = rolling.decode(rows, rows, decoding)
        choose_tokens(sampling_logits(rolling, hidden, sizes.sampling.temperature), rows.double(), sizes.sampling)
        decode_pass = memory.peak - before

    def parts(of: StepSizes) -> dict[str, int]:
        features = feature_bytes * sum(int(one.mm_token_type_ids.sum()) for one in of.prompts) // max(images, 1)
        cache = of.cached_tokens * per_token + of.rows * row_states
        if of.shares_prompts:  # the prompts' keys are those of the graph
            cache -= len(of.prompts) * max(prompt.length for prompt in of.prompts) * per_token
        share = _padded(_longest(of)) / _padded(batch)
        # Where all enter at once, no row has a buffer yet.
        waits = of.cached_tokens < len(of.prompts) * of.tokens_per_prompt
        encoding = share * (peak - held) if waits else max(0, share * peak - features - cache)
        return {
            "features": features,
            "cache": cache,
            "decode_pass": decode_pass * of.rows // rows.numel(),
            "prefill": 0 if of.shares_prompts else round(encoding),
        }

    step = parts(sizes)
    found = {"rollout_weights": copied} | (step if sizes.rolls_out else {})
    if validation is not None:
        asked = parts(validation)
        kept = asked["features"] + asked["cache"]
        found |= {"validation_pass": kept + asked["decode_pass"], "validation_prefill": kept + asked["prefill"]}
    return found


def _longest(sizes: StepSizes) -> list[Prompt]:
    """The micro-batch of the most padded tokens that is encoded for the rollout."""
    batches = micro_batches(sizes.prompts, sizes.token_budget)
    most = max(batches, key=lambda batch: len(batch) * sizes.prompts[batch[-1]].length)
    return [sizes.prompts[i] for i in most]


def _padded(batch: Sequence[Prompt]) -> int:
    return len(batch) * max(prompt.length for prompt in batch)


# --- Reference and update ---------------------------------------------------------------------------------------
def scoring_bytes(policy: VLM, scorer: Scorer, sizes: StepSizes) -> dict[str, int]:
    """Parts of the heaviest micro-batch, without gradient and with; inside a dry run."""
    tokens = sizes.tokens
    mini_batch = sizes.mini_batch
    lengths = [[tokens] * sizes.group for _ in mini_batch]
    batches = prompt_batches(mini_batch, lengths, sizes.token_budget)
    if sizes.shares_prompts:
        batches = [PromptBatch.whole(range(len(mini_batch)), sizes.group)]
    heaviest = max(batches, key=lambda batch: _tokens(batch, mini_batch, tokens))
    prompts = [mini_batch[i] for i in heaviest.groups]
    completions = CompletionBatch.of(
        [[torch.zeros(tokens, dtype=torch.long)] * sizes.group] * len(prompts), policy.device
    )
    given = _kept_features(policy, prompts) if sizes.rolls_out else None
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
            for rows in batch.parts[:PARTS]:
                part = completions.only(rows)
                _score(policy, scorer, prompts, part, temperature, found, shared).backward()
    made = 0 if accumulates else tensor_bytes(parameter.grad for parameter in trained if parameter.grad is not None)
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
