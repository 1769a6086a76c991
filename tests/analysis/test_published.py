"""Published numbers of other proxy tasks: values as their sources have them, beside scores of ours."""

from __future__ import annotations

import pandas as pd

from locus.analysis.published import PUBLISHED, published_section, published_table
from tests.support import task_tables
from tests.support.paths import CONF, REPO
from tests.support.runs import command, refused, succeeded


def test_numbers_are_those_of_the_sources():
    """Base and trained exchanged, columns shifted: Visual Jigsaw's Table 1 gives these gains (of V*, 3.66)."""
    jigsaw = next(one for one in PUBLISHED if one.model == "Visual Jigsaw Image 7B")
    gains = {name: round(trained - base, 2) for name, (base, trained) in jigsaw.scores.items()}
    assert gains == {
        "mmvp": 6.00, "mmbench": 1.12, "hr_bench_8k": 3.75, "vstar": 3.67, "mme_realworld_lite": 2.55,
    }  # fmt: skip
    zwz = {one.model: one.scores for one in PUBLISHED if one.model.startswith("ZwZ")}
    assert zwz["ZwZ-4B"]["vstar"] == (84.29, 90.05) and zwz["ZwZ-7B"]["vstar"] == (None, 86.9)
    # The source's averages of six benchmarks, whose sixth (Chinese MME-RealWorld) locus lacks: 69.2 and 63.5.
    assert round((sum(trained for _, trained in zwz["ZwZ-8B"].values()) + 69.2) / 6, 1) == 75.6
    assert round((sum(trained for _, trained in zwz["ZwZ-7B"].values()) + 63.5) / 6, 1) == 69.9


def test_every_entry_is_of_our_benchmarks_and_has_a_source():
    """A benchmark that locus does not have, a number without source, weights that the page does not name."""
    ours = {file.stem for file in (CONF / "benchmark").glob("*.yaml")}
    page = (REPO / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    for one in PUBLISHED:
        assert set(one.scores) <= ours and ("arXiv" in one.source or "github.com" in one.source)
        assert f"policy={one.weights}" in page and one.base


def test_they_stand_beside_our_scores():
    """A policy's score in another benchmark's row, or a number where nobody has one."""
    rows = [("a", "vstar", 70.0), ("b", "vstar", 71.5), ("a", "pope", 80.0), ("b", "mmvp", 50.0)]
    table = published_table(pd.DataFrame(rows, columns=["policy", "benchmark", "value"])).set_index("benchmark")
    assert list(table.columns[:4]) == ["a", "b", "Visual Jigsaw Image 7B: base", "Visual Jigsaw Image 7B"]
    assert list(table.loc["vstar"][:4]) == [70.0, 71.5, 76.96, 80.63]
    assert list(table.loc["mmvp"][:4]) == [None, 50.0, 54.66, 60.66]
    assert table.loc["mmvp", "ZwZ-4B"] is None and "pope" not in table.index
    empty = published_table(pd.DataFrame(columns=["policy", "benchmark", "value"]))
    assert len(empty) == len(table) and list(empty.columns[:2]) == ["benchmark", "Visual Jigsaw Image 7B: base"]


def test_the_page_with_scores_has_them(tmp_path):
    """Rows of benchmarks that were not asked, models without a number in any row, a number without its source."""
    scores = pd.DataFrame([("ours", "mmvp", 50.0), ("ours", "pope", 80.0)], columns=["policy", "benchmark", "value"])
    section = published_section(scores)
    assert section.table.to_dict("records") == [
        {"benchmark": "mmvp", "ours": "50.0", "Visual Jigsaw Image 7B: base": "54.7", "Visual Jigsaw Image 7B": "60.7"}
    ]
    assert len(section.lines) == 1 and "2509.25190" in section.lines[0]
    assert published_section(scores.tail(1)) is None
    task_tables.run(tmp_path / "run", {"cue_search": 1.0}, 1, {})
    scores.to_csv(tmp_path / "scores.csv", index=False)
    given = f"runs={tmp_path / 'run'}", f"scores={tmp_path / 'scores.csv'}"
    for file in ("none", "run/metrics"):
        wrong = f"scores={tmp_path / file}.csv"
        refused(command("report", given[0], wrong, f"hydra.run.dir={tmp_path / 'wrong'}"), wrong, "give a scores.csv")
    succeeded(command("report", *given, f"hydra.run.dir={tmp_path / 'page'}"))
    assert "<h2>Published</h2>" in (tmp_path / "page" / "report.html").read_text()
    assert (tmp_path / "page" / "tables" / "published.csv").is_file()
