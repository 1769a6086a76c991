"""Steps of fixed shapes: few of them, and none that ends a run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

from locus.policy.rollouts import RolloutDecoding, encode_in_parts, sample_in_turn
from locus.policy.sampling import Draft
from locus.policy.static_decoding import StaticDecoder
from locus.policy.vlm import VLM
from locus.training.step_sizes import StepSizes
from locus.types import Completion, Prompt, Sampling
from tests.support.models import prompts, tiny_vlm

SAMPLING = Sampling(max_new_tokens=3)


def longer(records: Sequence[Prompt], tokens: int) -> list[Prompt]:
    """Prompts with so many more tokens of text."""
    more = torch.full((tokens,), 5)
    return [
        replace(
            one,
            input_ids=torch.cat([one.input_ids, more]),
            mm_token_type_ids=torch.cat([one.mm_token_type_ids, torch.zeros_like(more)]),
        )
        for one in records
    ]


def written(vlm: VLM, records: Sequence[Prompt], group: int, step: str) -> list[list[Completion]]:
    """Completions at a budget that holds all."""
    with torch.no_grad():
        return sample_in_turn(
            vlm,
            records,
            lambda indices: encode_in_parts(vlm, [records[i] for i in indices], 4000),
            *(group, SAMPLING, 1, 2, RolloutDecoding(100_000, step)),
        )


@pytest.mark.slow
def test_ten_shapes_do_not_end_a_run(monkeypatch: pytest.MonkeyPatch):
    """Dynamo's limit of 8 shapes, which with fullgraph raises: a run would end at the ninth."""
    vlm, records, compiled = tiny_vlm("qwen2_5_vl", text_layers=1), prompts("qwen2_5_vl")[:1], []
    compiling: Callable[..., Any] = torch.compile

    def backend(graph: torch.fx.GraphModule, inputs: object) -> torch.fx.GraphModule:
        compiled.append(graph)
        return graph

    def eager(step: Callable[..., Any], fullgraph: bool, dynamic: bool, mode: str) -> Callable[..., Any]:
        return compiling(step, fullgraph=fullgraph, dynamic=dynamic, backend=backend)

    torch._dynamo.reset()
    monkeypatch.setattr(torch, "compile", eager)
    for group in range(1, 11):
        found, expected = (sum(written(vlm, records, group, step), []) for step in ("compiled", "static"))
        assert [one.token_ids.tolist() for one in found] == [one.token_ids.tolist() for one in expected]
    assert len(compiled) == 10
    torch._dynamo.reset()


def test_batches_share_their_shapes():
    """A shape for every length of the longest prompt, and every number of prompts: each is compiled for minutes."""
    vlm, records = tiny_vlm("qwen3_vl"), prompts("qwen3_vl")

    def shape(count: int, more: int, budget: int) -> tuple[int, int]:
        some = longer((records * count)[:count], more)
        draft = Draft(vlm, some, 4, SAMPLING, 1, 2)
        decoder = StaticDecoder(vlm, some, draft, lambda indices: pytest.fail("not run"), budget)
        longest = max(one.length for one in some)
        assert decoder.width >= longest and decoder.slots * (decoder.width + 4 * 2) <= budget
        return decoder.slots, decoder.width

    assert len({shape(count, more, 10_000) for count in range(9, 17) for more in range(0, 512, 64)}) <= 4
    sizes = StepSizes((records * 5)[:5], 4, SAMPLING, 2, 10_000, RolloutDecoding(10_000, "static"))
    slots, width = shape(5, 0, 10_000)
    assert sizes.cached_tokens == slots * (width + 4 * (SAMPLING.max_new_tokens - 1)), "as the planner counts"
    longest = max(one.length for one in records)
    assert shape(6, 0, longest + 8) == (1, longest)  # never above the budget
    assert shape(6, 0, 100_000)[0] == 8  # no slots for prompts that are not there
