"""What only a GPU shows: ``trainer=gpu`` with mixed precision, and the group forward's numbers on CUDA."""

from __future__ import annotations

import pandas as pd
import pytest
import torch

from locus.policy import vision_attention
from locus.policy.joined_attention import Layout, joined_attention
from locus.policy.logprobs import CompletionBatch, PackedScorer, SeparateScorer
from locus.policy.rollouts import RolloutDecoding, encode_in_parts, sample_in_turn
from locus.types import Sampling
from tests.support.group_forward import LAYOUTS, packed_states
from tests.support.models import completions, prompts, tiny_vlm
from tests.support.runs import SMALLEST, command, succeeded

pytestmark = pytest.mark.gpu


def test_a_run(tmp_path):
    """A tensor left on the CPU, or an operation that bfloat16 autocast cannot do."""
    succeeded(command("train", *SMALLEST, "trainer=gpu", "trainer.workers=0", f"hydra.run.dir={tmp_path}"))
    rows = pd.read_csv(tmp_path / "metrics.csv")
    assert rows["train/entropy"].gt(0).any()  # a product in bfloat16 gives NaN, as masked logits are -inf there
    assert rows["train/reward"].notna().any() and rows["memory/peak_gb"].max() > 0


@pytest.mark.parametrize("family", ["qwen3_vl", "qwen2_5_vl"])
def test_packed_logprobs_are_those_of_separate_rows(family: str):
    """CUDA kernels that treat the mask, or a row without any key, differently from the CPU's."""
    vlm, records, batch = tiny_vlm(family).cuda(), prompts(family), completions()
    batch = CompletionBatch(batch.token_ids.cuda(), batch.mask.cuda())
    with torch.no_grad():
        packed, separate = (scorer(vlm, records, batch, 1.0).logprobs for scorer in (PackedScorer(), SeparateScorer()))
    torch.testing.assert_close(packed, separate, rtol=0, atol=1e-4)


@pytest.mark.parametrize(("dtype", "largest"), [(torch.float32, 1e-4), (torch.bfloat16, 2e-2)])
def test_joined_attention_is_that_of_the_cpu(dtype: torch.dtype, largest: float):
    """A log-sum-exp in another base, or a backward pass that computes it anew from its own keys alone."""
    lengths, prompt_tokens = LAYOUTS["several buckets"]
    given = packed_states(lengths, prompt_tokens, 4, 2)
    on_gpu = [part.detach().to("cuda", dtype).requires_grad_() for part in given]
    found = joined_attention(*on_gpu, Layout.of(lengths, prompt_tokens, torch.device("cuda")), 0.25)
    expected = joined_attention(*given, Layout.of(lengths, prompt_tokens, torch.device("cpu")), 0.25)
    weights = torch.randn(found.shape, generator=torch.Generator().manual_seed(1))
    with torch.autocast("cuda", torch.bfloat16):  # a step's backward pass runs inside it
        gradients = torch.autograd.grad((found.float() * weights.cuda()).sum(), on_gpu)
    for one, other in zip(gradients, torch.autograd.grad((expected * weights).sum(), given), strict=True):
        assert float((one.float().cpu() - other).norm() / other.norm()) < largest
    assert float((found.float().cpu() - expected).norm() / expected.norm()) < largest


@pytest.mark.parametrize("family", ["qwen3_vl", "qwen2_5_vl"])
@pytest.mark.parametrize("step", ["static", "compiled"])
def test_steps_of_fixed_shapes_write_what_the_ordinary_one_writes(family: str, step: str):
    """CUDA graphs that replay stale caches or positions; greedy, so that rounding changes no token."""
    vlm, records = tiny_vlm(family).cuda(), prompts(family)
    vlm.end_token_ids = tuple(range(0, 1800, 9))

    def written(step: str, budget: int) -> list[list[int]]:
        def encode(indices):
            return encode_in_parts(vlm, [records[i] for i in indices], 1000)

        settings = Sampling(temperature=0, max_new_tokens=16), 0, 0, RolloutDecoding(budget, step)
        groups = sample_in_turn(vlm, records, encode, 2, *settings)
        return [completion.token_ids.tolist() for group in groups for completion in group]

    assert written(step, 300) == written(step, 10_000) == written("dynamic", 10_000)


@pytest.mark.parametrize("family", ["qwen3_vl", "qwen2_5_vl"])
def test_one_call_for_all_segments(family: str):
    """The fused kernel given the wrong bounds, and gradients that do not pass it."""
    vlm, records = tiny_vlm(family, scale=2.0).cuda(), prompts(family)
    features = {}
    for name in (vision_attention.NAME, "sdpa"):
        vlm.model.set_attn_implementation({"vision_config": name})
        with torch.autocast("cuda", torch.bfloat16):
            embeddings = torch.cat([one.embeddings for one in vlm.vision_features(records)]).float()
        vlm.zero_grad()
        embeddings.square().sum().backward()
        features[name] = embeddings.detach(), vlm.model.model.visual.patch_embed.proj.weight.grad.clone()
    for one, other in zip(*features.values(), strict=True):
        assert float((one - other).norm() / other.norm()) < 0.02
