"""Continuous batching: the completions of one by one, within the budget, heads once; tables keep what they hold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch

from locus.policy import continuous
from locus.policy.continuous import ContinuousDecoder
from locus.policy.rollouts import sample_groups
from locus.policy.segments import Table, arranged, attend, held
from locus.policy.streamed_rows import Row
from locus.policy.vlm import VLM, VisionFeatures
from locus.types import Completion, Prompt, Sampling
from tests.support.hybrid import hybrid_vlm
from tests.support.models import builder, prompts, text_prompt, tiny_vlm

TEXTS = ("Where is the red star?", "How many?", "Which of these is on the left of the other one?", "Is it a dot?")


def asked(family: str) -> list[tuple[Prompt, str]]:
    """Several questions about each of three pictures, not side by side, and some without any, of unlike lengths."""
    pictured, stream = prompts(family), []
    for number in range(10):
        picture, text = number % 4, builder(family).encode(TEXTS[number // 4 % 4] * (1 + number % 3))
        prompt = text_prompt(family) if picture == 3 else pictured[picture]
        head = Row(0, prompt, "").head
        ids = torch.cat([prompt.input_ids[:head], torch.tensor(text)])
        types = torch.cat([prompt.mm_token_type_ids[:head], torch.zeros(len(text), dtype=torch.long)])
        prompt = replace(prompt, prompt_id=str(number), input_ids=ids, mm_token_type_ids=types)
        stream.append((prompt, f"picture {picture}"))
    return stream


def one_by_one(vlm: VLM, stream: Sequence[tuple[Prompt, str]], sampling: Sampling) -> list[Completion]:
    """As rows of their own, by the decoder of training."""
    return [sample_groups(vlm, [prompt], vlm.encode([prompt]), 1, sampling, 5, 0)[0][0] for prompt, _ in stream]


@pytest.mark.parametrize(
    ("family", "temperature"), [("qwen3_vl", 0.0), ("qwen2_5_vl", 0.0), ("qwen3_vl", 1.0), ("qwen3_5", 0.0)]
)
def test_same_as_one_by_one(monkeypatch, family, temperature):
    """What leaves, enters, steps back or shares a head must not change what is written; the budget holds all the time,
    and a head is encoded once for all its questions."""
    hybrid = family == "qwen3_5"
    vlm, stream = hybrid_vlm() if hybrid else tiny_vlm(family), asked("qwen3_vl" if hybrid else family)
    vlm.end_token_ids = tuple(range(0, 1500, 20))  # so that answers end at different places
    sampling = Sampling(temperature, 1.0, 40)
    expected = one_by_one(vlm, stream, sampling)
    lengths = {len(one.token_ids) for one in expected}
    assert len(lengths) > 2, "answers that are all of one length prove nothing"
    monkeypatch.setattr(continuous, "RETIRE_SHARE", 0.5)
    for budget in (20_000, 380):
        encoded: list[str] = []
        entered: list[int] = []
        found: dict[int, Completion] = {}

        def vision(prompt: Prompt, key: str, encoded: list[str] = encoded) -> VisionFeatures:
            encoded.append(key)
            return vlm.vision_features([prompt])[0]

        decoder = ContinuousDecoder(vlm, sampling, budget, 5, vision)
        decoder._expected = lambda: 1  # let in as if they were to write one token, so that some step back
        enter = decoder._enter
        decoder._enter = lambda rows, enter=enter, entered=entered: entered.append(len(rows)) or enter(rows)
        for number, completion in decoder.run(iter(stream)):
            found[number] = completion
            assert sum(table.tokens for table in decoder.heads + decoder.tails) <= budget
        assert sorted(found) == list(range(len(stream)))
        for number, one in enumerate(expected):
            assert found[number].token_ids.tolist() == one.token_ids.tolist() and found[number].finished == one.finished
            assert torch.allclose(found[number].logprobs, one.logprobs, atol=2e-3)
        if budget == 20_000:
            assert entered == [len(stream)] and sorted(encoded) == sorted(set(encoded)), "all at a time, each head once"
        else:
            assert len(entered) > 3 and sum(entered) > len(stream), "nothing waits, or nothing steps back"


def test_tables_keep_what_they_hold():
    """A segment under another's name, cut, or with a neighbour's tokens in its padding."""
    lengths = {"a": 3, "b": 200, "c": 5, "d": 150, "e": 260}

    def states(name: str, layer: int) -> torch.Tensor:
        number = ord(name) * 10.0 + layer
        return number + torch.arange(lengths[name])[None, :, None].expand(2, -1, 4) / 1000

    def table(names: str) -> Table:
        width = max(lengths[name] for name in names)
        padded = [torch.full((len(names), 2, width, 4), 7.0) for _ in range(2)]
        for layer, part in enumerate(padded):
            for row, name in enumerate(names):
                part[row, :, : lengths[name]] = states(name, layer)
        return Table(list(names), [lengths[name] for name in names], padded, [-part for part in padded])

    wanted = {"e": 261, "c": 130, "a": 4, "b": 201}
    given = [table("ab"), table("cde")]
    made = arranged(given, wanted)
    assert not sum(part.untyped_storage().nbytes() for one in given for part in one.keys + one.values), "held twice"
    assert [one.names for one in made] == [["a"], ["c", "b"], ["e"]]
    assert sum(one.tokens for one in made) == held(wanted) == 32 + 2 * 224 + 288
    for one in made:
        for row, name in enumerate(one.names):
            assert one.lengths[row] == lengths[name] == int(one.mask[row].sum())
            for layer in range(2):
                assert torch.equal(one.keys[layer][row, :, : lengths[name]], states(name, layer))
                assert torch.equal(one.values[layer][row, :, : lengths[name]], -states(name, layer))
    assert arranged(made, {"b": 201, "c": 130, "e": 280})[1] is made[2], "a table that stays is not copied"


def test_two_attentions_joined_are_one():
    """Weights of the log-sum-exps the wrong way round; padding that is looked at."""
    generator = torch.Generator().manual_seed(0)
    query, keys, values = (torch.randn(2, 3, n, 8, generator=generator) for n in (4, 9, 9))
    bias = torch.zeros(2, 1, 1, 9)
    bias[1, ..., 7:] = -torch.inf
    parts = [attend(query, keys[:, :, s], values[:, :, s], bias[..., s]) for s in (slice(0, 5), slice(5, 9))]
    whole = torch.logaddexp(parts[0][1], parts[1][1])
    joined = sum(output * (weight - whole).exp()[..., None] for output, weight in parts)
    assert torch.allclose(joined, (query @ keys.mT + bias).softmax(-1) @ values, atol=1e-6)
