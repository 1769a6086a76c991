"""Fixtures of training steps."""

from __future__ import annotations

import pytest

from locus.training import module as policy_module
from tests.support.miniature import judged


@pytest.fixture
def spread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rewards that differ within a group: 1 where the sum of the ids is even. An untrained policy finds no box."""
    monkeypatch.setattr(policy_module, "judge", judged(lambda ids, prompt: int(ids.sum()) % 2))
