"""Attention of completions to their prompt and to themselves: two attentions, joined by their log-sum-exp.

The prompt's keys are not copied per completion (on a GPU, grouped heads repeat one layer's at a time) and no mask is
made: all tokens of a prompt's completions are the queries of one attention to its keys, and each completion attends
causally to itself in another. From outputs o and log-sum-exps l of the two, the whole is Σ o·exp(l - L) with
L = logaddexp(l) (Dao et al. 2022, arXiv 2205.14135, for blocks of keys). A fused kernel's backward pass takes output
and log-sum-exp; given those of the whole, it yields its part's share of the whole gradient (Liu et al. 2023,
arXiv 2310.01889, for blocks on many devices).

Completions are a pack: row after row without padding, a prompt's rows side by side.
Shapes: B prompts, R rows, N tokens of all rows, P prompt tokens, T tokens of the longest row, H heads, K key-value
heads, D head width.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
import torch.nn.functional as F

SHORT = 64
"""Rows up to this length attend to themselves together, longer ones with others of up to twice their length."""


@dataclass(frozen=True, eq=False)
class Span:
    """The tokens of one prompt's rows."""

    prompt: int
    """Index into the batch."""
    prompt_tokens: int
    """Without padding."""
    place: slice
    """In the pack."""

    def rows(self, packed: torch.Tensor) -> torch.Tensor:
        """[N, H, ...] -> [1, H, n, ...]."""
        return packed[None, self.place].transpose(1, 2)

    def keys(self, shared: torch.Tensor) -> torch.Tensor:
        """[B, K, P, D] -> this prompt's, [1, K, P', D] without padding."""
        return shared[self.prompt, None, :, : self.prompt_tokens]


@dataclass(frozen=True, eq=False)
class Bucket:
    """Rows of like length, padded on the right to the longest: causal queries never see the padding."""

    gather: torch.Tensor
    """[R', T] index into the pack; padding repeats a row's last token."""
    real: torch.Tensor
    """[n] index into R'·T of what is no padding."""
    padding: torch.Tensor
    """[R'·T - n] the rest."""
    place: torch.Tensor
    """[n] where it lies in the pack."""

    @classmethod
    def of(cls, rows: Iterable[tuple[int, int]], device: torch.device) -> Bucket:
        """From rows of (first token, length)."""
        start, length = torch.tensor(list(rows)).T[..., None]
        steps = torch.arange(int(length.max()))
        gather, real = start + steps.minimum(length - 1), (steps < length).flatten()
        place = gather.flatten()[real]
        return cls(*(index.to(device) for index in (gather, real.nonzero()[:, 0], (~real).nonzero()[:, 0], place)))

    def rows(self, packed: torch.Tensor) -> torch.Tensor:
        """[N, H, ...] -> [R', H, T, ...]."""
        flat = packed.index_select(0, self.gather.flatten())
        return flat.unflatten(0, self.gather.shape).transpose(1, 2)

    def tokens(self, rows: torch.Tensor) -> torch.Tensor:
        """[R', H, T, ...] -> [n, H, ...]."""
        return rows.transpose(1, 2).flatten(0, 1).index_select(0, self.real)


@dataclass(frozen=True, eq=False)
class Layout:
    """Where each row of a pack lies."""

    spans: list[Span]
    buckets: list[Bucket]

    @classmethod
    def of(cls, lengths: Sequence[Sequence[int]], prompt_tokens: Sequence[int], device: torch.device) -> Layout:
        """From the lengths of each prompt's rows, [B][G], 0 where there is none, and of the prompts, [B]."""
        spans: list[Span] = []
        rows: list[tuple[int, int]] = []
        start = 0
        for prompt, group in enumerate(lengths):
            first = start
            for length in filter(None, group):
                rows.append((start, length))
                start += length
            if start > first:
                spans.append(Span(prompt, prompt_tokens[prompt], slice(first, start)))

        def size(row: tuple[int, int]) -> int:
            return (max(row[1], SHORT) - 1).bit_length()

        like = groupby(sorted(rows, key=size), size)
        return cls(spans, [Bucket.of(bucket, device) for _, bucket in like])


def joined_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    shared_key: torch.Tensor,
    shared_value: torch.Tensor,
    layout: Layout,
    scale: float,
) -> torch.Tensor:
    """Each row attends to its prompt and, causally, to itself.

    Args:
        query: [N, H, D] of the pack.
        key, value: [N, K, D] of the pack.
        shared_key, shared_value: [B, K, P, D] of the prompts, padded on the right.
        layout: which token is whose.
        scale: of the scores.

    Returns:
        [N, H, D].
    """
    # Under autocast the rotary embedding leaves queries and keys in float32; a kernel wants one type.
    query, key, shared_key, shared_value = (part.to(value.dtype) for part in (query, key, shared_key, shared_value))
    output: torch.Tensor = _Joined.apply(query, key, value, shared_key, shared_value, layout, scale)
    return output


class _Joined(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor,
                shared_key: torch.Tensor, shared_value: torch.Tensor, layout: Layout, scale: float,
                ) -> torch.Tensor:  # fmt: skip
        output = query.new_empty(query.shape)
        # The log-sum-exp of the scores so far.
        weight = query.new_empty(query.shape[:2], dtype=torch.promote_types(query.dtype, torch.float32))
        for span in layout.spans:
            found, own = _attend(span.rows(query), span.keys(shared_key), span.keys(shared_value), False, scale)
            output[span.place], weight[span.place] = found[0].transpose(0, 1), own[0].T
        for bucket in layout.buckets:
            found, own = _attend(bucket.rows(query), bucket.rows(key), bucket.rows(value), True, scale)
            found, own, before = bucket.tokens(found), bucket.tokens(own), weight.index_select(0, bucket.place)
            whole = torch.logaddexp(before, own)
            shared = output.index_select(0, bucket.place) * (before - whole).exp_()[..., None]
            output[bucket.place] = shared.addcmul(found, (own - whole).exp_()[..., None]).to(output.dtype)
            weight[bucket.place] = whole
        ctx.save_for_backward(query, key, value, shared_key, shared_value, output, weight)
        ctx.layout, ctx.scale = layout, scale
        return output

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (grad,) = grads
        # Backward may run inside the step's autocast, which on a GPU turns the sums over grouped heads to float32.
        with torch.autocast(grad.device.type, enabled=False):
            return (*_Joined.gradients(ctx, grad), None, None)

    @staticmethod
    def gradients(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Of query, key, value, and the prompts' key and value, each in its own type."""
        query, key, value, shared_key, shared_value, output, weight = ctx.saved_tensors
        d_query, d_key, d_value = (part.new_empty(part.shape) for part in (query, key, value))
        d_shared_key, d_shared_value = torch.zeros_like(shared_key), torch.zeros_like(shared_value)
        for span in ctx.layout.spans:
            asked, keys = (span.rows(grad), span.rows(query)), (span.keys(shared_key), span.keys(shared_value))
            share, *shares = _attend_backward(*asked, *keys, span.rows(output), span.rows(weight), False, ctx.scale)
            d_query[span.place] = share[0].transpose(0, 1)
            for total, share in zip((d_shared_key, d_shared_value), shares, strict=True):
                span.keys(total).copy_(share)
        for bucket in ctx.layout.buckets:
            pushed = bucket.rows(grad)
            pushed.transpose(1, 2).flatten(0, 1)[bucket.padding] = 0  # it repeats a real token's gradient
            given = (bucket.rows(query), bucket.rows(key), bucket.rows(value))
            whole = (bucket.rows(output), bucket.rows(weight))
            share, *shares = _attend_backward(pushed, *given, *whole, True, ctx.scale)
            d_query.index_add_(0, bucket.place, bucket.tokens(share))
            for total, share in zip((d_key, d_value), shares, strict=True):
                total[bucket.place] = bucket.tokens(share)
        return d_query, d_key, d_value, d_shared_key, d_shared_value


# --- Kernels that give the log-sum-exp, and take it back --------------------------------------------------------
def _attend(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, causal: bool, scale: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """[R, H, T, D] and twice [R, K, S, D] -> output [R, H, T, D] and log-sum-exp [R, H, T] in float32."""
    if query.is_cuda:
        key, value = (part.repeat_interleave(query.shape[1] // key.shape[1], dim=1) for part in (key, value))
        output, weight, *_ = torch.ops.aten._scaled_dot_product_efficient_attention(
            query, key, value, None, True, 0.0, causal, scale=scale
        )
        return output, weight[..., : query.shape[2]]  # it comes padded to a multiple of 32
    return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(query, key, value, 0.0, causal, scale=scale)


def _attend_backward(
    grad: torch.Tensor, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, output: torch.Tensor,
    weight: torch.Tensor, causal: bool, scale: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:  # fmt: skip
    """Gradients of query, key and value; output and its log-sum-exp may be of more keys than these."""
    if query.is_cuda:
        shared = query.shape[1] // key.shape[1]
        key, value = (part.repeat_interleave(shared, dim=1) for part in (key, value))
        weight = F.pad(weight, (0, -weight.shape[-1] % 32), value=float("inf")).contiguous()
        seed = torch.zeros((), dtype=torch.long, device=query.device)  # of a dropout that there is not
        d_query, d_key, d_value, _ = torch.ops.aten._scaled_dot_product_efficient_attention_backward(
            grad, query, key, value, None, output, weight, seed, seed, 0.0, [True, True, True, False], causal,
            scale=scale,
        )  # fmt: skip
        return d_query, *(part.unflatten(1, (-1, shared)).sum(2) for part in (d_key, d_value))
    return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
        grad, query, key, value, output, weight, 0.0, causal, scale=scale
    )
