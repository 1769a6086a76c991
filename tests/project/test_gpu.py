"""What only a GPU shows: ``trainer=gpu`` with mixed precision, and the group forward's numbers on CUDA."""

from __future__ import annotations

import pandas as pd
import pytest
import torch

from locus.policy.logprobs import CompletionBatch, PackedScorer, SeparateScorer
from tests.support.models import completions, prompts, tiny_vlm
from tests.support.runs import SMALLEST, command, succeeded

pytestmark = pytest.mark.gpu


def test_a_run(tmp_path):
    """A tensor left on the CPU, or an operation that bfloat16 autocast cannot do."""
    succeeded(command("train", *SMALLEST, "trainer=gpu", "trainer.workers=0", f"hydra.run.dir={tmp_path}"))
    rows = pd.read_csv(tmp_path / "metrics.csv")
    assert rows["train/reward"].notna().any() and rows["memory/peak_gb"].max() > 0


@pytest.mark.parametrize("family", ["qwen3_vl", "qwen2_5_vl"])
def test_packed_logprobs_are_those_of_separate_rows(family: str):
    """CUDA kernels that treat the mask, or a row without any key, differently from the CPU's."""
    vlm, records, batch = tiny_vlm(family).cuda(), prompts(family), completions()
    batch = CompletionBatch(batch.token_ids.cuda(), batch.mask.cuda())
    with torch.no_grad():
        packed, separate = (scorer(vlm, records, batch, 1.0).logprobs for scorer in (PackedScorer(), SeparateScorer()))
    torch.testing.assert_close(packed, separate, rtol=0, atol=1e-4)
