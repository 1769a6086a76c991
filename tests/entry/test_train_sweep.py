"""A sweep: each of its runs has a folder of its own, is whole, and is the run that its settings make alone."""

from __future__ import annotations

import itertools
import json
import subprocess
import time
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml
from omegaconf import OmegaConf
from PIL import Image
from transformers import AutoModelForImageTextToText

from tests.support.runs import SMALLEST, command, differences, finish, same_weights, spawn, succeeded, warm_policy

ALGORITHMS, SEEDS = ("grpo", "easyr1"), (1, 2)
FILES = ("config.yaml", "run.json", "metrics.csv", "rollouts.parquet", "validation.parquet", "summary.json",
         "train.log", "figures/curve.png", ".hydra/overrides.yaml", "checkpoints/step-000002.ckpt")  # fmt: skip

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> list[str]:
    """The smallest sizes, two steps and a policy that earns rewards as ``experiment=small``: a short command line.

    Four prompts a step, for the four updates of easyr1.
    """
    folder = tmp_path_factory.mktemp("conf")
    groups = [text.split("=") for text in SMALLEST if "." not in text.split("=")[0]]
    keys = [text for text in SMALLEST if "." in text.split("=")[0]]
    keys += ["trainer.steps=2", "trainer.prompts_per_step=4", f"backbone.path={warm_policy()}"]
    experiment = OmegaConf.create({"defaults": [{f"override /{group}": choice} for group, choice in groups]})
    experiment.merge_with_dotlist(keys)
    (folder / "experiment").mkdir()
    (folder / "experiment" / "small.yaml").write_text("# @package _global_\n" + OmegaConf.to_yaml(experiment))
    return [f"hydra.searchpath=[file://{folder}]", "experiment=small"]


@pytest.fixture(scope="module")
def sweep(tmp_path_factory, small) -> Path:
    """``python -m locus.train -m algorithm=grpo,easyr1 seed=1,2``."""
    folder = tmp_path_factory.mktemp("sweep") / "sweep"
    axes = f"algorithm={','.join(ALGORITHMS)}", f"seed={','.join(map(str, SEEDS))}"
    succeeded(finish(spawn("-m", "locus.train", "-m", *axes, *small, f"hydra.sweep.dir={folder}")))
    return folder


@pytest.fixture(scope="module")
def runs(sweep) -> dict[tuple[str, int], Path]:
    """(algorithm, seed) -> run folder, by the name of the folder."""
    found = {}
    for folder in sweep.iterdir():
        if folder.is_dir():
            named = dict(part.split("-", 1) for part in folder.name.split("__"))
            found[named["algorithm"], int(named["seed"])] = folder
    return found


def test_each_run_has_a_folder_named_by_its_overrides(sweep, runs):
    """Runs that write over each other, or whose folders do not tell which is which."""
    assert set(runs) == set(itertools.product(ALGORITHMS, SEEDS))
    assert runs["grpo", 1].name == "algorithm-grpo__experiment-small__seed-1"
    assert {path.name for path in sweep.iterdir()} == {folder.name for folder in runs.values()} | {"multirun.yaml"}


def test_each_run_is_whole(runs):
    """A second run in a process that breaks because of the first: a table, a log or a logger that is still open."""
    for (algorithm, seed), folder in runs.items():
        assert [name for name in FILES if not (folder / name).is_file()] == [], folder
        config, record = (
            yaml.safe_load((folder / "config.yaml").read_text()),
            json.loads((folder / "run.json").read_text()),
        )
        assert config["seed"] == record["seed"] == seed
        assert record["updates_per_rollout"] == (4 if algorithm == "easyr1" else 1)
        assert json.loads((folder / "summary.json").read_text())["status"] == "finished"
        assert pd.read_parquet(folder / "rollouts.parquet")["step"].tolist() == [1] * 16 + [2] * 16
        assert pd.read_parquet(folder / "validation.parquet")["step"].tolist() == [0] * 4 + [2] * 4
        assert pd.read_csv(folder / "metrics.csv")["train/reward"].count() == 2
        Image.open(folder / "figures" / "curve.png").verify()
        assert str(folder) in (folder / "train.log").read_text()
        AutoModelForImageTextToText.from_pretrained(folder / "policy")


def test_runs_differ_as_their_settings_do(runs):
    """A seed or an algorithm that does not reach the run."""
    for one, other in itertools.combinations(runs.values(), 2):
        assert not same_weights(one, other)
    hashes = {
        (name, seed): json.loads((folder / "run.json").read_text())["corpus_hash"]
        for (name, seed), folder in runs.items()
    }
    assert hashes["grpo", 1] == hashes["easyr1", 1] != hashes["grpo", 2]
    steps = {
        name: torch.load(runs[name, 1] / "checkpoints" / "step-000002.ckpt", weights_only=True) for name in ALGORITHMS
    }
    updates = {name: int(next(iter(s["optimizer_states"][0]["state"].values()))["step"]) for name, s in steps.items()}
    assert updates == {"grpo": 2, "easyr1": 8}


def test_the_last_run_is_what_it_would_be_alone(tmp_path, runs, small):
    """State that one run of a process leaves for the next: random numbers, caches, warnings."""
    succeeded(command("train", *small, "algorithm=easyr1", "seed=2", f"hydra.run.dir={tmp_path}"))
    assert list(differences(tmp_path, runs["easyr1", 2])) == []


def test_each_run_has_a_wandb_run_of_its_own(tmp_path, small):
    """One process runs the jobs one after the other: an open W&B run takes the metrics of all that follow."""
    succeeded(command("train", "-m", "seed=1,2", *small, "logger=default", f"hydra.sweep.dir={tmp_path / 'sweep'}"))
    for folder in (path for path in (tmp_path / "sweep").iterdir() if path.is_dir()):
        (logged,) = (folder / "wandb").glob("offline-run-*")
        assert logged.name.endswith((folder / "wandb_id.txt").read_text())


def test_a_sweep_over_files_stays_in_its_folder(tmp_path):
    """A path among the overrides that becomes a path of the run folder, or a name too long for the file system."""
    box = {"image": "0.png", "box": [0, 0, 20, 20]}
    (tmp_path / "data").mkdir()
    for number in range(4):
        Image.effect_noise((48, 48), 80).save(tmp_path / "data" / f"{number}.png")
    (tmp_path / "data" / "boxes.jsonl").write_text("\n".join(json.dumps(box | {"image": f"{n}.png"}) for n in range(4)))
    data = "data=boxes", f"data.path={tmp_path / 'data' / 'boxes.jsonl'}", "data.train_examples=2"
    sizes = [text for text in SMALLEST if not text.startswith(("data", "trainer.prompts"))]
    sizes += ["data.validation_examples=1", "trainer.prompts_per_step=1", "trainer.steps=1"]
    sweep = tmp_path / "sweep"
    succeeded(command("train", "-m", "seed=1,2", *data, *sizes, f"hydra.sweep.dir={sweep}"))
    runs = [path for path in sweep.iterdir() if path.is_dir()]
    assert len(runs) == 2 and all((run / "summary.json").is_file() for run in runs)
    assert {path.name for path in tmp_path.iterdir()} == {"data", "sweep"}


@pytest.mark.parametrize("launcher", ["basic", "cores", "slurm_rehearsal"])
def test_a_run_that_fails_does_not_lose_the_others(tmp_path, small, launcher):
    """A sweep that ends at its first failure, or that ends well although one of its runs did not."""
    sweep = tmp_path / "sweep"
    sizes = *small, "trainer.steps=1", f"hydra/launcher={launcher}", f"hydra.sweep.dir={sweep}"
    ended = finish(spawn("-m", "locus.train", "-m", "algorithm.group_size=1,4", *sizes))
    assert ended.status == 2, ended.stderr
    failed, hint = [line for line in ended.stderr.splitlines() if line.startswith("locus: ")]
    folders = {size: sweep / f"algorithm.group_size-{size}__experiment-small__trainer.steps-1" for size in (1, 4)}
    assert failed.startswith(f"locus: {folders[1]}: algorithm.group_size=1")
    assert "1 of the sweep's jobs failed" in hint and f"hydra.sweep.dir={sweep}" in hint
    status = {size: json.loads((folder / "summary.json").read_text())["status"] for size, folder in folders.items()}
    assert status == {1: "failed", 4: "finished"}


def test_launched_again_it_does_only_what_is_missing(tmp_path, runs, small):
    """Killed after the first run, in the second: a launch that trains the first again, or begins the second anew."""
    sweep = tmp_path / "sweep"
    launch = "-m", "locus.train", "-m", "algorithm=easyr1", "seed=1,2", *small, f"hydra.sweep.dir={sweep}"
    first, second = (sweep / f"algorithm-easyr1__experiment-small__seed-{seed}" for seed in SEEDS)
    process = spawn(*launch, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not (second / "checkpoints" / "step-000001.ckpt").exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert not (second / "summary.json").exists()

    before = written(first)
    ended = succeeded(finish(spawn(*launch)))
    assert f"{first}: finished by an earlier launch, skipped" in ended.stdout
    assert f"{second}: begun by an earlier launch, resumes after step " in ended.stdout
    assert written(first) == before
    assert list(differences(second, runs["easyr1", 2])) == []
    assert json.loads((second / "run.json").read_text())["resumed_from_step"] >= 1


def written(folder: Path) -> dict[Path, tuple[int, bytes]]:
    """When and what a run wrote; not what Hydra writes for every job."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.suffix != ".log")
    return {
        path: (path.stat().st_mtime_ns, path.read_bytes())
        for path in files
        if path.parent.name != ".hydra" or path.name == "resume.yaml"
    }


def test_optuna_searches(tmp_path, small):
    """A search that minimises, or whose values do not reach the run."""
    search = "sweep=optuna", "hydra.sweeper.n_trials=3", *small, "trainer.steps=1", f"hydra.sweep.dir={tmp_path}"
    succeeded(finish(spawn("-m", "locus.train", *search)))
    configs = {path.parent: yaml.safe_load(path.read_text()) for path in tmp_path.glob("*/config.yaml")}
    assert len({config["reward"]["alpha"] for config in configs.values()}) == 3
    scores = [json.loads((folder / "summary.json").read_text())["val/mean_iou"] for folder in configs]
    best = yaml.safe_load((tmp_path / "optimization_results.yaml").read_text())
    assert best["best_value"] == max(scores)
    alpha = {config["reward"]["alpha"]: score for config, score in zip(configs.values(), scores, strict=True)}
    assert alpha[best["best_params"]["reward.alpha"]] == max(scores)
