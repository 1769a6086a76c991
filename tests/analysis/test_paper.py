"""The paper's numbers: by benchmark and policy, or none."""

from __future__ import annotations

import re

from locus.analysis.paper import ABLATIONS, RESULTS, paper_numbers
from tests.support.paths import REPO


def test_paper_numbers():
    """Beside a backbone of the paper only."""
    assert paper_numbers("vstar", "Qwen/Qwen2.5-VL-7B-Instruct") == (79.6, 87.4)
    assert paper_numbers("pope", "models/MiMo-VL-7B-RL/") == (86.1, 86.2)
    assert paper_numbers("refcoco", "Qwen/Qwen3-VL-4B-Thinking") is None
    assert paper_numbers("vstar", "Qwen/Qwen2.5-VL-72B-Instruct") is None and paper_numbers("vstar", None) is None


def test_bases_that_the_papers_tables_disagree_on_are_named():
    """A table of ours that is said to be wrong, where the paper has both numbers."""
    text = " ".join((REPO / "docs" / "paper.md").read_text().split())
    said = re.search(r"disagree on three bases: (.*?)\. ", text)
    named = re.findall(r"([A-Z][\w -]+?) ([\d.]+) here and ([\d.]+) in Table", said[1]) if said else []
    titles = {"pope": "POPE", "hr_bench_4k": "HR-Bench 4K", "hr_bench_8k": "HR-Bench 8K"}
    bases = [
        (name, base) for table in ABLATIONS.values() for name, base in zip(table.benchmarks, table.base, strict=True)
    ]
    differ = {(titles[name], RESULTS[name][0][0], base) for name, base in bases if base != RESULTS[name][0][0]}
    assert {(title, float(here), float(there)) for title, here, there in named} == differ
