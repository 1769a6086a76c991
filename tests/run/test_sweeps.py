"""What a sweep does with jobs that fail, that an earlier launch has finished, or that it left; nothing is trained.

`test_sweep` has the same with real runs and launchers.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import yaml
from omegaconf import DictConfig, OmegaConf

import locus.train
from locus.errors import LocusError
from locus.files.run_files import BEGUN_WITH, WRITER, write_text
from locus.run import sweeps
from locus.run.record import write_summary
from locus.run.runtime import open_run
from locus.run.sweeps import folder_name, number_of, resume_point
from tests.support.paths import CONF, REPO
from tests.support.runs import Ended, command, finish, refused, spawn, succeeded


@pytest.mark.parametrize(
    ("overrides", "name"),
    [
        ("algorithm=grpo,seed=1", "algorithm-grpo__seed-1"),
        ("optimizer.make.lr=1e-3", "optimizer.make.lr-1e-3"),
        ("", "run"),
        ("backbone.path=/a/b-c/policy,seed=1", r"backbone.path-policy__seed-1_\w{8}"),
        ("data.path=a/b=c/d.jsonl", r"data.path-b-d.jsonl_\w{8}"),
        ("data.source.objects=[1,2]", r"data.source.objects-_1__2__\w{8}"),
    ],
)
def test_folder_name(overrides, name):
    """Names that are another folder's path, or that a shell or ``resume=`` reads as something else."""
    assert re.fullmatch(name, folder_name(overrides))


def test_no_two_jobs_share_a_folder():
    """Jobs that differ only beyond the cut, or in what is replaced."""
    texts = [*(f"data.path={'x' * 300},seed={seed}" for seed in (1, 2)), "a=[1]", "a=(1)", "a=x/b", "a=y/b"]
    names = [folder_name(text) for text in texts]
    assert len(set(names)) == len(texts) and max(map(len, names)) < 120


# --- Jobs whose training is replaced by a function of their settings --------------------------------------------
def sweep(folder: Path, trained: Callable[[DictConfig], float], *overrides: str) -> tuple[Ended, list[DictConfig]]:
    """A sweep of `locus.train` in this process; returns its end and the settings of the jobs that were run."""
    jobs: list[DictConfig] = []

    def train(cfg: DictConfig) -> tuple[dict[str, Any], dict[str, Any]]:
        jobs.append(cfg)
        with open_run(cfg) as (cfg, run):
            final = {"headline": "val/mean_iou", "val/mean_iou": trained(cfg)}
            write_summary(run, final)
        return final, {}

    with mock.patch.object(locus.train, "train", train):
        return command("train", *overrides, f"hydra.sweep.dir={folder}"), jobs


def fails(errors: dict[int, BaseException]) -> Callable[[DictConfig], float]:
    """A training that ends in these errors for these seeds, and else in the seed."""

    def trained(cfg: DictConfig) -> float:
        if cfg.seed in errors:
            raise errors[cfg.seed]
        return float(cfg.seed)

    return trained


def summary(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "summary.json").read_text())


def test_failed_jobs_are_named_at_the_end(tmp_path):
    """A crash, such as running out of memory, that ends the sweep, or that nobody hears of."""
    errors = {1: LocusError("not\nso"), 2: RuntimeError("CUDA out of memory")}
    ended, jobs = sweep(tmp_path, fails(errors), "sweep=seeds")
    assert [job.seed for job in jobs] == [1, 2, 3], "sweep=seeds is a sweep without -m"
    assert ended.status == 2
    failed, crashed, hint = ended.stderr.splitlines()
    assert failed == f"locus: {tmp_path / 'seed-1'}: not so"
    assert crashed == f"locus: {tmp_path / 'seed-2'}: RuntimeError: CUDA out of memory"
    assert "2 of the sweep's jobs failed" in hint and f"hydra.sweep.dir={tmp_path}" in hint
    assert [summary(tmp_path / f"seed-{seed}")["status"] for seed in (1, 2, 3)] == ["failed", "crashed", "finished"]
    assert ["Traceback" in (tmp_path / f"seed-{seed}" / "train.log").read_text() for seed in (1, 2)] == [False, True]


def test_jobs_of_a_launch_are_numbered(tmp_path):
    """The policies of a sweep in the order in which they ended, or those of two launches mixed."""
    names: list[str] = []

    def trained(cfg: DictConfig) -> float:
        names.append(sweeps.job_of_launch())
        return 1.0

    for seeds in ("1,2", "3"):
        sweep(tmp_path, trained, "-m", f"seed={seeds}")
    launches, numbers = zip(*(name.rsplit(" ", 1) for name in names), strict=True)
    assert numbers == ("000000", "000001", "000000") and launches[0] == launches[1] < launches[2]
    assert sweeps.job_of_launch() is None


def test_an_interrupt_ends_the_sweep(tmp_path):
    """Ctrl-C that only ends one job of fifty."""
    ended, jobs = sweep(tmp_path, fails({1: KeyboardInterrupt()}), "-m", "seed=1,2")
    assert ended.status == 130 and len(jobs) == 1
    assert summary(tmp_path / "seed-1")["status"] == "interrupted"


def test_a_single_run_still_ends_with_its_error(tmp_path):
    """A run alone that fails, and is reported as one that ended well."""
    with mock.patch.object(locus.train, "train", side_effect=LocusError("no")):
        ended = command("train", f"hydra.run.dir={tmp_path}")
    assert (ended.status, ended.stderr) == (2, "locus: no\n") and not list(tmp_path.glob(".failures"))


def test_launched_again_with_more_values(tmp_path):
    """Jobs that are done twice, a failure of the launch before that is told again, an axis that cannot be extended."""
    sweep(tmp_path, fails({2: LocusError("no")}), "-m", "seed=1,2")
    ended, jobs = sweep(tmp_path, fails({}), "sweep=seeds")
    assert (ended.status, ended.stderr) == (0, "") and [job.seed for job in jobs] == [2, 3]
    assert f"{tmp_path / 'seed-1'}: finished by an earlier launch, skipped" in ended.stdout


def test_other_settings_are_refused(tmp_path):
    """Results of two settings under one name; the summary of a finished run replaced by the refusal."""
    names = "hydra.sweep.subdir=${seed}"
    sweep(tmp_path, fails({2: LocusError("no")}), "-m", "seed=1,2", names)
    ended, jobs = sweep(tmp_path, fails({}), "-m", "seed=1,2", names, "reward.alpha=0.5", "+optimizer.a=1")
    assert ended.status == 2 and [job.seed for job in jobs] == [2]
    says = "its folder holds a run with other settings (optimizer.a: none, now 1, reward.alpha: 0.1, now 0.5): "
    lines = ended.stderr.splitlines()
    assert len(lines) == 3
    for seed, line in zip((1, 2), lines, strict=False):
        assert line.startswith(f"locus: {tmp_path / str(seed)}: {says}")
    assert summary(tmp_path / "1") == {"status": "finished", "headline": "val/mean_iou", "val/mean_iou": 1.0}
    assert summary(tmp_path / "2") == {"status": "failed", "message": "no"}


def test_a_run_without_a_checkpoint_begins_anew(tmp_path):
    """Rows of the validation before step 1 that stay from the launch before, and are there twice; a lock that goes."""
    cfg = OmegaConf.create({"seed": 1, "place": "${seed}"})
    (tmp_path / ".hydra").mkdir()
    (tmp_path / "validation.parquet").mkdir()
    for name in ("metrics.csv", "train.log", WRITER, "validation.parquet/00000000-0000.parquet"):
        (tmp_path / name).touch()
    write_text(tmp_path / BEGUN_WITH, OmegaConf.to_yaml(cfg))
    assert resume_point(tmp_path, cfg) == (None, 0)
    assert {path.name for path in tmp_path.iterdir()} == {".hydra", "train.log", WRITER}


@pytest.mark.slow
def test_optuna_maximises_and_leaves_out_failed_trials(tmp_path):
    """A study that minimises, ends at its first failed trial, or asks other values when it is launched again."""

    def trained(cfg: DictConfig) -> float:
        if cfg.reward.alpha > 0.3:
            raise LocusError("no")
        return cfg.reward.alpha

    ended, jobs = sweep(tmp_path, trained, "sweep=optuna", "hydra.sweeper.n_trials=8")
    asked = [job.reward.alpha for job in jobs]
    best = yaml.safe_load((tmp_path / "optimization_results.yaml").read_text())
    assert ended.status == 2 and max(asked) > 0.3, "no trial failed"
    assert best["best_value"] == best["best_params"]["reward.alpha"] == max(one for one in asked if one <= 0.3)
    assert all(1e-4 <= job.algorithm.loss.kl_coefficient <= 1e-1 for job in jobs)
    assert all(1e-5 <= job.optimizer.make.lr <= 1e-3 for job in jobs)
    _, again = sweep(tmp_path, trained, "sweep=optuna", "hydra.sweeper.n_trials=9")
    assert [job.reward.alpha for job in again][:-1] == [one for one in asked if one > 0.3]


# --- Jobs beside each other -------------------------------------------------------------------------------------
BESIDE = """
import json, os, time
import hydra
from locus.run.runtime import entry_point, run_folder

@hydra.main(version_base="1.3", config_path="{conf}", config_name="train")
@entry_point
def main(cfg):
    time.sleep(3 * (cfg.seed > 2))  # the first are finished at once, as in a sweep that is launched again
    text = json.dumps([os.getpid(), os.environ["CUDA_VISIBLE_DEVICES"]])
    (run_folder(cfg) / "seen.json").write_text(text)

main()
"""


@pytest.mark.parametrize(("given", "seen"), [("4,7", ["4", "7", "4"]), ("GPU-8f6e", ["GPU-8f6e"] * 2), ("", [""])])
def test_each_process_has_the_next_device(tmp_path, monkeypatch, given, seen):
    """A device for each job, where a process that runs several can only ever use its first one's."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
    for device in seen:
        monkeypatch.setattr(sweeps, "_own_device", [])  # another process
        assert [sweeps.own_device(str(tmp_path)) for _ in range(3)] == [device] * 3


@pytest.mark.slow
def test_jobs_beside_each_other_see_a_device_each(tmp_path):
    """All on GPU 0 while the others idle; or a device that a process is given when it has begun on another."""
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    (tmp_path / "job.py").write_text(BESIDE.format(conf=CONF))
    sweep = tmp_path / "sweep"
    jobs = "hydra/launcher=cores", "hydra.launcher.n_jobs=2", "seed=1,2,3,4,5,6", f"hydra.sweep.dir={sweep}"
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "4,7", "PYTHONPATH": str(REPO)}
    succeeded(finish(spawn(tmp_path / "job.py", "-m", *jobs, env=environment)))
    seen = [json.loads(path.read_text()) for path in sweep.glob("*/seen.json")]
    devices = dict(map(tuple, seen))
    assert len(seen) == 6 and all(devices[process] == device for process, device in seen)
    assert sorted(devices.values()) == ["4", "7"]
    assert {path.name for path in sweep.iterdir() if not path.is_dir()} == {"multirun.yaml"}
    assert not (sweep / ".devices").exists()


def test_a_queue_is_told_a_number():
    """omegaconf's own words on a type, where the option that says trainer=ddp is meant to be told how many GPUs."""
    assert number_of(4) == 4
    with pytest.raises(LocusError, match=r"trainer\.devices=auto: give hydra/launcher=slurm the number"):
        number_of("auto")


def test_a_queue_without_a_number_is_refused_in_one_line(tmp_path):
    """Hydra's traceback above what is to be done."""
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    ended = command(
        "train", "-m", "seed=1", "hydra/launcher=slurm", "trainer=ddp", f"hydra.sweep.dir={tmp_path / 'sweep'}"
    )
    refused(ended, "trainer.devices=auto: give hydra/launcher=slurm the number")
