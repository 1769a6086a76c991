"""Claims of a sweep: seeds together, LOCUS against its controls, and the page of both."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from omegaconf import OmegaConf

from locus.analysis.ablations import random_effects
from locus.analysis.claims import ABSENT, BENCHMARKS, FAILS, HOLDS
from locus.analysis.claims_over_seeds import against_controls, by_seed, gathered, judged, numbers
from locus.analysis.pages.sweep import setting_of
from locus.analysis.runs import load
from locus.evaluation.statistics import RESAMPLES
from locus.report import locus_among
from tests.support import claim_tables
from tests.support.runs import command, refused, succeeded


@pytest.fixture
def sweep(tmp_path) -> Path:
    """LOCUS, which does all it claims, and a control that does nothing; three seeds each."""
    settings = (("transfer/format_only", 0.0), ("transfer/locus", 1.0))
    for number, (seed, (experiment, effect)) in enumerate((s, one) for s in (1, 2, 3) for one in settings):
        setting = {"crop": {"side": number % 2}}
        claim_tables.run_folder(tmp_path / "sweep" / str(number), setting, seed, effect, experiment)
    return tmp_path / "sweep"


def changed(changes: np.ndarray) -> pd.DataFrame:
    """[scenes, seeds] changes of each of five benchmarks, as a table of questions."""
    scenes, seeds = changes.shape
    rows = [
        {"seed": str(seed), "benchmark": benchmark, "item": str(scene), "unit": str(scene), "family": "crowded"}
        | {"policy": policy, "score": changes[scene, seed] if policy == "after" else 0.0}
        for seed in range(seeds)
        for benchmark in BENCHMARKS
        for scene in range(scenes)
        for policy in ("before", "after")
    ]
    return pd.DataFrame(rows)


def test_against_a_control_by_loops():
    """Each setting resampled apart, so that what makes a scene hard counts twice; seeds paired by order."""
    rng = np.random.default_rng(0)
    shared = rng.normal(0, 1, (20, 1))
    ours, theirs = (shared + rng.normal(mean, 0.2, (20, 3)) for mean in (0.3, 0.0))
    backwards = changed(theirs).iloc[::-1]  # another order
    found = against_controls({"a": {"questions": changed(ours)}, "b": {"questions": backwards}}, "a")["b"]
    gain = ours - theirs
    drawn = [gain[np.ix_(rng.integers(20, size=20), rng.integers(3, size=3))].mean() for _ in range(RESAMPLES)]
    low, high = 100 * np.percentile(drawn, [2.5, 97.5])
    assert found.estimate == pytest.approx(100 * gain.mean()) and found.verdict == HOLDS
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.06 * (high - low))
    assert found.over == "100 questions, 20 scenes, 3 seeds"


def test_only_what_both_settings_have_is_compared():
    """Seeds of one setting without their partners; a control without questions that ends the page."""
    many, few = changed(np.full((4, 3), 0.5)), changed(np.full((4, 2), 0.2))
    other = few.assign(seed="9" + few["seed"])
    tables = {"locus": many, "few": few, "other": other, "part": few[few["benchmark"] != "counting"]}
    found = against_controls({name: {"questions": table} for name, table in tables.items()} | {"none": {}}, "locus")
    assert found["few"].estimate == pytest.approx(30) and found["few"].over.endswith("2 seeds")
    assert {found[name].verdict for name in ("other", "part", "none")} == {ABSENT}
    assert found["other"].over == "no questions or no seeds in common"


def test_seeds_one_by_one():
    """A seed's interval from all seeds' rows; a mean that is not that of its seeds."""
    changes = np.random.default_rng(0).normal([0.1, 0.2, 0.6], 0.3, (50, 3))
    table = by_seed({"a": {"questions": changed(changes)}, "b": {}})
    assert table["change"].tolist()[:3] == pytest.approx((100 * changes.mean(0)).tolist())
    errors = 100 * changes.std(0) / math.sqrt(50)
    expected = random_effects(100 * changes.mean(0), errors)
    last = table.iloc[-1]
    assert last["seed"] == "random effects" and last["change"] == pytest.approx(expected.value, rel=0.01)
    assert (last["low"], last["high"]) == pytest.approx((expected.low, expected.high), rel=0.02)
    assert last["between"] == pytest.approx(expected.between, rel=0.02)


def test_seeds_are_pooled(sweep):
    """A run of another setting among the seeds; a seed that was run twice and counts once."""
    folders = [("all", 1, sweep / "1"), ("all", 2, sweep / "3"), ("all", 1, sweep / "5"), ("none", 1, sweep / "0")]
    settings = gathered(folders)
    assert settings["all"]["questions"]["seed"].unique().tolist() == ["1", "2", "1, again 1"]
    claims = judged(settings)
    assert {claim.verdict for claim in claims["all"] if not claim.beside} == {HOLDS}
    assert claims["none"][0].verdict == FAILS
    table = numbers(claims)
    assert set(table["setting"]) == {"all", "none"} and len(table) == len(claims["all"]) + len(claims["none"])
    assert judged({"empty": {}}) == {}


def test_locus_is_told_by_its_experiment(sweep):
    """A second setting behind the experiment's name: the control, which comes first, taken for LOCUS."""
    for number, folder in enumerate(sorted(sweep.iterdir())):
        config = yaml.safe_load((folder / "config.yaml").read_text())
        (folder / "config.yaml").write_text(yaml.safe_dump(config | {"trainer": {"steps": 100 + number // 2 % 2}}))
    frame = load(sweep)
    cfg = OmegaConf.create({"table": None, "runs": str(sweep)})
    assert locus_among(cfg, frame, setting_of(frame), True).endswith("transfer/locus, 100")


def test_the_page_of_a_sweep(sweep, tmp_path):
    """Settings told by all of their parts, LOCUS taken for the control, runs that have not ended among the seeds."""
    (sweep / "5" / "summary.json").unlink()
    out = f"hydra.run.dir={tmp_path / 'page'}"
    succeeded(command("report", f"runs={sweep}", out))
    page = (tmp_path / "page" / "report.html").read_text()
    assert page.index("Claims over seeds") < page.index("LOCUS minus control") < page.index(">Runs<")
    assert "LOCUS: transfer/locus." in page and "<td >transfer/format_only</td>" in page
    saved = pd.read_csv(tmp_path / "page" / "tables" / "claims.csv").set_index(["setting", "name"])
    ours = saved.loc["transfer/locus"]
    assert ours.loc["H2 Questions in crowded scenes improve", "over"] == "200 questions, 40 scenes, 2 seeds"
    less = pd.read_csv(tmp_path / "page" / "tables" / "locus_minus_control.csv")
    assert less["setting"].tolist() == ["transfer/format_only"] and less["verdict"].tolist() == [HOLDS]
    assert len(pd.read_csv(tmp_path / "page" / "tables" / "claims_by_seed.csv")) == 3 + 1 + 2 + 1
    refused(command("report", f"runs={sweep}", "locus=none", out), "give one of transfer/format_only or transfer/locus")
    other = f"hydra.run.dir={tmp_path / 'other'}"
    succeeded(command("report", f"runs={sweep}", "locus=transfer/format_only", other))
    less = pd.read_csv(tmp_path / "other" / "tables" / "locus_minus_control.csv")
    assert less["setting"].tolist() == ["transfer/locus"] and less["verdict"].tolist() == [FAILS]
