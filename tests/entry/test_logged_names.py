"""The names that docs/training.md has for what a run logs."""

from __future__ import annotations

import re

import pandas as pd
import pytest

from locus.files.step_tables import ROLLOUTS, VALIDATION
from tests.support.paths import REPO
from tests.support.runs import warm_run


@pytest.fixture(scope="module")
def told() -> list[str]:
    """The names of the section's tables, in their order."""
    text = (REPO / "docs" / "training.md").read_text(encoding="utf-8")
    section = text.partition("\n## What is logged\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (`.*?) \|", section, re.MULTILINE)
    return [name for row in rows for name in re.findall("`(.*?)`", row)]


def test_each_scalar_is_told(told, unbroken):
    """A column of metrics.csv whose meaning and unit stand nowhere."""
    known = [re.escape(name).replace("<bin>", "[a-z]+") for name in told]
    for run in (unbroken, warm_run()):
        logged = set(pd.read_csv(run / "metrics.csv")) - {"step"}
        assert [name for name in sorted(logged) if not any(re.fullmatch(one, name) for one in known)] == []


def test_each_column_is_told(told):
    """The same of rollouts.parquet; a column that is told and was renamed since."""
    assert sorted(name for name in told if "/" not in name) == sorted(ROLLOUTS.names)
    assert set(VALIDATION.names) - {*ROLLOUTS.names} == {"example_id", "image_id", "area_ratio"}
