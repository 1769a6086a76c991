"""Decoding in cohorts: finished rows are retired, and waiting prompts enter the room that they leave.

Shapes: N prompts in all, B in a cohort, G rollouts per prompt, A active rows, T completion tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from locus.policy.decoding import GROWTH, Cohorts, Decoding
from locus.policy.inference import compute_dtype
from locus.policy.logprobs import sampling_logits
from locus.policy.sampling import Draft
from locus.policy.vlm import VLM, EncodedPrompts
from locus.types import Prompt

RETIRE_SHARE = 0.75
"""Finished rows are taken out once the rest fill less than this share of the rows; each time copies the cache."""
ENTER_SHARE = 0.25
"""Waiting prompts enter once they fill this share of the budget, or of the slots, or are the last."""
COHORTS = 8
"""Decoded together at most: each costs attention calls of its own."""


@dataclass(frozen=True, eq=False)
class Cohort:
    """Prompts that began together; row j of the i-th is rollout ``row[i, j]`` of prompt ``prompt[i]``."""

    decoding: Decoding
    next_position: torch.Tensor
    """[B] of the first completion token."""
    prompt: torch.Tensor
    """[B] which of the N."""
    row: torch.Tensor
    """[B, A] which of its G."""
    tokens: torch.Tensor
    """[B, A] written last."""
    finished: torch.Tensor
    """[B, A] bool."""

    @property
    def positions(self) -> torch.Tensor:
        """[B, A] of the tokens written last."""
        return (self.next_position[:, None] + self.decoding.step).expand(self.row.shape)

    def select(self, prompts: torch.Tensor, rows: torch.Tensor) -> Cohort:
        """Only these prompts [B'], and these of their rows [B', A']; takes the decoding over."""
        row, tokens, finished = (part[prompts].gather(1, rows) for part in (self.row, self.tokens, self.finished))
        self.decoding.keep(prompts, rows)
        return Cohort(self.decoding, self.next_position[prompts], self.prompt[prompts], row, tokens, finished)

    def retire(self, active: Sequence[int]) -> Cohort | None:
        """Without finished rows, if those are enough to pay for the copy; None when all are.

        active: how many rows of each prompt are not finished.
        """
        kept, width = [i for i, count in enumerate(active) if count], max(active)
        if not kept:
            return None
        if len(kept) * width > RETIRE_SHARE * self.finished.numel():
            return self
        prompts = torch.tensor(kept, device=self.row.device)
        return self.select(prompts, self.finished[prompts].long().argsort(dim=1, stable=True)[:, :width])

    def first(self, size: int) -> Cohort:
        """Only the first prompts, with all their rows."""
        prompts = torch.arange(size, device=self.row.device)
        return self.select(prompts, torch.arange(self.row.shape[1], device=self.row.device).expand(size, -1))


class CohortDecoder:
    """Decodes cohorts together within a budget of cached tokens; prompts wait, enter, and leave."""

    def __init__(
        self,
        policy: VLM,
        prompts: Sequence[Prompt],
        draft: Draft,
        encode: Callable[[Sequence[int]], EncodedPrompts],
        budget: int | None = None,
    ):
        self.policy, self.prompts, self.draft, self.encode, self.budget = policy, prompts, draft, encode, budget
        _, self.group, self.length = draft.token_ids.shape
        self.temperature = draft.sampling.temperature
        self.cohorts: list[Cohort] = []
        self.waiting: list[int] = []
        """The longest last: it enters first, as what comes later then needs no more room."""

    def run(self, waiting: Sequence[int]) -> None:
        """Until nobody waits and all rows are finished."""
        self.waiting = list(waiting)
        while self.waiting or self.cohorts:
            if entering := self.entering():
                self.enter(entering, self.encode(entering))
            self.leave()
            if self.cohorts:
                self.make_room()
                self.decode()

    def entering(self) -> list[int]:
        """The waiting prompts that there is room for, where they are worth a cohort."""
        if not self.waiting or len(self.cohorts) == COHORTS:
            return []
        if self.budget is None:
            return self._take(len(self.waiting))
        each = self.prompts[self.waiting[-1]].length + self.group * min(self.length - 1, GROWTH)
        room = self.budget - self.cached
        fitting = min(len(self.waiting), room // each)
        if not self.cohorts:
            return self._take(max(fitting, 1))
        worth = min(len(self.waiting), max(1, int(ENTER_SHARE * self.budget) // each))
        return self._take(fitting) if fitting >= worth else []

    def _take(self, count: int) -> list[int]:
        taken, self.waiting = self.waiting[-count:], self.waiting[:-count]
        return taken

    def enter(self, indices: Sequence[int], encoded: EncodedPrompts) -> None:
        """A cohort of these prompts, with its first tokens, whose distribution all rows of a group share."""
        device, shape = self.policy.device, (len(indices), self.group)
        prompt, row = torch.tensor(indices, device=device), torch.arange(self.group, device=device).expand(shape)
        logits = sampling_logits(self.policy, encoded.hidden[:, None].expand(-1, self.group, -1), self.temperature)
        finished = torch.zeros(shape, dtype=torch.bool, device=device)
        written = self.draft.write(logits, prompt, row, 0, finished)
        decoding = Decoding.start(encoded.prefill, self.group, self.length - 1, compute_dtype(self.policy))
        self.cohorts.append(Cohort(decoding, encoded.next_position, prompt, row, *written))

    @property
    def cached(self) -> int:
        """Tokens in all caches once the next one is written."""
        return sum(len(cohort.prompt) * cohort.decoding.tokens_per_prompt for cohort in self.cohorts)

    def leave(self) -> None:
        """Finished rows are retired; cohorts that are finished, or at the limit of tokens, are gone."""
        running = [cohort for cohort in self.cohorts if cohort.decoding.step + 1 < self.length]
        if not running:
            self.cohorts = []
            return
        # One copy to the CPU for all: each waits for the device.
        active = torch.cat([(~cohort.finished).sum(1) for cohort in running]).cpu()
        counts = active.split([len(cohort.prompt) for cohort in running])
        retired = (cohort.retire(count.tolist()) for cohort, count in zip(running, counts, strict=True))
        self.cohorts = [cohort for cohort in retired if cohort is not None]

    def make_room(self) -> None:
        """Rows' buffers grow; where that is too much, prompts that came last step back, and begin anew later."""
        while self.budget is not None and self.cached > self.budget:
            last = self.cohorts.pop()
            fitting = max(0, self.budget - self.cached) // last.decoding.tokens_per_prompt
            kept = fitting if self.cohorts else max(fitting, 1)  # a prompt alone is never above the budget
            self.draft.forget(last.prompt[kept:])
            self.waiting += last.prompt[kept:].tolist()
            self.waiting.sort(key=lambda i: (self.prompts[i].length, self.prompts[i].prompt_id))
            if kept:
                self.cohorts.append(last.first(kept))
        for cohort in self.cohorts:
            cohort.decoding.grow()

    def decode(self) -> None:
        """One more token for every row."""
        cohorts = self.cohorts
        if len(cohorts) == 1:
            hidden = self.policy.decode(cohorts[0].tokens, cohorts[0].positions, cohorts[0].decoding)
        else:
            tokens, positions = (
                torch.cat([part.flatten() for part in parts])[None]
                for parts in zip(*((cohort.tokens, cohort.positions) for cohort in cohorts), strict=True)
            )
            hidden = self.policy.decode(tokens, positions, Cohorts([cohort.decoding for cohort in cohorts]))
        logits = sampling_logits(self.policy, hidden, self.temperature).flatten(0, 1)
        start = 0
        for i, cohort in enumerate(cohorts):
            end = start + cohort.row.numel()
            cohort.decoding.step += 1
            rows = cohort.prompt, cohort.row, cohort.decoding.step, cohort.finished
            tokens, finished = self.draft.write(logits[start:end].unflatten(0, cohort.row.shape), *rows)
            self.cohorts[i] = replace(cohort, tokens=tokens, finished=finished)
            start = end
