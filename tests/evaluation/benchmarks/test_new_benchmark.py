"""A new benchmark is one class and one config: here whole, with a sample file, from its rows to its scores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf

from locus.errors import LocusError
from locus.evaluation.benchmark import Item
from locus.evaluation.benchmarks.choice import ChoiceBenchmark, letter_of, vlmevalkit_prompt
from locus.evaluation.benchmarks.readers import Row
from locus.evaluation.predictions import Prediction
from locus.evaluation.scores import judged, scores
from tests.support.benchmark_files import hf_image, write_parquet


# --- locus/evaluation/benchmarks/seasons.py -------------------------------------------------------------------
@dataclass(frozen=True)
class Seasons(ChoiceBenchmark):
    """Which season does a photo show?"""

    name: str = "seasons"
    rows: int | None = 3
    columns: ClassVar = ("photo", "season")

    def _item(self, row: Row) -> Item:
        options = {"A": "summer", "B": "winter"}
        prompt = vlmevalkit_prompt("Which season is it?", options)
        return Item(row.item_id("id"), prompt, letter_of(row, "season"), row.pictures("photo"), options)


# --- conf/benchmark/seasons.yaml ------------------------------------------------------------------------------
CONFIG = f"""
_target_: {__name__}.Seasons
path: ${{benchmarks}}/seasons
"""


def test_a_new_benchmark(tmp_path):
    """Its items have the ids of their rows, the answers' letters are scored with both extractors and an interval."""
    (tmp_path / "seasons").mkdir()
    rows = [{"photo": hf_image(number), "season": letter} for number, letter in enumerate("ABB")]
    write_parquet(tmp_path / "seasons" / "test.parquet", rows)
    config = OmegaConf.create({"benchmarks": str(tmp_path), "benchmark": OmegaConf.create(CONFIG)})
    benchmark = instantiate(config.benchmark)
    items = list(benchmark.items())
    assert [(item.item_id, item.answer) for item in items] == [("0", "A"), ("1", "B"), ("2", "B")]
    said = {"0": Prediction("0", "Summer."), "1": Prediction("1", "The answer is B."), "2": Prediction("2", "A")}
    made = scores(benchmark, judged(benchmark, items, said))
    assert made["headline"]["value"] == pytest.approx(200 / 3) and made["n_unparsed"]["vlmevalkit"] == 0
    assert made["headline"]["low"] < made["headline"]["value"] < made["headline"]["high"] == 100


def test_its_faults_name_the_row(tmp_path):
    """A letter that does not exist, or a row too few, is found before any policy is asked."""
    path = write_parquet(tmp_path / "test.parquet", [{"photo": hf_image(), "season": "autumn"}])
    with pytest.raises(LocusError, match=r"test\.parquet, row 1: the answer 'autumn' is not a letter"):
        list(Seasons(path).items())
    write_parquet(tmp_path / "test.parquet", [{"photo": hf_image(), "season": "A"}])
    with pytest.raises(LocusError, match="seasons has 3 items, found 1"):
        list(Seasons(path).items())
