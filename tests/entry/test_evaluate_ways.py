"""``python -m locus.evaluate`` in other ways than by one process: a served policy, shards, policies asked alike."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf

from locus.errors import LocusError
from locus.evaluate import compared, note, settings_of
from locus.evaluation.benchmarks.babyvision import BabyVision
from locus.evaluation.benchmarks.vstar import VStar
from locus.evaluation.items import ItemsRead
from locus.evaluation.judge import ChatJudge
from locus.evaluation.predictions import COMPUTING, Prediction, PredictionFile
from locus.evaluation.scores import add_row, judged, read_rows, write_scores
from locus.files.chat_endpoint import ChatServer
from locus.run.asked import AskedPolicy
from tests.support.benchmark_files import hf_image, write_parquet
from tests.support.benchmark_files_other import baby_rows
from tests.support.chat_server import endpoint
from tests.support.policy_server import policy_server
from tests.support.runs import TINY, Ended, command, refused, succeeded
from tests.support.vstar_six import said, write_vstar_six


@pytest.fixture
def vstar(tmp_path) -> tuple[str, ...]:
    """Overrides for a V*Bench of six questions."""
    return "benchmark=vstar", f"benchmark.path={write_vstar_six(tmp_path)}", "benchmark.rows=6"


@pytest.fixture
def served(compose_app):
    """The policy of ``TINY`` behind a server: a context that gives it, with the requests that it refuses."""
    backbone = instantiate(compose_app("evaluate", list(TINY)).backbone)
    return lambda *fails: policy_server(backbone.load().eval(), backbone.processor(), "tiny_random", *fails)


def evaluated(folder: Path, *overrides: object) -> Ended:
    return succeeded(command("evaluate", *TINY, f"folder={folder}", *overrides))


def answers(place: Path) -> list[dict]:
    """Predictions but for the numbers of batches."""
    lines = [json.loads(line) for line in (place / "predictions.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "batch"} for line in lines]


def scores_of(place: Path) -> dict:
    made = json.loads((place / "scores.json").read_text())
    return {name: value for name, value in made.items() if name != "policy"}


@pytest.mark.slow
def test_a_served_policy_leaves_the_same(tmp_path, vstar, served):
    """Other answers, scores or files than in process; a resume that asks again what is answered."""
    evaluated(tmp_path / "here", *vstar)
    asked = *vstar, "policy=endpoint", "endpoint.wait=0.01", "endpoint.tries=2", "endpoint.requests=2"
    out = tmp_path / "there", tmp_path / "here" / "vstar", tmp_path / "there" / "vstar"
    with served(lambda number: 500 if number > 3 else None) as server:
        cut = command("evaluate", *TINY, f"folder={out[0]}", *asked, f"endpoint.url={server.url}")
        refused(cut, "item ", "status 500", "the same command resumes")
    kept, aside = answers(out[2]), out[2] / "answered.jsonl"
    later = len(aside.read_text().splitlines()) if aside.exists() else 0
    assert kept and len(kept) + later >= 4 and not (out[0] / "scores.csv").exists()
    with served() as server:
        evaluated(out[0], *asked, f"endpoint.url={server.url}")
        assert len(server.requests) in (2, 3), "the last one may be asked again: nobody knows whether it is whole"
    evaluated(out[0], *asked, f"endpoint.url={server.url}", "endpoint.model=tiny_random")  # it is gone by now
    assert answers(out[2]) == answers(out[1]) and scores_of(out[2]) == scores_of(out[1])
    manifest = json.loads((out[2] / "manifest.json").read_text())
    assert manifest["policy"] == "endpoint" and manifest["settings"]["endpoint"]["model"] == "tiny_random"
    assert manifest["endpoint"]["served"] == {"max_model_len": 4096} and manifest["processor_pixels"]
    (row,) = read_rows(out[0] / "scores.csv")
    assert (row["policy"], row["instruction"]) == ("endpoint:tiny_random", "none")


@pytest.mark.slow
def test_shards_make_the_same_scores(tmp_path, vstar):
    """A part that is missing or made otherwise; answers or scores that depend on how a benchmark was divided."""
    whole, divided = tmp_path / "whole", tmp_path / "divided"
    evaluated(whole, *vstar)
    evaluated(divided, *vstar, "shard=2/2")
    refused(command("evaluate", *TINY, f"folder={divided}", *vstar, "shard=merge"), "finish it with shard=1/2")
    evaluated(divided, *vstar, "shard=1/2")
    assert not (divided / "scores.csv").exists()
    refused(command("evaluate", *TINY, f"folder={divided}", *vstar, "shard=merge", "think=true"), "instruction was")
    evaluated(divided, *vstar, "shard=merge")
    files = [folder / "vstar" / "predictions.jsonl" for folder in (divided, whole)]
    assert files[0].read_bytes() == files[1].read_bytes()
    assert scores_of(divided / "vstar") == scores_of(whole / "vstar")
    assert (divided / "scores.csv").read_bytes() == (whole / "scores.csv").read_bytes()
    refused(command("evaluate", *TINY, f"folder={divided}", *vstar, "shard=5/4"), "shard=5/4: give k/n")


def test_settings_are_what_responses_depend_on(tmp_path, compose_app):
    """An evaluation that is refused because its files were moved, a judge was added or the machine has no GPU."""
    file = write_vstar_six(tmp_path)
    (tmp_path / "moved").mkdir()
    moved = Path(shutil.copy(file, tmp_path / "moved" / file.name))
    server = ChatServer("endpoint", "http://localhost:1", "m")

    def settings(path: Path, *overrides: str, served: ChatServer | None = None) -> dict:
        cfg = compose_app("evaluate", [*TINY, "benchmark=vstar", f"benchmark.path={path}", *overrides])
        return settings_of(AskedPolicy(cfg, "tiny", None, served), ItemsRead(VStar(str(path), rows=6)))

    other = moved, "benchmark.rows=6", "benchmark.images=/pictures", "benchmark.judge_model={model: m}", "limit=6"
    other += ("+benchmark.single=strict",)  # another headline
    assert settings(file) == settings(*other)
    for change in ("sampling.max_new_tokens=7", "think=true", "pixels.max_pixels=5000"):
        assert settings(file) != settings(file, change), change
    wide = "+backbone.dtype=float64"
    differing = [name for name, value in settings(file).items() if settings(file, wide)[name] != value]
    assert differing == ["dtype"] and differing[0] in COMPUTING
    assert settings(file, served=server) == settings(file, wide, served=server)


def test_a_resume_with_another_seed(tmp_path, compose_app):
    """Greedy answers of weights that are read, refused for a seed that none of them depends on; those of other random
    weights put together."""
    read = ItemsRead(VStar(str(write_vstar_six(tmp_path)), rows=6))
    ids = [item.item_id for item in read.items]

    def file(folder: str, *overrides: str) -> PredictionFile:
        cfg = compose_app("evaluate", ["benchmark=vstar", *overrides])
        return PredictionFile(tmp_path / folder, settings_of(AskedPolicy(cfg, "p", None), read), ids, {})

    file("bundled", "seed=1").write([Prediction(one, "A") for one in ids[:3]])
    assert file("bundled", "seed=2").done == 2
    sampled = "sampling.temperature=1"
    for folder, changed in (("random", "backbone=tiny_random"), ("taken", "+backbone.random_weights=true")):
        file(folder, changed, "seed=1").write([Prediction(one, "A") for one in ids])
        with pytest.raises(LocusError, match="made otherwise .backbone was"):
            file(folder, changed, "seed=2")
    file("sampled", sampled, "seed=1").write([Prediction(one, "A") for one in ids])
    with pytest.raises(LocusError, match="made otherwise .seed was 1, is 2"):
        file("sampled", sampled, "seed=2")


@pytest.mark.parametrize("benchmark", ["scenes_attributes", "scenes_grounding", "cue_search"])
def test_a_seed_draws_a_benchmarks_questions(compose_app, benchmark):
    """The same questions for every seed, where the file says otherwise; runs of other seeds that are asked others."""
    for app in ("evaluate", "score", "prompts", "analyze"):
        seeds = [compose_app(app, [f"benchmark={benchmark}", *seed]).benchmark.seed for seed in ([], ["seed=5"])]
        assert seeds == [1, 5], app
    for asked in ("diagnoses=scenes", "diagnoses=claims", "diagnoses=tasks", "callbacks=attention"):
        cfg = compose_app("train", [asked, "seed=5"])
        parts = (cfg.callbacks if asked.startswith("callbacks") else cfg.diagnoses).values()
        assert {one.benchmark.seed for one in parts if OmegaConf.is_dict(one) and "benchmark" in one} == {1}, asked


def test_policies_judged_otherwise_are_not_compared(tmp_path, caplog):
    """A gain of the judge that is read as one of the policy; a traceback where only one of two was judged."""
    path = write_parquet(tmp_path / "b.parquet", [baby_rows()[0] | {"image": hf_image()}])
    with endpoint("True") as (url, _):
        plain = BabyVision(path, rows=1)
        with_judge = BabyVision(path, rows=1, judge_model=ChatJudge(url, "m", str(tmp_path / "judge.jsonl")))
        for policy, benchmark in (("base", plain), ("trained", with_judge), ("other", plain)):
            folder = tmp_path / policy / "babyvision"
            folder.mkdir(parents=True)
            items = list(benchmark.items())
            found = judged(benchmark, items, {one.item_id: Prediction(one.item_id, "red") for one in items})
            made = write_scores(folder, benchmark, found, 10, policy=policy, instruction="none")
            assert made["judge_model"] == (None if benchmark is plain else "m")
            add_row(tmp_path / "scores.csv", {"policy": policy, "benchmark": "babyvision"}, ("policy", "benchmark"))
    assert not list(compared(with_judge, tmp_path, 10))
    assert [row["after"] for row in compared(plain, tmp_path, 10)][::2] == ["other"]
    assert "base and trained are not compared: scored by m and without a judge; run evaluate again" in caplog.text


def test_a_pair_that_is_no_longer_compared(tmp_path):
    """A change of two policies that stays in the table once one of them was scored by a judge; other benchmarks' rows
    gone with it."""
    path = write_parquet(tmp_path / "b.parquet", [baby_rows()[0] | {"image": hf_image()}])
    benchmark, table = BabyVision(path, rows=1), tmp_path / "comparisons.csv"
    keys = "benchmark", "before", "after", "extractor"

    def score(policy: str, by: BabyVision) -> list[tuple[str, str]]:
        (folder := tmp_path / policy / "babyvision").mkdir(parents=True, exist_ok=True)
        made = judged(by, items, {item.item_id: Prediction(item.item_id, "red") for item in items})
        write_scores(folder, by, made, 10, policy=policy, instruction="none")
        note(tmp_path, by, {"policy": policy, "benchmark": "babyvision"}, 10)
        return [(row["benchmark"], row["after"]) for row in read_rows(table) if row["extractor"] == "locus"]

    items = list(benchmark.items())
    assert score("base", benchmark) == [] and not table.exists()
    assert score("trained", benchmark) == [("babyvision", "trained")]
    add_row(table, dict.fromkeys(keys, "other") | {"after": "x", "extractor": "locus"}, keys)
    assert score("third", benchmark) == [("babyvision", "trained"), ("babyvision", "third"), ("other", "x")]
    with endpoint("True") as (url, _):
        judge = ChatJudge(url, "m", str(tmp_path / "judge.jsonl"))
        assert score("trained", BabyVision(path, rows=1, judge_model=judge)) == [("other", "x")]
    assert score("third", benchmark) == [("other", "x"), ("babyvision", "third")]


def test_a_comparison_says_how_both_were_asked(tmp_path, caplog):
    """A gain of the prompt that is read as one of training."""
    benchmark = VStar(str(write_vstar_six(tmp_path)), rows=6)
    for policy, instruction in (("base", "none"), ("trained", "think"), ("other", "none")):
        folder = tmp_path / policy / "vstar"
        folder.mkdir(parents=True)
        found = judged(benchmark, benchmark.items(), said("ABAAAA"))
        write_scores(folder, benchmark, found, 10, policy=policy, instruction=instruction)
        add_row(tmp_path / "scores.csv", {"policy": policy, "benchmark": "vstar"}, ("policy", "benchmark"))
    rows = list(compared(benchmark, tmp_path, 10))
    assert [(row["after"], row["instruction"]) for row in rows[::2]] == [
        ("trained", "none -> think"),
        ("other", "none"),
    ]
    (warning,) = caplog.messages
    assert "base and trained were asked differently" in warning and "prompt and training together" in warning
