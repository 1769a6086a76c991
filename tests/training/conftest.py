"""Fixtures of training steps."""

from __future__ import annotations

import pytest

from locus.tasks import rollouts
from tests.support.miniature import graded


@pytest.fixture
def spread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rewards that differ within a group: 1 where the sum of the ids is even. An untrained policy finds no box."""
    monkeypatch.setattr(rollouts, "graded", graded(lambda ids, sample: int(ids.sum()) % 2))
