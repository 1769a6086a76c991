"""Several diagnoses of several policies in one run: a table each, in the run's folder."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import pandas as pd
import pytest

from locus.analysis.diagnoses.shared import compare
from locus.analysis.pages.page import Section
from locus.errors import LocusError


@dataclass
class Counted:
    """A diagnosis that counts how often it measures."""

    name: str
    title: str = ""
    measured: int = 0

    def measure(self, evaluator: object) -> pd.DataFrame:
        self.measured += 1
        return pd.DataFrame({"item": ["a"], "score": [float(evaluator)]})

    def section(self, measured: pd.DataFrame) -> Section:
        return Section(self.title or self.name, "by hand", None)


def test_a_table_each(tmp_path, caplog):
    """Two diagnoses of one class in one file, the policies' rows mixed up, or tables that come when all is over."""
    with caplog.at_level(logging.INFO, "locus"):
        sections = compare({"before": 0, "after": 1}, {"one": Counted("near"), "other": Counted("far")}, tmp_path)
    assert caplog.messages == [
        "near of before", "near of after", "near:\nby hand", "far of before", "far of after", "far:\nby hand"
    ]  # fmt: skip
    assert [section.title for section in sections] == ["near", "far"]
    for name in ("near", "far"):
        rows = pd.read_parquet(tmp_path / f"{name}.parquet")
        assert rows[["policy", "score"]].values.tolist() == [["before", 0.0], ["after", 1.0]]


def test_sections_are_told_apart(tmp_path):
    """Two sections of one title on a page: which is of which benchmark?"""
    twice = {"one": Counted("near", "Attention"), "other": Counted("far", "Attention")}
    titles = [section.title for section in compare({"before": 0}, twice, tmp_path)]
    assert titles == ["Attention", "Attention (far)"]


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (
            {"attention": "attention", "sparse": "attention"},
            "diagnoses.attention and diagnoses.sparse would both write attention.parquet: set diagnoses.sparse.name to "
            "another one, such as sparse",
        ),
        ({"sparse": "a", "a": "a"}, "diagnoses.sparse and diagnoses.a would both write a.parquet: .* such as a_2"),
        ({"own": "validation"}, "diagnoses.own would write validation.parquet, which the run has already: .* as own"),
    ],
)
def test_a_table_is_not_written_twice(tmp_path, names, says):
    """The second diagnosis over the first, after minutes of measuring; a run's own table over."""
    diagnoses = {key: Counted(name) for key, name in names.items()}
    with pytest.raises(LocusError, match=says):
        compare({"before": 0}, diagnoses, tmp_path)
    assert not any(diagnosis.measured for diagnosis in diagnoses.values()) and not list(tmp_path.iterdir())
