"""Continuous batching: prompts of a stream enter, are answered and leave one by one, within a budget of cached tokens.

Prompts with the same pictures share the keys and values of all up to the last picture, their *head*; each has the rest,
its *tail*, to itself (`ragged_attention`).
Where what is written outgrows the budget, the rows that came last step back, and begin anew later. Random numbers are a
prompt's own (`sampling`), so a completion is, up to rounding, the same whatever is decoded beside it.

Shapes: R rows, B heads of a table, A rows of the one that has most, D width of the model.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence

import torch
from torch.nn.utils.rnn import pad_sequence

from locus.policy.decoding import cast
from locus.policy.group_attention import Prefill
from locus.policy.inference import compute_dtype
from locus.policy.logprobs import sampling_logits
from locus.policy.ragged_attention import KeptContinuation, RaggedStep
from locus.policy.sampling import choose_tokens, prompt_generator
from locus.policy.segments import Table, alike, arranged, held, width_of
from locus.policy.streamed_rows import Row, lengths_of, slots_of
from locus.policy.vlm import VLM, EncodedPrompts, VisionFeatures
from locus.types import Completion, Prompt, Sampling

ROWS = 256
"""Decoded together at most: each has its logits."""
ENTER_SHARE = 0.125
"""Prompts enter by waves of this share of the budget, or of the rows: each wave interrupts the decoding."""
RETIRE_SHARE = 0.25
"""Finished rows are taken out once they are this share of the rows: each time copies tables."""


class ContinuousDecoder:
    """Answers a stream of prompts.

    Args:
        policy: see `inference_policy`.
        sampling: of every prompt.
        budget: of cached tokens, of heads and of what follows them, padding counted.
        seed: with the prompt's id it fixes the random numbers.
        vision: a prompt and its shared key -> the features of its pictures; asked when its head is to be encoded.
    """

    def __init__(
        self,
        policy: VLM,
        sampling: Sampling,
        budget: int,
        seed: int,
        vision: Callable[[Prompt, Hashable], VisionFeatures],
    ) -> None:
        self.policy, self.sampling, self.budget, self.seed, self.vision = policy, sampling, budget, seed, vision
        self.waiting: deque[Row] = deque()
        self.rows: list[Row] = []
        """In the order of ``tails``; finished ones stay until they are retired."""
        self.heads: list[Table] = []
        self.tails: list[Table] = []
        self._positions: dict[Hashable, int] = {}
        """The M-RoPE position behind each head."""
        self._uniform: dict[int, torch.Tensor] = {}
        """[T] random numbers of each row; none where the temperature is 0."""
        self._answered, self._written = 0, 0
        self._refused: int | None = None
        """Live rows beside which nothing was let in: as they write, there is ever less room."""

    @torch.no_grad()
    def run(self, stream: Iterable[tuple[Prompt, Hashable]]) -> Iterator[tuple[int, Completion]]:
        """The place in the stream, and the completion, of each prompt as it is finished.

        stream: prompts, each with a key that is equal for those with the same tokens and pictures up to the last one.
            It is read as prompts enter. One that exceeds the budget is answered alone.
        """
        rows = (Row(number, *asked) for number, asked in enumerate(stream))
        while True:
            entering = self._entering(rows)
            if entering:
                yield from self._enter(entering)
            elif not self._live():
                return
            self._retire()
            if self.rows:
                yield from self._decode()

    def _live(self) -> list[Row]:
        return [row for row in self.rows if not row.finished]

    def _peek(self, place: int, rows: Iterator[Row]) -> Row | None:
        """The waiting row at this place, drawn from the stream where it is not there yet."""
        if place == len(self.waiting):
            row = next(rows, None)
            if row is None:
                return None
            self.waiting.append(row)
        return self.waiting[place]

    def _entering(self, rows: Iterator[Row]) -> list[Row]:
        """The waiting prompts that there is room for, where they are worth a wave."""
        live = self._live()
        if live and len(live) == self._refused:
            return []
        heads, tails = lengths_of(live)
        start, wave = held(heads) + held(tails), max(1, int(ENTER_SHARE * self.budget))
        self._refused = len(live)
        if live and start + wave > self.budget:
            return []
        count, grown, ended, expected = 0, 0, False, self._expected()
        while grown < wave and len(live) + count < ROWS:
            row = self._peek(count, rows)
            if row is None:
                ended = True
                break
            heads[row.shared], tails[row.number] = row.head, row.tail + expected
            grown = held(heads) + held(tails) - start
            if start + grown > self.budget and (live or count):
                break
            count += 1
        worth = not live or ended or grown >= wave or count >= ENTER_SHARE * ROWS
        if count and worth:
            self._refused = None
        return [self.waiting.popleft() for _ in range(count if worth else 0)]

    def _expected(self) -> int:
        """Tokens that an answer is expected to have: what is let in must fit as it grows, or steps back."""
        mean = self._written // self._answered if self._answered else self.sampling.max_new_tokens
        return max(1, min(mean, self.sampling.max_new_tokens))

    def _retire(self) -> None:
        """Finished rows are taken out if they are enough to pay for the copy, or the next token needs their room."""
        live, next_tokens, start = self._live(), sum(table.tokens for table in self.heads), 0
        for table in self.tails:
            end = start + len(table.names)
            next_tokens += (end - start) * width_of(max(row.tail for row in self.rows[start:end]))
            start = end
        if next_tokens > self.budget or len(self.rows) - len(live) >= RETIRE_SHARE * len(self.rows):
            self._keep(live)

    def _keep(self, rows: Sequence[Row], new: Sequence[Table] = ()) -> None:
        """Only these rows, as many as fit, in tables arranged anew; ``new``: tails that are not among ours."""
        kept = sorted(rows, key=lambda row: row.number)
        while len(kept) > 1 and sum(map(held, lengths_of(kept))) > self.budget:
            last = kept.pop()
            last.token_ids, last.logprobs = [], []
            self.waiting.appendleft(last)
        of_heads, of_tails = lengths_of(kept)
        self.heads, self.tails = arranged(self.heads, of_heads), arranged([*self.tails, *new], of_tails)
        self._positions = {name: self._positions[name] for name in of_heads}
        by_number = {row.number: row for row in kept}
        self.rows = [by_number[name] for table in self.tails for name in table.names]  # type: ignore[index]

    def _enter(self, entering: Sequence[Row]) -> Iterator[tuple[int, Completion]]:
        """Heads that are not there are encoded, then the questions behind them, which gives the first tokens."""
        live = self._live()
        here = {row.shared for row in live}
        new = {row.shared: row for row in reversed(entering) if row.shared not in here}
        tables = [self._encoded(names, new) for names in alike({name: row.head for name, row in new.items()})]
        of_heads, _ = lengths_of([*live, *entering])
        self.heads = arranged([*self.heads, *tables], of_heads)
        tails, rows, states = [], [], []
        for table in self.heads:
            asked = [[row for row in entering if row.shared == name] for name in table.names]
            if any(asked):
                tail, hidden = self._continued(table, asked)
                tails.append(tail)
                rows += [row for group in asked for row in group]
                states.append(hidden)
        completions = list(self._write(rows, torch.cat(states)))
        self._keep([row for row in [*live, *entering] if not row.finished], tails)
        yield from completions

    def _encoded(self, names: list[Hashable], rows: Mapping[Hashable, Row]) -> Table:
        """New heads of like length."""
        chosen = [rows[name] for name in names]
        features = [self.vision(row.prompt, row.shared) for row in chosen]
        encoded = self.policy.encode([row.head_prompt() for row in chosen], features)
        self._positions |= dict(zip(names, encoded.next_position.tolist(), strict=True))
        prefill = cast(encoded.prefill, compute_dtype(self.policy))
        return Table(names, [row.head for row in chosen], prefill.keys, prefill.values, prefill.states)

    def _continued(self, table: Table, asked: Sequence[Sequence[Row]]) -> tuple[Table, torch.Tensor]:
        """Questions behind the heads of a table -> their tails, and [R, D] what predicts the first tokens."""
        device, rows = self.policy.device, [row for group in asked for row in group]
        # One token more, which is not fed: it is what the question's last token predicts.
        lengths = torch.zeros(len(asked), max(map(len, asked)), dtype=torch.long)
        ids = torch.zeros(*lengths.shape, max(len(row.question) for row in rows) + 1, dtype=torch.long)
        for head, group in enumerate(asked):
            for place, row in enumerate(group):
                lengths[head, place] = len(row.question) + 1
                ids[head, place, : len(row.question)] = row.question
        mask = torch.arange(ids.shape[-1]) < lengths[..., None]
        plans: list[KeptContinuation] = []

        def plan(prefill: Prefill, fed: torch.Tensor) -> KeptContinuation:
            plans.append(KeptContinuation(prefill, fed))
            return plans[0]

        behind = torch.tensor([self._positions[name] for name in table.names], device=device)
        nothing = self.policy.lm_head.weight.new_zeros(len(asked), self.policy.lm_head.in_features)
        prompts = EncodedPrompts([], nothing, Prefill(table.mask, table.keys, table.values, table.states), behind)
        hidden = self.policy.completion_hidden(prompts, ids.to(device), mask.to(device), plan)
        last = lengths[lengths > 0].cumsum(0) - 1
        sizes, dtype = [len(row.question) for row in rows], compute_dtype(self.policy)

        def padded(packs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
            return [pad_sequence(pack.to(dtype).split(sizes), True).transpose(1, 2).contiguous() for pack in packs]

        names: list[Hashable] = [row.number for row in rows]
        return Table(names, sizes, padded(plans[0].keys), padded(plans[0].values), plans[0].states), hidden[
            last.to(device)
        ]

    def _decode(self) -> Iterator[tuple[int, Completion]]:
        """One more token for every row."""
        device, rows = self.policy.device, self.rows
        tails, start = [], 0
        for table in self.tails:
            end = start + len(table.names)
            tails.append(table.lengthened([row.tail for row in rows[start:end]]))
            start = end
        self.tails = tails
        slots, order = slots_of(rows, self.heads)
        plan = RaggedStep(self.heads, self.tails, [slot.to(device) for slot in slots], order.to(device))
        fed = [(row.token_ids[-1], self._positions[row.shared] + row.tail - 1) for row in rows]
        token_ids, positions = torch.tensor(fed, device=device).T[:, None]
        yield from self._write(rows, self.policy.decode(token_ids, positions, plan)[0])

    def _write(self, rows: Sequence[Row], hidden: torch.Tensor) -> Iterator[tuple[int, Completion]]:
        """Draws a token for each row from its [R, D] state; the completions that it finishes."""
        logits = sampling_logits(self.policy, hidden[None], self.sampling.temperature)[0]
        tokens = choose_tokens(logits, self._uniform_of(rows).to(logits.device), self.sampling)
        logprobs = logits.gather(-1, tokens[:, None])[:, 0] - logits.logsumexp(-1)
        for row, token, logprob in zip(rows, tokens.tolist(), logprobs.tolist(), strict=True):
            if row.finished:
                continue
            row.token_ids.append(token)
            row.logprobs.append(logprob)
            ended = token in self.policy.end_token_ids
            if ended or len(row.token_ids) == self.sampling.max_new_tokens:
                row.finished = True
                self._answered, self._written = self._answered + 1, self._written + len(row.token_ids)
                self._uniform.pop(row.number, None)
                yield row.number, Completion(torch.tensor(row.token_ids), torch.tensor(row.logprobs), ended)

    def _uniform_of(self, rows: Sequence[Row]) -> torch.Tensor:
        """[R] the random number of each row's next token; zeros where the temperature is 0."""
        if self.sampling.temperature == 0:
            return torch.zeros(len(rows))
        for row in rows:
            if row.number not in self._uniform and not row.finished:
                generator = prompt_generator(self.seed, 0, row.prompt.prompt_id)
                drawn = torch.rand((1, self.sampling.max_new_tokens), generator=generator, dtype=torch.float64)
                self._uniform[row.number] = drawn[0]
        numbers = [0.0 if row.finished else float(self._uniform[row.number][len(row.token_ids)]) for row in rows]
        return torch.tensor(numbers, dtype=torch.float64)
