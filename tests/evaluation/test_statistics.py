"""Statistics of two policies by hand: McNemar's test and the paired difference."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from locus.evaluation.statistics import accuracy, difference, mcnemar


def test_mcnemar_by_hand():
    """One lost, five won: 2 (1 + 6) / 2^6 = 0.21875. Nothing lost of ten: 2 / 2^10. No difference: 1."""
    ones, zeros = np.ones, np.zeros
    before = np.concatenate([ones(1), zeros(5), ones(4)])
    after = np.concatenate([zeros(1), ones(5), ones(4)])
    assert mcnemar(before, after) == mcnemar(after, before) == 0.21875
    assert mcnemar(zeros(10), ones(10)) == 2 / 2**10
    assert mcnemar(ones(3), ones(3)) == 1.0
    assert mcnemar(np.array([1, 0]), np.array([0, 1])) == 1.0
    tail = sum(math.comb(3000, count) for count in range(1401))
    before, after = np.concatenate([ones(1400), zeros(1600)]), np.concatenate([zeros(1400), ones(1600)])
    assert mcnemar(before, after) == pytest.approx(float(2 * tail / 2**3000), rel=1e-12)


def test_paired_difference_by_hand():
    """Policies that differ on no item differ by nothing, though each alone has a wide interval; a gain on every second
    item has the interval of a share of one half."""
    wrong, right = pd.DataFrame({"correct": [0.0, 1.0] * 200}), pd.DataFrame({"correct": [1.0, 1.0] * 200})
    same = difference(wrong, wrong, accuracy(), ())
    assert (same.value, same.low, same.high) == (0, 0, 0)
    gained = difference(wrong, right, accuracy(), ())
    error = 100 * 1.96 * math.sqrt(0.25 / 400)
    assert gained.value == 50 and gained.n == 400
    assert gained.low == pytest.approx(50 - error, abs=1) and gained.high == pytest.approx(50 + error, abs=1)
