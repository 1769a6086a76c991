"""``python -m locus.evaluate``: predictions score the same when read again; interrupted runs, sweeps, comparisons."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pandas as pd
import pytest

from locus.errors import LocusError
from locus.evaluate import compared
from locus.evaluation.benchmarks.vstar import VStar
from locus.evaluation.predictions import Prediction, PredictionFile, read_predictions
from locus.evaluation.scores import add_row, judged, read_rows, read_scores, scores, write_scores
from tests.support.interrupted import written_by_another
from tests.support.models import backbone
from tests.support.runs import TINY, command, refused, succeeded
from tests.support.vstar_six import ANSWERS, said, write, write_vstar_six


@pytest.fixture
def vstar(tmp_path) -> Path:
    return write_vstar_six(tmp_path)


def evaluated(folder: Path, *overrides: object) -> None:
    succeeded(command("evaluate", *TINY, f"folder={folder}", *overrides))


def test_evaluate_then_score(tmp_path, vstar):
    """What evaluate leaves is scored alike without the model; a second call answers nothing anew; other settings are
    refused."""
    files = "benchmark=vstar", f"benchmark.path={vstar}", "benchmark.rows=6"
    evaluated(tmp_path / "out", *files)
    place = tmp_path / "out" / "vstar"
    path = place / "predictions.jsonl"
    written, made = path.read_bytes(), json.loads((place / "scores.json").read_text())
    assert list(read_predictions(path)) == list("012345")
    assert (made["n"], made["n_missing"]) == (6, 0)
    path.write_bytes(written[:-20])
    evaluated(tmp_path / "out", *files)
    assert path.read_bytes() == written
    manifest = json.loads((place / "manifest.json").read_text())
    assert manifest["rows"] == 6 and manifest["settings"]["items"].startswith("sha256")
    assert {"extractor_version", "versions", "hardware", "processor_pixels"} <= set(manifest)
    with (tmp_path / "out" / "scores.csv").open() as lines:
        (row,) = csv.DictReader(lines)
    assert row["benchmark"] == "vstar" and row["policy"] == "tiny_random" and row["paper_base"] == ""
    refused(command("evaluate", *TINY, f"folder={tmp_path / 'out'}", *files, "think=true"), "instruction was")

    scored = f"hydra.run.dir={tmp_path / 'scored'}"
    succeeded(command("score", *files, f"predictions={path}", scored))
    again = json.loads((tmp_path / "scored" / "scores.json").read_text())
    assert again["scores"] == made["scores"]
    verdicts = pd.read_parquet(tmp_path / "scored" / "verdicts.parquet")
    assert list(verdicts["extractor"]) == ["locus"] * 6 + ["vlmevalkit"] * 6

    right = write(tmp_path / "right.jsonl", dict(zip("012345", ANSWERS, strict=True)))
    ended = succeeded(command("score", *files, f"predictions={right}", f"against={path}", scored))
    compared = json.loads((tmp_path / "scored" / "scores.json").read_text())
    assert compared["headline"]["value"] == 100 and compared["comparison"]["locus"]["lost"] == 0
    assert "mcnemar_p" in ended.stdout


@pytest.mark.slow
def test_interrupted(tmp_path, monkeypatch):
    """Hours of decoding must not be started anew: the message says how to go on, and going on ends in the same file."""
    evaluated(tmp_path / "whole", "limit=6", "token_budget=300")
    write = PredictionFile.write

    def interrupted(self: PredictionFile, predictions: list[Prediction]) -> None:
        write(self, predictions)
        raise KeyboardInterrupt

    folder = f"folder={tmp_path / 'cut'}"
    with monkeypatch.context() as patch:
        patch.setattr(PredictionFile, "write", interrupted)
        ended = command("evaluate", *TINY, folder, "limit=6", "token_budget=300")
    assert ended.status == 130 and f"the same command and {folder}" in ended.stderr
    paths = [tmp_path / name / "scenes_attributes" / "predictions.jsonl" for name in ("whole", "cut")]
    assert 0 < len(paths[1].read_bytes()) < len(paths[0].read_bytes())
    evaluated(tmp_path / "cut", "limit=6", "token_budget=300")
    assert paths[1].read_bytes() == paths[0].read_bytes()


def test_predictions_that_another_process_writes(tmp_path):
    """The second one would answer the same items, and each line would stand there twice."""
    (tmp_path / "scenes_attributes").mkdir()
    with written_by_another(tmp_path / "scenes_attributes"):
        refused(command("evaluate", *TINY, f"folder={tmp_path}", "limit=2"), "process 7 on here", "another folder")


@pytest.mark.slow
def test_sweep_of_policies_and_benchmarks(tmp_path, vstar):
    """One row for each pair, also where a policy is a folder that names its frame by its run."""
    run = tmp_path / "run"
    evaluated(tmp_path / "one", "limit=2")  # the default benchmark, for the policy's files
    policy = run / "policy"
    save_policy(policy)
    settings = "backbone:\n  _target_: locus.policy.backbone.Backbone\n  frame: processed\n  path: null\n"
    (run / "config.yaml").write_text(settings)
    policies, benchmarks = f"policy=tiny_random,{policy}", "benchmark=scenes_grounding,cue_search"
    succeeded(command("evaluate", "-m", *TINY, f"folder={tmp_path / 'out'}", policies, benchmarks, "limit=2"))
    with (tmp_path / "out" / "scores.csv").open() as lines:
        rows = list(csv.DictReader(lines))
    assert sorted((row["policy"], row["benchmark"]) for row in rows) == sorted(
        (one, benchmark) for one in ("tiny_random", str(policy)) for benchmark in ("scenes_grounding", "cue_search")
    )
    check_comparisons(tmp_path / "out", "tiny_random", str(policy))
    paths = sorted((tmp_path / "out").glob("*/cue_search/predictions.jsonl"))
    frames = {prediction.frame for path in paths for prediction in read_predictions(path).values()}
    assert len(paths) == 2 and frames == {"unit1000", "processed"}


def check_comparisons(folder: Path, first: str, later: str) -> None:
    """The first policy against the other, of each benchmark and extractor, as `comparison` finds it."""
    rows = read_rows(folder / "comparisons.csv")
    benchmarks = {"scenes_grounding": "accuracy", "cue_search": "mean_iou"}
    assert [(row["benchmark"], row["extractor"]) for row in rows] == [
        (benchmark, extractor) for benchmark in benchmarks for extractor in ("locus", "vlmevalkit")
    ] and {(row["before"], row["after"]) for row in rows} == {(first, later)}
    values = {(row["policy"], row["benchmark"]): float(row["value"]) for row in read_rows(folder / "scores.csv")}
    for row in rows:
        assert row["score"] == benchmarks[row["benchmark"]]
        assert float(row["low"]) <= float(row["change"]) <= float(row["high"]) and 0 < float(row["mcnemar_p"]) <= 1
        if row["extractor"] == "locus":
            change = values[later, row["benchmark"]] - values[first, row["benchmark"]]
            assert float(row["change"]) == pytest.approx(change)


def test_policies_are_compared_item_by_item(tmp_path, vstar):
    """Equal scores may be two items lost and two won; a policy that answered other items is left out, and said."""
    benchmark = VStar(str(vstar), rows=6)
    items = list(benchmark.items())
    for policy, letters, asked in (("base", "ABAAAA", items), ("a/b", "BAABAB", items), ("short", "AB", items[:2])):
        found = judged(benchmark, asked, said(letters))
        folder = tmp_path / policy.replace("/", "_") / "vstar"
        folder.mkdir(parents=True)
        made = write_scores(folder, benchmark, found, 10, policy=policy)
        assert scores(benchmark, read_scores(folder)[1], 10)["scores"] == made["scores"]
        add_row(tmp_path / "scores.csv", {"policy": policy, "benchmark": "vstar"}, ("policy", "benchmark"))
    (tmp_path / "beside" / "vstar").mkdir(parents=True)  # another process is about to write its verdicts
    (tmp_path / "beside" / "vstar" / "scores.json").write_text('{"policy": "beside"}')
    rows = list(compared(benchmark, tmp_path, 20))
    assert [(row["before"], row["after"], row["extractor"]) for row in rows] == [
        ("base", "a/b", "locus"),
        ("base", "a/b", "vlmevalkit"),
    ]
    assert [(row["lost"], row["won"], row["mcnemar_p"], row["n"]) for row in rows] == [(2, 2, 1.0, 6)] * 2
    (tmp_path / "a_b" / "vstar" / "verdicts.parquet").write_bytes(b"PAR1")
    with pytest.raises(LocusError, match="its scores cannot be read"):
        list(compared(benchmark, tmp_path, 20))


def save_policy(folder: Path) -> None:
    """A random policy as a Hugging Face folder."""
    made = backbone("qwen3_vl")
    made.load().model.save_pretrained(folder)
    made.processor().save_pretrained(folder)
