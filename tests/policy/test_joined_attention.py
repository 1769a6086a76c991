"""Two attentions joined by their log-sum-exp are one attention: outputs and gradients, against the plain definition."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from locus.policy.dry_run import PeakBytes
from locus.policy.joined_attention import Layout, _attend, _attend_backward, joined_attention
from tests.support.group_forward import CPU, LAYOUTS, WIDTH, packed_states


def plain(
    given: Sequence[torch.Tensor], lengths: Sequence[Sequence[int]], prompt_tokens: Sequence[int]
) -> torch.Tensor:
    """Row by row softmax(q·k)·v over the prompt's keys and the row's own past."""
    query, key, value, shared_key, shared_value = given
    repeats, rows, start = query.shape[1] // key.shape[1], [], 0
    for prompt, group in enumerate(lengths):
        before = [part[prompt, :, : prompt_tokens[prompt]] for part in (shared_key, shared_value)]
        for length in group:
            own = (part[start : start + length].transpose(0, 1) for part in (key, value))
            keys, values = (torch.cat(pair, 1).repeat_interleave(repeats, 0) for pair in zip(before, own, strict=True))
            asked = query[start : start + length].transpose(0, 1)
            hidden = torch.ones(length, keys.shape[1], dtype=torch.bool).triu(prompt_tokens[prompt] + 1)
            scores = (asked @ keys.transpose(1, 2) / WIDTH**0.5).masked_fill(hidden, float("-inf"))
            rows.append((scores.softmax(-1) @ values).transpose(0, 1))
            start += length
    return torch.cat(rows)


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_outputs_and_gradients_are_those_of_one_attention(name: str, kv_heads: int):
    """Padding that is attended to, a row that sees a sibling or its future, a share of the gradient lost or doubled."""
    lengths, prompt_tokens = LAYOUTS[name]
    given = packed_states(lengths, prompt_tokens, 4, kv_heads)
    found = joined_attention(*given, Layout.of(lengths, prompt_tokens, CPU), WIDTH**-0.5)
    expected = plain(given, lengths, prompt_tokens)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    weights = torch.randn(found.shape, generator=torch.Generator().manual_seed(1))
    for one, other in zip(
        *(torch.autograd.grad((out * weights).sum(), given) for out in (found, expected)), strict=True
    ):
        assert float((one - other).norm() / other.norm()) < 1e-5


def test_gradient_by_finite_differences():
    """A gradient that is wrong in the same way here and in the definition above."""
    lengths, prompt_tokens = [[2, 3], [1, 0]], [3, 2]
    given, layout = packed_states(lengths, prompt_tokens, 2, 1, torch.float64), Layout.of(lengths, prompt_tokens, CPU)
    assert torch.autograd.gradcheck(lambda *parts: joined_attention(*parts, layout, 0.3), given, fast_mode=True)


def test_mixed_types():
    """Under autocast queries and keys are float32 beside bfloat16 values: the kernels take one type only."""
    lengths, prompt_tokens = LAYOUTS["ragged"]
    given = packed_states(lengths, prompt_tokens, 4, 2)
    exact = plain(given, lengths, prompt_tokens)
    query, key, value, shared_key, shared_value = given
    mixed = query, key, value.bfloat16(), shared_key, shared_value.bfloat16()
    found = joined_attention(*mixed, Layout.of(lengths, prompt_tokens, CPU), WIDTH**-0.5)
    found.float().sum().backward()
    assert found.dtype == torch.bfloat16 and all(bool(part.grad.isfinite().all()) for part in given)
    assert (found.float() - exact).norm() < 1e-2 * exact.norm()


def test_prompts_are_not_copied():
    """Keys repeated for each row, or scores and masks of prompt by tokens: memory would grow with G times P."""
    lengths, prompt_tokens = [[8] * 16], [4000]
    given, layout = packed_states(lengths, prompt_tokens, 4, 2), Layout.of(lengths, prompt_tokens, CPU)
    with PeakBytes() as memory:
        joined_attention(*given, layout, 0.25).sum().backward()
    pack, shared = (sum(part.nbytes for part in parts) for parts in (given[:3], given[3:]))
    assert memory.peak < 2.1 * shared + 10 * pack < 0.2 * 16 * shared  # the gradient of the keys, and its sum


@pytest.mark.parametrize("causal", [True, False])
def test_the_gpus_kernels_take_these_shapes(causal: bool):
    """Arguments in another order, a log-sum-exp without its padding; `tests/project/test_gpu.py` has the numbers."""
    with FakeTensorMode():
        query = torch.empty(3, 7, 4, WIDTH, device="cuda").transpose(1, 2)
        key, value = (torch.empty(3, 7, 2, WIDTH, device="cuda").transpose(1, 2) for _ in range(2))
        output, weight = _attend(query, key, value, causal, 0.25)
        gradients = _attend_backward(query, query, key, value, output, weight, causal, 0.25)
    assert output.shape == query.shape and weight.shape == query.shape[:3]
    assert [part.shape for part in gradients] == [part.shape for part in (query, key, value)]
