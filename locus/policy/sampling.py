"""Which tokens are drawn, and what has been written of each completion.

A prompt's random numbers depend on (seed, step, prompt id) alone, so the same prompt gets the same completions in any
batch, in any order, begun anew, and after a resume.
Shapes: N prompts in all, B of them in a batch, G rollouts per prompt, A active rows, T completion tokens, V vocabulary.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch

from locus.policy.vlm import VLM
from locus.types import Completion, Prompt, Sampling


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
    cumulative = probabilities.double().cumsum_(-1)
    threshold = uniform.to(cumulative).unsqueeze(-1) * cumulative[..., -1:]
    return torch.searchsorted(cumulative, threshold, right=True).squeeze(-1)


class Draft:
    """The completions of N prompts while they are written."""

    def __init__(self, policy: VLM, prompts: Sequence[Prompt], group: int, sampling: Sampling, seed: int, step: int):
        shape, device = (len(prompts), group, sampling.max_new_tokens), policy.device
        draws = [
            torch.rand(shape[1:], generator=prompt_generator(seed, step, prompt.prompt_id), dtype=torch.float64)
            for prompt in prompts
        ]
        self.sampling, self.ends = sampling, policy.end_token_ids
        self.uniform = torch.stack(draws).to(device)
        self.token_ids = torch.zeros(shape, dtype=torch.long, device=device)
        self.logprobs = torch.zeros(shape, device=device)
        self.lengths = torch.zeros(shape[:2], dtype=torch.long, device=device)
        self._ends = torch.tensor(self.ends, device=device)

    def write(
        self,
        logits: torch.Tensor,
        prompt: torch.Tensor,
        row: torch.Tensor,
        place: torch.Tensor | int,
        finished: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Draws a token for each row, and notes those of unfinished rows.

        Args:
            logits: [B, A, V] of the sampling distribution.
            prompt: [B] which of the N.
            row: [B, A] which of its G.
            place: which of its T; one for all, or [B, 1].
            finished: [B, A] bool.

        Returns:
            [B, A] tokens, and whether rows are finished now.
        """
        rows = prompt[:, None], row
        here = *rows, place
        tokens = choose_tokens(logits, self.uniform[here], self.sampling)
        chosen = logits.gather(-1, tokens[..., None])[..., 0] - logits.logsumexp(-1)
        self.token_ids[here] = torch.where(finished, self.token_ids[here], tokens)
        self.logprobs[here] = torch.where(finished, self.logprobs[here], chosen)
        self.lengths[rows] += ~finished
        return tokens, finished | torch.isin(tokens, self._ends)

    def forget(self, prompt: torch.Tensor) -> None:
        """These prompts begin anew."""
        for written in (self.token_ids, self.logprobs, self.lengths):
            written[prompt] = 0

    def completions(self) -> list[list[Completion]]:
        """N lists of G."""
        groups = []
        written = self.token_ids.cpu(), self.logprobs.cpu(), self.lengths.tolist()
        for ids, scores, sizes in zip(*written, strict=True):
            rows = zip(ids, scores, sizes, strict=True)
            groups.append([Completion(i[:n].clone(), s[:n].clone(), int(i[n - 1]) in self.ends) for i, s, n in rows])
        return groups
