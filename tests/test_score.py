"""From predictions to scores: counts, both extractors, comparisons by hand, and the two commands end to end."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from benchmark_files import encoded, write_tsv
from hydra.utils import instantiate
from models import backbone
from runs import command, refused, succeeded

from locus.analysis.paper import paper_numbers
from locus.errors import LocusError
from locus.evaluate import compared
from locus.evaluation.benchmarks.scene_suite import SceneBenchmark
from locus.evaluation.benchmarks.scenes import SceneQuestions
from locus.evaluation.benchmarks.vstar import VStar
from locus.evaluation.predictions import Prediction, PredictionFile, read_predictions
from locus.evaluation.score_files import add_row, read_rows, read_scores, write_scores
from locus.evaluation.scores import comparison, judged, scores
from locus.evaluation.statistics import accuracy, difference, mcnemar
from locus.scenes.questions import colour, grounding, shape
from locus.scenes.source import SceneSource
from locus.score import spoken_frame

ANSWERS = "ABABAB"
SMALL = (
    *("text_layers=2", "text_width=64", "text_heads=2", "text_kv_heads=2", "text_mlp=96"),
    *("vision_layers=2", "vision_width=32", "vision_heads=2", "vision_mlp=64", "initializer_range=0.2"),
)
TINY = ("backbone=tiny_random", *(f"backbone.architecture.{setting}" for setting in SMALL), "sampling.max_new_tokens=6")


@pytest.fixture
def vstar(tmp_path) -> Path:
    """A V*Bench of six questions as VLMEvalKit's TSV; two pictures, three questions each."""
    rows = [
        {"index": number, "image": encoded(number // 3), "question": f"Which is it, {number}?", "A": "red", "B": "blue"}
        | {"answer": answer, "category": "direct_attributes" if number < 4 else "relative_position"}
        for number, answer in enumerate(ANSWERS)
    ]
    return Path(write_tsv(tmp_path / "VStarBench.tsv", rows))


def write(path: Path, responses: dict[str, str], **facts: object) -> Path:
    lines = [json.dumps({"id": name, "response": text, **facts}) for name, text in responses.items()]
    path.write_text("\n".join(lines) + "\n")
    return path


def said(letters: str) -> dict[str, Prediction]:
    return {str(number): Prediction(str(number), letter) for number, letter in enumerate(letters)}


def scenes(frame: str, *kinds: object) -> SceneQuestions:
    source = SceneSource(1, 64, 64, [2, 3], [10, 16], seed=7)
    return SceneQuestions("scenes", SceneBenchmark("scenes", source, kinds, 3), frame)


# --- Scores -----------------------------------------------------------------------------------------------------
def test_counts(vstar):
    """Missing, cut and unread responses are wrong, and each is counted as what it is."""
    benchmark = VStar(str(vstar), rows=6)
    given = {
        "0": Prediction("0", "A"),
        "1": Prediction("1", "A"),  # wrong
        "2": Prediction("2", "I see a red thing and", finished=False),
        "3": Prediction("3", "no idea"),
        "5": Prediction("5", "The answer is B."),
    }
    found = judged(benchmark, benchmark.items(), given)
    assert (found.n, found.n_missing, found.n_truncated) == (6, 1, 1)
    assert found.n_unparsed["locus"] == 2
    made = scores(benchmark, found, resamples=50)
    assert made["headline"]["name"] == "accuracy" and made["headline"]["value"] == pytest.approx(100 * 2 / 6)
    assert made["scores"]["locus"]["direct_attributes"]["value"] == pytest.approx(25)
    assert made["scores"]["locus"]["relative_position"]["value"] == pytest.approx(50)
    assert set(made["scores"]) == {"locus", "vlmevalkit"}
    low, high = made["headline"]["low"], made["headline"]["high"]
    assert low == high == pytest.approx(100 / 3), "a third of either picture's questions is right: no resample differs"
    json.dumps(made, allow_nan=False)


def test_no_number_is_null():
    """JSON has no NaN: a category without any row must not make the file unreadable."""
    benchmark = scenes("unit1000", colour, grounding)
    items = [item for item in benchmark.items() if item.groups["kind"] == "colour"]
    made = scores(benchmark, judged(benchmark, items, {}), resamples=10)
    assert made["scores"]["locus"]["grounding"]["value"] is None
    json.dumps(made, allow_nan=False)


def test_predictions_of_another_benchmark(vstar):
    """Their ids would be missing from the items, and all scores 0."""
    benchmark = VStar(str(vstar), rows=6)
    with pytest.raises(LocusError, match="1 of 2 predictions are of no item of vstar, such as id pope_1"):
        judged(benchmark, benchmark.items(), {**said("A"), "pope_1": Prediction("pope_1", "yes")})


def test_unknown_extractor(vstar):
    """A misspelt one must not be taken for another."""
    for benchmark in (VStar(str(vstar), rows=6), scenes("unit1000", colour), scenes("unit1000", grounding)):
        with pytest.raises(LocusError, match="unknown extractor"):
            judged(benchmark, benchmark.items(), {}, ["lmms"])


def test_boxes_are_converted_from_the_size_that_was_seen():
    """A true box in the processed frame of an enlarged picture earns nothing when it is read in the file's."""
    for frame, factor in (("processed", 1.5), ("unit1000", 1000 / 64), ("file", 1.0)):
        benchmark = scenes(frame, grounding)
        given = {}
        for item in benchmark.items():
            numbers = [round(value * factor, 1) for value in item.answer.xyxy]
            given[item.item_id] = Prediction(item.item_id, f"<answer>{numbers}</answer>", size=(96, 96))
        made = scores(benchmark, judged(benchmark, benchmark.items(), given), resamples=10)
        assert made["headline"]["value"] == 100 and made["scores"]["locus"]["mean_iou"]["value"] > 97, frame
    with pytest.raises(LocusError, match="whose size the predictions do not give"):
        benchmark = scenes("processed", grounding)
        bare = {name: Prediction(name, one.response) for name, one in given.items()}
        judged(benchmark, benchmark.items(), bare)


def test_questions_about_one_scene_are_drawn_together():
    """Each kind is asked of the same scenes: taken for independent, they make the interval too narrow."""
    benchmark = scenes("unit1000", colour, shape)
    items = list(benchmark.items())
    named = {(item.groups["scene"], item.pictures[0].source) for item in items}
    assert len(items) == 6 and len(named) == len(dict(named)) == len({source for _, source in named}) < 6
    said = {item.item_id: Prediction(item.item_id, f"<answer>{item.answer}</answer>") for item in items}
    first = [said[item.item_id] for item in items if item.groups["scene"] == items[0].groups["scene"]]
    found = judged(benchmark, items, {one.id: one for one in first})
    assert len(first) == 2 and benchmark.unit() == ("scene",)
    assert scores(benchmark, found)["headline"]["high"] == 100, "a resample may be the one scene, again and again"


def test_crops_of_one_image_are_drawn_together(compose_app):
    """Several crops of one image taken for independent examples."""
    config = compose_app("evaluate", ["benchmark=cue_search", "benchmark.rows=60", "benchmark.source.count=100"])
    benchmark = instantiate(config.benchmark, _convert_="all")
    items = list(benchmark.items())
    named = {(item.groups["image"], item.pictures[0].source) for item in items}
    assert len(named) == len(dict(named)) == len({source for _, source in named}) < len(items)
    assert benchmark.unit() == ("image",)


# --- Two policies -----------------------------------------------------------------------------------------------
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
    same = difference(wrong, wrong, accuracy(), ())
    assert (same.value, same.low, same.high) == (0, 0, 0)
    gained = difference(wrong, right, accuracy(), ())
    error = 100 * 1.96 * math.sqrt(0.25 / 400)
    assert gained.value == 50 and gained.n == 400
    assert gained.low == pytest.approx(50 - error, abs=1) and gained.high == pytest.approx(50 + error, abs=1)


def test_comparison(vstar):
    """By item, not by score: equal scores on other items are two lost and two won."""
    benchmark = VStar(str(vstar), rows=6)
    found = [judged(benchmark, benchmark.items(), said(letters)) for letters in ("ABAAAA", "BAABAB")]
    made = comparison(benchmark, *found, resamples=20)["locus"]
    assert (made["lost"], made["won"], made["mcnemar_p"]) == (2, 2, 1.0)
    assert made["changes"]["accuracy"]["value"] == pytest.approx(0)
    assert made["changes"]["relative_position"]["value"] == pytest.approx(50)
    half = judged(benchmark, list(benchmark.items())[:3], {})
    with pytest.raises(LocusError, match="answered other items"):
        comparison(benchmark, found[0], half)


# --- Small parts ------------------------------------------------------------------------------------------------
def test_spoken_frame():
    """Pixels read as 0-1000 score near nothing, silently."""
    ours = [Prediction("0", "", frame="processed"), Prediction("1", "")]
    assert spoken_frame(None, ours, "p") == "processed" and spoken_frame("file", ours[1:], "p") == "file"
    assert spoken_frame(None, ours[1:], "p") is None
    with pytest.raises(LocusError, match=r"boxes are in processed, not in backbone\.frame=unit1000"):
        spoken_frame("unit1000", ours, "p")
    with pytest.raises(LocusError, match="of one policy"):
        spoken_frame(None, [*ours, Prediction("2", "", frame="file")], "p")


def test_rows_of_the_csv(tmp_path):
    """A second scoring takes the place of the first, so that the others are still compared with the same policy; commas
    in a folder's name stay in one cell."""
    file = tmp_path / "scores.csv"
    for value, benchmark in ((1, "a"), (2, "b"), (3, "a")):
        row = {"policy": 'x, "y"', "benchmark": benchmark, "value": value, "paper_base": None}
        add_row(file, row, ("policy", "benchmark"))
    with file.open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    assert [(row["policy"], row["benchmark"], row["value"]) for row in rows] == [
        ('x, "y"', "a", "3"),
        ('x, "y"', "b", "2"),
    ]


def test_paper_numbers():
    """Beside a backbone of the paper only."""
    assert paper_numbers("vstar", "Qwen/Qwen2.5-VL-7B-Instruct") == (79.6, 87.4)
    assert paper_numbers("pope", "models/MiMo-VL-7B-RL/") == (86.1, 86.2)
    assert paper_numbers("refcoco", "Qwen/Qwen3-VL-4B-Thinking") is None
    assert paper_numbers("vstar", "Qwen/Qwen2.5-VL-72B-Instruct") is None and paper_numbers("vstar", None) is None


# --- The commands -----------------------------------------------------------------------------------------------
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
    assert manifest["rows"] == 6 and manifest["settings"]["files"][vstar.name].startswith("sha256")
    assert {"extractor_version", "versions", "processor_pixels"} <= set(manifest)
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


def test_wrong_input(tmp_path, vstar):
    """Each with one line that says what is wrong."""
    files = "benchmark=vstar", f"benchmark.path={vstar}", "benchmark.rows=6"
    out = f"hydra.run.dir={tmp_path / 'scored'}"
    good = write(tmp_path / "good.jsonl", {"0": "A"})
    refused(command("score", *files, out), "no value for predictions")
    refused(command("score", "benchmark=vstar", f"predictions={good}", out), "benchmarks/vstar: no such file")
    refused(command("score", *files, f"predictions={tmp_path / 'none'}", out), "none: cannot be read")
    other = write(tmp_path / "other.jsonl", {"pope_1": "yes"})
    refused(command("score", *files, f"predictions={other}", out), "are of no item of vstar")
    moved = "benchmark=vstar", f"benchmark.path={tmp_path / 'none.tsv'}", f"predictions={good}"
    refused(command("score", *moved, out), "none.tsv: no such file")
    refused(command("score", *files[:2], f"predictions={good}", out), "vstar has 191 items, found 6")
    refused(command("score", "benchmark=scenes_grounding", f"predictions={good}", out), "unknown frame None")
    folder = f"folder={tmp_path / 'out'}"
    refused(command("evaluate", folder, "policy=some/model"), "in which frame it writes boxes")
    refused(command("evaluate", *TINY, folder, "policy=some/model"), "cannot open this hub id")
    refused(command("evaluate", *TINY, folder, "limit=0"), "limit=0")
    refused(command("evaluate", *TINY, folder, "token_budget=8"), "the budget is 8")
    assert not (tmp_path / "out" / "scores.csv").exists()
