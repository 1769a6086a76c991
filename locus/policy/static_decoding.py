"""Decoding at fixed shapes, which torch.compile and CUDA graphs can take: slots for prompts, rows for their groups.

A slot whose group is finished is computed in vain until a waiting prompt takes it over.
Shapes: N prompts in all, B slots, G rollouts per prompt, P prompt tokens, T completion tokens, C = T - 1
tokens that a row's buffer holds, H heads, K key-value heads, D head width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from locus.policy.cohorts import ENTER_SHARE
from locus.policy.decoding import attend_to_both
from locus.policy.group_attention import Prefill
from locus.policy.inference import compute_dtype
from locus.policy.linear_attention import LayerState, LinearLayer
from locus.policy.logprobs import sampling_logits
from locus.policy.sampling import Draft
from locus.policy.vlm import VLM, EncodedPrompts
from locus.types import Prompt

CHECK_EVERY = 8
"""Tokens between two looks at what is finished: each waits for the device."""
SHAPES = 1 << 20
"""For which a step may be compiled. Dynamo's own limit is 8, and the ninth would end the run."""


def power_of_two(least: int) -> int:
    """The smallest one from ``least`` on: shapes rounded to it are few, so that a compiled step serves many batches."""
    return 1 << (least - 1).bit_length()


@dataclass(eq=False)
class StaticDecoding:
    """An attention plan: one new token for every row of every slot, each slot at a step of its own."""

    prompt_keys: list[torch.Tensor]
    """One [B, K, P, D] a layer."""
    prompt_values: list[torch.Tensor]
    prompt_bias: torch.Tensor
    """[B, 1, 1, P] to add to scores: -inf behind a prompt."""
    keys: list[torch.Tensor]
    """Of the rows themselves: one [B, K, G, C, D] a layer."""
    values: list[torch.Tensor]
    steps: torch.Tensor
    """[B] tokens in the rows' buffers."""
    states: list[LayerState]
    """Of the rows, B·G, one a layer of linear attention."""

    @classmethod
    def like(
        cls, prefill: Prefill, slots: int, group: int, shape: tuple[int, int], dtype: torch.dtype
    ) -> StaticDecoding:
        """Empty slots for prompts with such keys; shape is (P, C)."""
        _, heads, _, width = prefill.keys[0].shape
        prompt, length = shape

        def zeros(*size: int) -> list[torch.Tensor]:  # what is masked must be finite
            return [states.new_zeros(*size, width, dtype=dtype) for states in prefill.keys]

        of_prompts = zeros(slots, heads, prompt), zeros(slots, heads, prompt)
        own = zeros(slots, heads, group, length), zeros(slots, heads, group, length)
        device = prefill.prompt_mask.device
        bias = torch.full((slots, 1, 1, prompt), float("-inf"), device=device)
        row = torch.zeros(slots * group, dtype=torch.long, device=device)  # overwritten when a prompt enters
        states = [state.select(row) for state in prefill.states]
        return cls(*of_prompts, bias, *own, torch.zeros(slots, dtype=torch.long, device=device), states)

    def tensors(self) -> list[torch.Tensor]:
        """All of them."""
        layers = self.prompt_keys, self.prompt_values, self.keys, self.values
        linear = (part for state in self.states for part in (state.convolution, state.recurrent))
        return [self.prompt_bias, self.steps, *(states for part in layers for states in part), *linear]

    def enter(self, slots: torch.Tensor, prefill: Prefill) -> None:
        """Prompts [B'] take these slots [B'] over."""
        tokens = prefill.prompt_mask.shape[1]
        for mine, theirs in ((self.prompt_keys, prefill.keys), (self.prompt_values, prefill.values)):
            for layer, states in zip(mine, theirs, strict=True):
                layer[slots, :, :tokens] = states.to(layer.dtype)
        for own, of_prompts in zip(self.states, prefill.states, strict=True):
            for part in ("convolution", "recurrent"):
                rows = getattr(own, part).unflatten(0, (len(self.steps), -1))  # [B, G, ...]
                rows[slots] = getattr(of_prompts, part)[:, None].expand(-1, *rows.shape[1:])
        bias = torch.full((len(slots), *self.prompt_bias.shape[1:]), float("-inf"), device=slots.device)
        bias[..., :tokens].masked_fill_(prefill.prompt_mask[:, None, None], 0)
        self.prompt_bias[slots] = bias
        self.steps[slots] = 0

    def attend(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float
    ) -> torch.Tensor:
        keys, values = self.keys[layer], self.values[layer]
        last = self.steps.clamp(max=keys.shape[3] - 1)[:, None, None, None, None]  # of a finished slot: stays in bounds
        for states, new in ((keys, key), (values, value)):
            states.scatter_(3, last.expand(*states.shape[:3], 1, states.shape[4]), new[:, :, :, None].to(states.dtype))
        unwritten = torch.arange(keys.shape[3], device=keys.device) > last
        own_bias = torch.zeros(unwritten.shape, device=keys.device).masked_fill(unwritten, float("-inf"))
        prompt = self.prompt_keys[layer], self.prompt_values[layer]
        return attend_to_both(query * scale, prompt, self.prompt_bias, (keys, values), own_bias)

    def recur(self, layer: int, run: LinearLayer, hidden: torch.Tensor) -> torch.Tensor:
        mine = self.states[layer]
        output, after = run(hidden.flatten(0, 1)[:, None], mine, None)
        mine.convolution.copy_(after.convolution)
        mine.recurrent.copy_(after.recurrent)
        return output[:, 0].unflatten(0, hidden.shape[:2])


def fixed_shape(count: int, longest: int, written: int, budget: int) -> tuple[int, int]:
    """How many slots a budget of cached tokens holds for so many prompts, and their tokens of a prompt.

    Args:
        longest: tokens of the longest prompt.
        written: tokens of a prompt's completions at their longest.
    """
    width = max(longest, min(power_of_two(longest), budget - written))
    return max(1, min(power_of_two(count), budget // (width + written))), width


class StaticDecoder:
    """Decodes as many slots as the budget of cached tokens holds; waiting prompts take over what becomes free."""

    def __init__(
        self,
        policy: VLM,
        prompts: Sequence[Prompt],
        draft: Draft,
        encode: Callable[[Sequence[int]], EncodedPrompts],
        budget: int,
        compiled: bool = False,
    ):
        self.policy, self.draft, self.encode, self.compiled = policy, draft, encode, compiled
        _, self.group, self.length = draft.token_ids.shape
        longest, written = max(prompt.length for prompt in prompts), self.group * (self.length - 1)
        self.slots, self.width = fixed_shape(len(prompts), longest, written, budget)
        self.used = min(len(prompts), self.slots)
        """The first ones; the others only fill the shape up."""
        self.share = max(1, int(ENTER_SHARE * self.used))
        shape, device = (self.used, self.group), policy.device
        self.plan: StaticDecoding | None = None
        self.prompt = torch.zeros(self.used, dtype=torch.long, device=device)
        self.row = torch.arange(self.group, device=device).expand(shape)
        self.next_position = torch.zeros(self.slots, dtype=torch.long, device=device)
        self.tokens = torch.zeros((self.slots, self.group), dtype=torch.long, device=device)
        self.finished = torch.ones(shape, dtype=torch.bool, device=device)

    def run(self, waiting: Sequence[int]) -> None:
        """Until nobody waits and all rows are finished."""
        if not self.compiled:
            self._run(list(waiting), self.policy.decode)
            return
        decode = torch.compile(self.policy.decode, fullgraph=True, dynamic=False, mode="reduce-overhead")
        with torch._dynamo.config.patch(recompile_limit=SHAPES, accumulated_recompile_limit=SHAPES):
            self._run(list(waiting), decode)

    def _run(self, waiting: list[int], decode: Callable[..., torch.Tensor]) -> None:
        while True:
            free = self.finished.all(1).nonzero()[:, 0].tolist()
            if waiting and len(free) >= min(len(waiting), self.share):
                entering, waiting = waiting[-len(free) :], waiting[: -len(free)]
                for first in range(0, len(entering), self.share):  # what is encoded is held beside the slots
                    indices = entering[first : first + self.share]
                    self.enter(free[first : first + len(indices)], indices)
            elif len(free) == self.used:
                return
            for _ in range(CHECK_EVERY if self.length > 1 else 0):
                self.decode(decode)

    def enter(self, slots: Sequence[int], indices: Sequence[int]) -> None:
        """Prompts take over free slots, with their first tokens, whose distribution all rows of a group share."""
        encoded = self.encode(indices)
        if self.plan is None:
            shape = self.width, self.length - 1
            self.plan = StaticDecoding.like(encoded.prefill, self.slots, self.group, shape, compute_dtype(self.policy))
            for tensor in self.plan.tensors() if self.compiled else ():
                torch._dynamo.mark_static_address(tensor)  # else CUDA graphs would copy the caches, or not be used
        places = torch.tensor(slots, device=self.policy.device)
        self.plan.enter(places, encoded.prefill)
        self.prompt[places], self.next_position[places] = torch.tensor(indices).to(places), encoded.next_position
        hidden = encoded.hidden[:, None].expand(-1, self.group, -1)
        logits = sampling_logits(self.policy, hidden, self.draft.sampling.temperature)
        begun = torch.zeros((len(slots), self.group), dtype=torch.bool, device=places.device)
        tokens, finished = self.draft.write(logits, self.prompt[places], self.row[places], 0, begun)
        self.tokens[places], self.finished[places] = tokens, finished | (self.length == 1)

    def decode(self, decode: Callable[..., torch.Tensor]) -> None:
        """One more token for every row of every slot."""
        assert self.plan is not None
        positions = (self.next_position + self.plan.steps)[:, None].expand(self.tokens.shape)
        hidden = decode(self.tokens, positions, self.plan)[: self.used]
        logits = sampling_logits(self.policy, hidden, self.draft.sampling.temperature)
        self.plan.steps.add_(1).clamp_(max=self.length - 1)
        place = self.plan.steps[: self.used, None]
        tokens, finished = self.draft.write(logits, self.prompt, self.row, place, self.finished)
        self.tokens[: self.used], self.finished = tokens, finished | (place == self.length - 1)
