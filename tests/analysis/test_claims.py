"""Claims by hand, and against a bootstrap written out in loops."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from locus.analysis import claims
from locus.analysis.ablations import random_effects
from locus.analysis.changes import paired
from locus.analysis.claim_files import judge_run, line, lines, shown_claims, tables_of
from locus.analysis.claims import ABSENT, FAILS, HOLDS, OPEN, Claim, judge
from locus.analysis.run_metrics import first_and_last
from locus.evaluation.statistics import RESAMPLES, intervals, ratio
from tests.support import claim_tables


def by_name(found: list[Claim]) -> dict[str, Claim]:
    return {claim.name if claim.beside else claim.name.split()[0]: claim for claim in found}


def judged(tables: dict[str, pd.DataFrame]) -> dict[str, Claim]:
    """Of one run."""
    ready = {name: first_and_last(table) if name == "validation" else table for name, table in tables.items()}
    return by_name(judge({name: table.assign(seed=0) for name, table in ready.items()}))


def scored(family: str, benchmark: str, before: list[int], after: list[int]) -> list[dict[str, object]]:
    """A question a scene."""
    return [
        {"family": family, "benchmark": benchmark, "item": str(number), "unit": f"{family} {number}"}
        | {"policy": policy, "score": float(value)}
        for policy, values in (("before", before), ("after", after))
        for number, value in enumerate(values)
    ]


def test_questions_by_hand():
    """A benchmark of many questions that outweighs the others, a family counted in another, a gain taken for a loss.

    Counting: 1 of 2 becomes 2 of 2, +50. The others: 4 of 8 become 5 of 8, +12.5. Mean (50 + 4 * 12.5) / 5 = 20.
    """
    rows = scored("crowded", "counting", [1, 0], [1, 1])
    for benchmark in claims.BENCHMARKS:
        if benchmark != "counting":
            rows += scored("crowded", benchmark, [1, 0] * 4, [1, 1] + [1, 0] * 3)
        rows += scored("sparse", benchmark, [1] * 10, [1] * 9 + [0])
    rows += scored("large", "attributes", [1, 0] * 10, [1, 0] * 10)
    found = judged({"questions": pd.DataFrame(rows)})
    assert found["H2"].estimate == pytest.approx(20) and found["H2 counting"].estimate == 50
    assert found["H2 attributes"].estimate == 12.5 and found["H2 counting"].over == "2 questions, 2 scenes, 1 seed"
    assert found["H2"].over == "34 questions, 8 scenes, 1 seed"
    assert found["H3 sparse: pooled"].estimate == pytest.approx(-10) and found["H3 large: pooled"].estimate == 0
    assert found["H3 large: pooled"].verdict == HOLDS and found["H3"].estimate == pytest.approx(-10)
    assert found["H3"].verdict == OPEN and found["H3"].over.endswith("sparse")  # a resample may miss the one lost
    assert found["H1"].verdict == ABSENT and found["H1"].over == "no validation.parquet"


def test_a_pooled_claim_needs_all_its_benchmarks():
    """Four benchmarks that pass for the five of the claim."""
    table = claim_tables.questions({"crowded": 0.2, "sparse": 0.0, "large": 0.0})
    assert judged({"questions": table})["H2"].verdict == HOLDS
    without = judged({"questions": table[(table["benchmark"] != "counting") | (table["family"] != "crowded")]})
    assert without["H2"].verdict == ABSENT and "counting" in without["H2"].over
    assert without["H2 attributes"].verdict == HOLDS and "H2 counting" not in without
    small = judged({"questions": table[table["family"] != "large"]})["H3"]
    assert small.verdict == ABSENT and small.over == "no large in questions.parquet"
    old = judged({"questions": table.drop(columns="family")})
    assert old["H2"].over == old["H3"].over == "questions.parquet has no column family"


@pytest.mark.parametrize(
    ("low", "high", "above", "below", "says"),
    [
        (0.1, 3, 0, 0.5, HOLDS), (0.1, 0.4, 0, 0.5, HOLDS), (-1, 0.4, 0, 0.5, FAILS), (-1, 0.6, 0, 0.5, OPEN),
        (-0.9, 3, -1, -1, HOLDS), (-3, -1.1, -1, -1, FAILS), (-3, 0, -1, -1, OPEN), (0, 0, 0, 0, OPEN),
        (math.nan, math.nan, 0, 0, OPEN),
    ],
)  # fmt: skip
def test_verdicts(low, high, above, below, says):
    """A bound on the wrong side; an interval that touches it."""
    assert claims.verdict(low, high, above, below) == says


@pytest.mark.parametrize(("after", "says"), [(0.6, HOLDS), (0.3, FAILS), (0.2, FAILS), (0.396, OPEN)])
def test_cue_search_doubles(after, says):
    """A ratio of means: 3, 1.5, 1 and a little below 2."""
    found = judged({"validation": claim_tables.validation(0.2, after)})
    assert found["H1"].verdict == says and found["H1"].estimate == pytest.approx(after / 0.2, abs=0.1)
    assert found["H1"].low < found["H1"].estimate < found["H1"].high
    change = found["H1 change of the mean IoU"]
    assert change.estimate == pytest.approx(after - 0.2, abs=0.02) and change.unit == "IoU"
    assert found["H1"].over == "60 examples, 30 images, 1 seed"


def test_cue_search_needs_two_validations():
    """A ratio of a validation to itself; questions, which have no IoU."""
    table = claim_tables.validation(0.2, 0.6)
    assert judged({"validation": table[table["step"] == 0]})["H1"].verdict == ABSENT
    assert judged({"validation": table.assign(iou=math.nan)})["H1"].verdict == ABSENT


def test_attention_by_hand():
    """Layers in the order of their names; the middle layer of three in a half; peaks taken for layers.

    Means of 3 layers 0.1, 0.1, 0.1 -> 0.1, 0.4, 0.7: 0.4 less 0.1 is 30 points; later less earlier 60.
    """
    rows = [
        {"item": str(item), "unit": str(item), "policy": policy, "peak, layer 0": 9.0, "attention_in_box": mean}
        | dict(zip(("layer 10", "layer 2", "layer 9"), layers, strict=True))
        for item in range(5)
        for policy, mean, layers in (("before", 0.1, (0.1, 0.1, 0.1)), ("after", 0.4, (0.7, 0.1, 0.4)))
    ]
    found = judged({"attention": pd.DataFrame(rows)})
    assert found["H4"].estimate == pytest.approx(30) and found["H4"].verdict == HOLDS
    assert found["H4 later layers less earlier"].estimate == pytest.approx(60)
    worse = pd.DataFrame(rows).replace({"policy": {"before": "after", "after": "before"}})
    assert judged({"attention": worse})["H4"].verdict == FAILS


def test_grounding_by_hand():
    """Items paired by order, or those that are lost among those that are kept.

    Gained: +100. Lost: -100. Kept: every fourth of 40 turns right, +25.
    """
    found = judged({"grounding_vs_answers": claim_tables.grounding(20, 12, 40)})
    assert found["H5"].estimate == pytest.approx(75) and found["H5"].verdict == HOLDS
    assert found["H5 object lost"].estimate == pytest.approx(-125) and found["H5 object lost"].verdict == HOLDS
    assert found["H5"].over.endswith("object gained in 20, as before in 40")
    few = judged({"grounding_vs_answers": claim_tables.grounding(3, 0, 40)})
    assert few["H5"].verdict == OPEN and few["H5 object lost"].verdict == ABSENT


def test_crowding_by_hand():
    """Suppressed images counted; the change at one level in place of the difference between two."""
    found = judged({"crowding": claim_tables.crowding([0.05, 0.1, 0.35], scenes=200)})
    assert found["H6"].estimate == pytest.approx(
        found["H6 14 objects"].estimate - found["H6 2 objects"].estimate
    ) and found["H6"].estimate == pytest.approx(30, abs=10)
    assert found["H6"].verdict == HOLDS and found["H6"].over == "200 questions, 200 scenes, 1 seed at 3 levels"
    table = claim_tables.crowding([0.05, 0.1, 0.35])
    assert judged({"crowding": table[table["level"] == 2]})["H6"].verdict == ABSENT


def test_items_are_paired_by_name():
    """Two rows of one item that are counted as two pairs."""
    table = claim_tables.questions({"crowded": 0.1}, scenes=2).assign(seed=0)
    assert len(paired(table, ["score"], ["benchmark", "item"])) == 10
    with pytest.raises(ValueError, match="one-to-one"):
        paired(pd.concat([table, table]), ["score"], ["benchmark", "item"])


# --- Seeds ----------------------------------------------------------------------------------------------------
def crossed(values: np.ndarray) -> pd.DataFrame:
    """[scenes, seeds] as a table."""
    scenes, seeds = values.shape
    table = pd.DataFrame({"unit": np.repeat(np.arange(scenes), seeds), "seed": np.tile(np.arange(seeds), scenes)})
    return table.assign(change=values.ravel(), n=1.0)


def test_crossed_bootstrap_against_loops():
    """Seeds drawn anew for each scene, scenes for each seed, or one of the two not at all."""
    rng = np.random.default_rng(0)
    values = rng.normal(0, 1, 4)[None] + rng.normal(0, 1, (30, 1)) + rng.normal(0, 0.5, (30, 4))
    found = intervals(crossed(values), {"": ratio("change", "n")}, ("unit",), crossed=("seed",))[""]
    drawn = [values[np.ix_(rng.integers(30, size=30), rng.integers(4, size=4))].mean() for _ in range(RESAMPLES)]
    low, high = 100 * np.percentile(drawn, [2.5, 97.5])
    assert found.value == pytest.approx(100 * values.mean()) and found.error == pytest.approx(
        100 * np.std(drawn), rel=0.03
    )
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.06 * (high - low))


def test_one_seed_crossed_is_one_run():
    """An interval that depends on whether a run came alone or as a sweep of one."""
    table = crossed(np.random.default_rng(1).normal(0, 1, (30, 1)))
    alone = intervals(table, {"": ratio("change", "n")}, ("unit",))
    assert intervals(table, {"": ratio("change", "n")}, ("unit",), crossed=("seed",)) == alone


@pytest.mark.parametrize(("seed_sd", "noise"), [(0.0, 0.45), (0.05, 0.45)])
def test_crossed_bootstrap_covers_the_truth(seed_sd, noise):
    """Intervals over scenes alone hold the truth far less often where seeds differ; five seeds."""
    rng, hits, alone = np.random.default_rng(0), 0, 0
    for number in range(150):
        values = rng.normal(0, seed_sd, 5)[None] + rng.normal(0, 0.2, (100, 1)) + rng.normal(0, noise, (100, 5))
        table, mean = crossed(values), {"": ratio("change", "n")}
        both = intervals(table, mean, ("unit",), resamples=300, seed=number, crossed=("seed",))[""]
        scenes = intervals(table, mean, ("unit",), resamples=300, seed=number)[""]
        hits += both.low <= 0 <= both.high
        alone += scenes.low <= 0 <= scenes.high
    assert hits / 150 >= 0.92 and hits >= alone


def test_random_effects_by_hand():
    """Values 1, 2, 6 with error 1: Q = 14, between-variance (14 - 2) / (3 - 1) = 6; equal weights, so the mean is 3 and
    its variance that of the values, 7, by 3."""
    found = random_effects([1, 2, 6], [1, 1, 1])
    half = 4.303 * math.sqrt(7 / 3)
    assert (found.value, found.low, found.high) == pytest.approx((3, 3 - half, 3 + half))
    assert found.between == pytest.approx(math.sqrt(6))
    # Values alike but for their error: none between, weights 1 and 1/4.
    alike = random_effects([1, 2], [1, 2])
    assert alike.between == 0 and alike.value == pytest.approx((1 + 2 / 4) / 1.25)
    assert math.isnan(random_effects([1], [1]).low) and random_effects([1, 3], [0, 0]).value == 2


# --- A run's folder -------------------------------------------------------------------------------------------
def test_a_run_folder(tmp_path):
    """A claim that holds in the tables and not on the page; columns of megabytes read for nothing."""
    run = claim_tables.run_folder(tmp_path / "run", {}, 1, effect=1.0)
    found = judge_run(run)
    assert [claim.name[:2] for claim in found if not claim.beside] == ["H1", "H2", "H3", "H4", "H5", "H6"]
    assert {claim.verdict for claim in found if not claim.beside} == {HOLDS}, lines(found)
    saved = pd.read_csv(run / "claims.csv")
    assert len(saved) == len(found) and saved["estimate"].tolist() == pytest.approx([one.estimate for one in found])
    assert "map" not in tables_of(run)["attention"] and "response" not in tables_of(run)["questions"]
    text = line(by_name(found)["H1"])
    assert text.startswith("H1 Cue search doubles: holds. ") and " times, 95 % [" in text
    assert len(shown_claims(found)) == len(found) and shown_claims(found)["claim"].iloc[1] == "… Cue search improves."


def test_nothing_changed(tmp_path):
    """Chance taken for a success."""
    run = claim_tables.run_folder(tmp_path / "run", {}, 1, effect=0.0)
    found = by_name(judge_run(run))
    assert HOLDS not in {found[name].verdict for name in ("H1", "H2", "H4", "H5", "H6")}
    assert found["H1"].verdict == FAILS


def test_a_run_without_tables_has_no_claims(tmp_path):
    """Six lines of "not measured" on the page of a task that is not cue search."""
    assert judge_run(tmp_path) == [] and not (tmp_path / "claims.csv").exists()
