"""What weights are trained in, and what is computed in."""

from __future__ import annotations

import pytest
import torch

from tests.support.runs import metrics, train, warm_policy


@pytest.mark.slow
def test_nothing_is_cast_over_a_bfloat16_base(tmp_path):
    """bf16-true as Lightning has it ends in a traceback, and would train the adapters in bfloat16."""
    lora = "weights=lora", "weights.rank=4", "+backbone.dtype=bfloat16", "trainer.precision=bf16-true"
    train(tmp_path, f"backbone.path={warm_policy()}", "trainer.steps=2", "optimizer.make.lr=1e-2", *lora)
    assert (metrics(tmp_path)["train/grad_norm"].dropna() > 0).any()
    states = [torch.load(path, weights_only=True)["state_dict"] for path in sorted(tmp_path.glob("checkpoints/*"))]
    assert {tensor.dtype for state in states for tensor in state.values()} == {torch.float32}
    assert any(not torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_adamw_in_bfloat16_loses_its_updates():
    """The reason for float32 where weights train: at the paper's rate a step is below half a bfloat16's spacing."""
    weights, gradient = torch.randn(2, 10_000, generator=torch.Generator().manual_seed(0))
    moved = {}
    for dtype in (torch.float32, torch.bfloat16):
        trained = torch.nn.Parameter((0.02 * weights).to(dtype))
        before = trained.detach().clone()
        optimizer = torch.optim.AdamW([trained], lr=1e-6, weight_decay=0.01)
        for _ in range(100):
            trained.grad = gradient.to(dtype)
            optimizer.step()
        moved[dtype] = float((trained.detach() != before).float().mean())
    assert moved[torch.float32] == 1 and moved[torch.bfloat16] < 0.05
