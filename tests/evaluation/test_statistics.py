"""Statistics of two policies by hand: McNemar's test and paired intervals, the same on a page and in a file."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from locus.analysis.tables import paired_table
from locus.evaluation.benchmarks.choice import mean_over
from locus.evaluation.resampling import resampled
from locus.evaluation.statistics import accuracy, by_column, difference, intervals, intervals_of_each, mcnemar, score


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
    same = score(wrong, accuracy(), (), before=wrong)
    assert (same.value, same.low, same.high) == (0, 0, 0)
    gained = score(right, accuracy(), (), before=wrong)
    error = 100 * 1.96 * math.sqrt(0.25 / 400)
    assert gained.value == 50 and gained.n == 400
    assert gained.low == pytest.approx(50 - error, abs=1) and gained.high == pytest.approx(50 + error, abs=1)


def test_interval_is_the_normal_ones_for_many_items():
    """Percentiles of the wrong tail, or of the scores in place of the change."""
    rng = np.random.default_rng(0)
    before, after = (pd.DataFrame({"correct": rng.random(2000) < share}) for share in (0.4, 0.5))
    found = score(after, accuracy(), (), before=before)
    change = 100 * (after["correct"].astype(float) - before["correct"])
    error = change.std(ddof=1) / np.sqrt(2000)
    assert found.value == pytest.approx(change.mean())
    assert (found.low, found.high) == pytest.approx(
        (change.mean() - 1.96 * error, change.mean() + 1.96 * error), abs=0.3
    )


def test_what_makes_an_item_hard_cancels_out():
    """Resampling both sides apart: the interval is then as wide as the scores vary."""
    before = np.linspace(0, 1, 50)
    found = score(pd.DataFrame({"correct": before + 0.1}), accuracy(), (), before=pd.DataFrame({"correct": before}))
    assert (found.low, found.high) == pytest.approx((10, 10))


def test_the_same_seed_gives_the_same_interval():
    """A report that changes when it is made again."""
    table = pd.DataFrame({"correct": np.random.default_rng(1).random(30)})
    assert score(table, accuracy(), ()) == score(table, accuracy(), ())
    assert score(table, accuracy(), ()) != score(table, accuracy(), (), seed=1)


def test_a_unit_is_drawn_with_all_of_its_rows(monkeypatch):
    """A picture's questions drawn apart; resamples of another size; other draws when they come in other portions."""
    table = pd.DataFrame({"picture": list("aabccc")})
    weights = np.concatenate(list(resampled(table, ["picture"], 500, 0)))
    assert weights.shape == (500, 6) and (weights[:, [0, 2, 3]].sum(1) == 3).all()
    assert (weights[:, 0] == weights[:, 1]).all() and (weights[:, 3] == weights[:, 5]).all()
    assert set(weights[:, 0]) == {0, 1, 2, 3} and 0.9 < weights[:, 0].mean() < 1.1
    monkeypatch.setattr("locus.evaluation.resampling.CELLS", 60)
    assert (np.concatenate(list(resampled(table, ["picture"], 500, 0))) == weights).all()


def test_a_page_and_a_file_give_one_interval():
    """One change with two intervals: 1,000 resamples in comparisons.csv, 10,000 others on the page."""
    rng = np.random.default_rng(2)
    tables = [
        pd.DataFrame({"item": range(90), "unit": [str(n // 3) for n in range(90)], "correct": rng.random(90) < share})
        for share in (0.4, 0.6)
    ]
    in_file = intervals(tables[1], {"accuracy": accuracy()}, ["unit"], tables[0])["accuracy"]
    measured = pd.concat([table.assign(policy=name) for name, table in zip("pq", tables, strict=True)])
    (row,) = paired_table(measured, {"accuracy": "correct"}).itertuples()
    assert (100 * row.change, 100 * row.low, 100 * row.high) == pytest.approx(
        (in_file.value, in_file.low, in_file.high)
    )
    assert in_file.low < in_file.value < in_file.high


@pytest.mark.parametrize("unit", [(), ("picture",)])
def test_rows_alike_are_taken_together(unit):
    """Scores on few rows, each standing for many, must be those on all rows to the last bit; also of means over values
    in the order in which they first come, and where fractions are summed."""
    rng, count = np.random.default_rng(0), 300
    columns = {name: rng.choice(list("zxy"), count) for name in ("task", "domain")}
    whole = pd.DataFrame({**columns, "correct": rng.integers(2, size=count).astype(float), "part": rng.random(count)})
    whole["picture"] = rng.integers(100, size=count).astype(str)
    statistics = {
        "all": accuracy(),
        "of one": accuracy(task="x", domain="y"),
        "of none": accuracy(task="w"),
        "means": mean_over("domain", task="z"),
        "less": difference(accuracy(task="x"), accuracy(task="y")),
        "part": by_column("part", accuracy(task="x")),
    }
    plain = {name: replace(statistic, columns=None) for name, statistic in statistics.items()}
    found, expected = (intervals(whole, one, unit, resamples=700) for one in (statistics, plain))
    assert repr(found) == repr(expected)
    assert len({round(one.low, 3) for one in found.values()}) == len(found), "scores that are all alike prove nothing"
    assert intervals_of_each({"a": whole, "b": whole.assign(correct=1.0)}, {"": accuracy()}, unit)["b"][""].low == 100
