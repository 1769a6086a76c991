"""Splits prompts into micro-batches by token budget."""

from __future__ import annotations

from collections.abc import Sequence

from locus.errors import LocusError
from locus.types import Prompt


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
