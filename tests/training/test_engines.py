"""A trainer on an engine that is not this process's decoding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch

from locus.policy.engines import LocalEngine, Written
from locus.policy.vlm import VLM
from locus.types import Prompt, Sampling
from tests.support import miniature
from tests.support.miniature import GROUP, LARGE_BUDGET, graded


class Recorded:
    """An engine that has no model: it repeats what another has written, and knows no features."""

    def __init__(self, written: dict[str, list]):
        self.written = written

    def __call__(
        self, policy: VLM, prompts: Sequence[Prompt], group: int, sampling: Sampling, seed: int, step: int,
        encoded: Any = None,
    ) -> Written:  # fmt: skip
        assert not torch.is_grad_enabled() and all(len(self.written[one.prompt_id]) == group for one in prompts)
        return [self.written[one.prompt_id] for one in prompts], [None] * len(prompts)


@pytest.mark.parametrize("train_vision", [True, False])
def test_any_engine_trains(train_vision: bool, monkeypatch: pytest.MonkeyPatch):
    """A trainer that needs more of its engine than completions: the step is that of the engine that wrote them here."""
    monkeypatch.setattr("locus.tasks.rollouts.graded", graded(lambda ids, sample: float(ids.sum() % 7)))
    runs = []
    for engine in (None, "recorded"):
        torch.manual_seed(0)
        module, data = miniature.grpo(train_vision=train_vision)
        local = LocalEngine(LARGE_BUDGET, LARGE_BUDGET)
        if engine:
            prompts = [sample.prompt for sample in miniature.first_batch(data)]
            with torch.no_grad():
                written, _ = local(module.policy.eval(), prompts, GROUP, module.sampling, 0, 0)
            module.engine = Recorded({one.prompt_id: row for one, row in zip(prompts, written, strict=True)})
        runs.append(miniature.fit(module, data))
    ours, theirs = (run.optimizer.gradients[0] for run in runs)
    assert any(gradient.abs().max() > 0 for gradient in ours)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7)
