"""What is said of every benchmark: its line in docs/benchmarks.md, and the counts beside its scores."""

from __future__ import annotations

import fnmatch
import re
from typing import get_type_hints

import pytest
from hydra.utils import get_object
from omegaconf import OmegaConf

from locus.evaluation.benchmark import TaskBenchmark
from locus.evaluation.benchmarks.ai2d import AI2D
from locus.evaluation.predictions import Prediction
from locus.evaluation.scores import MISSING, judged, scores
from tests.support.benchmark_files import encoded, write_tsv
from tests.support.paths import REPO

CONFIGS = sorted((REPO / "conf/benchmark").glob("*.yaml"))
CELLS = 6


def lines() -> dict[str, list[str]]:
    """The cells of the first table's rows, by the name in the first."""
    text = (REPO / "docs/benchmarks.md").read_text(encoding="utf-8")
    text = text[text.index("| benchmark |") :].split("\n\n")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.split("\n") if line.startswith("|")]
    return {row[0].strip("`"): row for row in rows[2:]}


def test_every_benchmark_has_its_line():
    """A benchmark that is added or taken away without a word on how it was checked."""
    table = lines()
    assert sorted(table) == [file.stem for file in CONFIGS]
    assert all(len(row) == CELLS and all(row) for row in table.values())


def test_tests_that_are_cited_exist():
    """A check that the page names, and that nobody makes any more."""
    text = (REPO / "docs/benchmarks.md").read_text(encoding="utf-8")
    cited = set(re.findall(r"\btest_\w+\*?", text))
    files = list((REPO / "tests").rglob("test_*.py"))
    known = {file.stem for file in files}
    known |= {name for file in files for name in re.findall(r"^def (test_\w+)", file.read_text(), re.MULTILINE)}
    assert len(cited) > 20 and not {one for one in cited if not fnmatch.filter(known, one)}


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.stem)
def test_the_headline_is_the_benchmarks_own(file):
    """A table that names a headline which the code no longer has."""
    config = OmegaConf.load(file)
    parents = [name for name in config.get("defaults") or [] if isinstance(name, str) and name != "_self_"]
    for parent in parents:
        config = OmegaConf.merge(OmegaConf.load(file.with_name(f"{parent}.yaml")), config)
    target = get_object(config["_target_"])
    benchmark = target if isinstance(target, type) else get_type_hints(target)["return"]
    headline = benchmark.headline
    if issubclass(benchmark, TaskBenchmark):
        headline = get_type_hints(benchmark)["task"].headline
    elif isinstance(headline, property):
        headline = benchmark("none", **({"single": config.single} if "single" in config else {})).headline
    assert re.search(rf"`{re.escape(headline)}`", lines()[file.stem][2]), headline


def test_missing_items_are_not_counted_as_truncated(tmp_path):
    """Readings that show more cut responses than there are: an item without a prediction is neither cut nor unread."""
    row = {"image": encoded(), "question": "Which?", "A": "red", "B": "blue", "answer": "B"}
    bench = AI2D(write_tsv(tmp_path / "a.tsv", [{"index": number, **row} for number in range(4)]), rows=4)
    given = [Prediction("0", "B"), Prediction("1", "I see", finished=False), Prediction("2", "hm")]
    found = judged(bench, bench.items(), {one.id: one for one in given})
    made = scores(bench, found, resamples=10)
    assert (made["n"], made["n_missing"], made["n_truncated"], made["n_unparsed"]["locus"]) == (4, 1, 1, 2)
    assert made["readings"]["locus"] == {"ok": 1, "truncated": 1, "none": 1, MISSING: 1}
    assert made["headline"]["value"] == 25 and made["headline"]["n"] == 4
