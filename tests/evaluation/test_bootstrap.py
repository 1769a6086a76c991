"""Paired intervals: against the normal approximation, and what pairing is for."""

from __future__ import annotations

import numpy as np
import pytest

from locus.evaluation.bootstrap import paired_difference


def test_interval_is_the_normal_ones_for_many_items():
    """Percentiles of the wrong tail, or of the scores in place of the change."""
    rng = np.random.default_rng(0)
    before, after = rng.random(2000) < 0.4, rng.random(2000) < 0.5
    found = paired_difference(before, after)
    change = after.astype(float) - before
    error = change.std(ddof=1) / np.sqrt(2000)
    assert found.change == pytest.approx(change.mean())
    assert (found.low, found.high) == pytest.approx(
        (change.mean() - 1.96 * error, change.mean() + 1.96 * error), abs=0.003
    )


def test_what_makes_an_item_hard_cancels_out():
    """Resampling both sides apart: the interval is then as wide as the scores vary."""
    before = np.linspace(0, 1, 50)
    found = paired_difference(before, before + 0.1)
    assert (found.low, found.high) == pytest.approx((0.1, 0.1))


def test_the_same_seed_gives_the_same_interval():
    """A report that changes when it is made again."""
    scores = np.random.default_rng(1).random((2, 30))
    assert paired_difference(*scores) == paired_difference(*scores)
