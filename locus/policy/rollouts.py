"""Sampling G completions per prompt: one prefill per prompt, many prompts decoded together, finished rows retired.

A prompt's random numbers depend on (seed, step, prompt id) alone, so the same prompt gets the same completions in any
batch, in any order, and after a resume.
Shapes: B prompts, G rollouts per prompt, A active rows, T completion tokens, V vocabulary.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from locus.errors import LocusError
from locus.policy.group_attention import Decoding
from locus.policy.logprobs import sampling_logits
from locus.policy.vlm import VLM, EncodedPrompts
from locus.types import Completion, Prompt, Sampling

RETIRE_SHARE = 0.75
"""Finished rows are taken out once the rest fill less than this share of the rows; each time copies the cache."""


def prompt_generator(seed: int, step: int, prompt_id: str) -> torch.Generator:
    """A generator that is the same wherever and whenever this prompt is sampled at this step."""
    digest = hashlib.sha256(f"{seed}/{step}/{prompt_id}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little", signed=True))


def choose_tokens(logits: torch.Tensor, uniform: torch.Tensor, sampling: Sampling) -> torch.Tensor:
    """[..., V] sampling logits and [...] uniform numbers in [0, 1) -> [...] token ids, by inverse distribution.

    Top-p keeps the smallest set of tokens whose probability reaches p (Holtzman et al. 2020, arXiv 1904.09751);
    temperature 0 takes the likeliest.
    """
    if sampling.temperature == 0:
        return logits.argmax(-1)
    probabilities = logits.softmax(-1)
    if sampling.top_p < 1:
        ordered, order = probabilities.sort(dim=-1, descending=True, stable=True)
        ordered = ordered.masked_fill(ordered.cumsum(-1) - ordered >= sampling.top_p, 0)
        probabilities = torch.zeros_like(probabilities).scatter(-1, order, ordered)
    cumulative = probabilities.double().cumsum(-1)
    threshold = uniform.to(cumulative).unsqueeze(-1) * cumulative[..., -1:]
    return torch.searchsorted(cumulative, threshold, right=True).squeeze(-1)


@dataclass(frozen=True, eq=False)
class _Rows:
    """The rows still being written; row j of prompt i belongs to rollout ``row[i, j]`` of prompt ``prompt[i]``."""

    prompt: torch.Tensor
    """[B'] index into the batch."""
    row: torch.Tensor
    """[B', A] index into the group."""
    finished: torch.Tensor
    """[B', A] bool."""

    def retire(self) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Prompts and rows worth keeping, or None while too few have finished to pay for the copy."""
        active = (~self.finished).sum(1)
        kept, width = active > 0, int(active.max())
        if int(kept.sum()) * width > RETIRE_SHARE * self.finished.numel():
            return None
        prompts = kept.nonzero()[:, 0]
        rows = self.finished[prompts].long().argsort(dim=1, stable=True)[:, :width]  # unfinished rows first
        return prompts, rows

    def select(self, prompts: torch.Tensor, rows: torch.Tensor) -> _Rows:
        return _Rows(self.prompt[prompts], self.row[prompts].gather(1, rows), self.finished[prompts].gather(1, rows))


@torch.no_grad()
def sample_groups(
    policy: VLM,
    prompts: Sequence[Prompt],
    encoded: EncodedPrompts,
    group: int,
    sampling: Sampling,
    seed: int,
    step: int,
) -> list[list[Completion]]:
    """Writes ``group`` completions for each prompt of one batch.

    Args:
        policy: in evaluation mode.
        prompts: B prompts; the batch must fit in memory (see `micro_batches`).
        encoded: the same prompts, after `VLM.encode`.
        seed, step: with the prompt's id they fix the random numbers.

    Returns:
        B lists of G completions, in the order of ``prompts``.
    """
    size, length, device = len(prompts), sampling.max_new_tokens, policy.device
    uniform = torch.stack(
        [
            torch.rand(group, length, generator=prompt_generator(seed, step, prompt.prompt_id), dtype=torch.float64)
            for prompt in prompts
        ]
    ).to(device)
    token_ids = torch.zeros(size, group, length, dtype=torch.long, device=device)
    logprobs = torch.zeros(size, group, length, device=device)
    lengths = torch.zeros(size, group, dtype=torch.long, device=device)
    ends = torch.tensor(policy.end_token_ids, device=device)

    decoding, next_position = Decoding.start(encoded.prefill, group, length - 1), encoded.next_position
    hidden = encoded.hidden[:, None].expand(
        -1, group, -1
    )  # [B, G, D]: the first token of all rows has one distribution
    every = torch.arange(group, device=device).expand(size, -1)
    rows = _Rows(torch.arange(size, device=device), every, torch.zeros_like(every, dtype=torch.bool))
    for t in range(length):
        logits = sampling_logits(policy, hidden, sampling.temperature)
        here = rows.prompt[:, None], rows.row
        tokens = choose_tokens(logits, uniform[*here, t], sampling)
        chosen = logits.gather(-1, tokens[..., None])[..., 0] - logits.logsumexp(-1)
        alive = ~rows.finished
        token_ids[*here, t] = torch.where(alive, tokens, 0)
        logprobs[*here, t] = torch.where(alive, chosen, 0)
        lengths[here] += alive
        rows = replace(rows, finished=rows.finished | torch.isin(tokens, ends))
        if t + 1 == length or bool(rows.finished.all()):
            break
        if (keep := rows.retire()) is not None:
            rows, decoding = rows.select(*keep), decoding.select(*keep)
            next_position, tokens = next_position[keep[0]], tokens[keep[0]].gather(1, keep[1])
        hidden = policy.decode(tokens, next_position, decoding)
    return _completions(token_ids.cpu(), logprobs.cpu(), lengths.cpu(), set(policy.end_token_ids))


def _completions(
    token_ids: torch.Tensor, logprobs: torch.Tensor, lengths: torch.Tensor, ends: set[int]
) -> list[list[Completion]]:
    groups = []
    for ids, scores, sizes in zip(token_ids, logprobs, lengths.tolist(), strict=True):
        groups.append(
            [
                Completion(row[:size].clone(), score[:size].clone(), int(row[size - 1]) in ends)
                for row, score, size in zip(ids, scores, sizes, strict=True)
            ]
        )
    return groups


def micro_batches(prompts: Sequence[Prompt], completion_tokens: int, budget: int) -> list[list[int]]:
    """Indices of prompts, grouped so that a padded micro-batch holds at most ``budget`` tokens.

    Prompts are ordered by length, then id: little padding, and the same micro-batches whatever the order they came in.

    Args:
        prompts: B prompts.
        completion_tokens: tokens that follow each prompt, G·T.
        budget: of B'·(P + G·T) padded tokens; a single prompt above it is refused, never truncated.

    Raises:
        LocusError: a prompt alone exceeds the budget.
    """
    order = sorted(range(len(prompts)), key=lambda i: (prompts[i].length, prompts[i].prompt_id))
    batches: list[list[int]] = []
    for index in order:
        tokens = prompts[index].length + completion_tokens
        if tokens > budget:
            raise LocusError(
                f"prompt {prompts[index].prompt_id} and its completions have {tokens} tokens, the budget is {budget}: "
                "raise rollout.token_budget, or lower pixels.max_pixels or rollout.sampling.max_new_tokens"
            )
        if batches and (len(batches[-1]) + 1) * tokens <= budget:  # ascending, so this prompt is the longest
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches
