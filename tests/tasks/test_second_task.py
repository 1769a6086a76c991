"""A tenth task proves that tasks are a part: one file and its yaml train, with no file of the package touched."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
from hydra.utils import instantiate

from locus.analysis.diagnoses.proxy_tasks import ProxyTasks
from locus.tasks.answers import completion_text
from tests.support import runs
from tests.tasks import unmirrored

YAML = """\
# Which of four pictures is image 1, not its mirror image?
_target_: tests.tasks.unmirrored.Unmirrored
source:
  _target_: locus.scenes.source.SceneSource
  count: 1
  width: 64
  height: 64
  objects: [4, 5]
  object_side: [10, 16]
  seed: 99
train: 12
validation: 4
"""
BENCHMARK = """\
# The same, asked of any policy.
defaults:
  - /task@task: unmirrored
_target_: locus.evaluation.benchmark.TaskBenchmark
frame: ${backbone.frame}
"""


@pytest.fixture
def configs(tmp_path: Path) -> str:
    """The override that adds a folder with the task's own file."""
    folder = tmp_path / "conf" / "task"
    folder.mkdir(parents=True)
    (folder / "unmirrored.yaml").write_text(YAML)
    (tmp_path / "conf" / "benchmark").mkdir()
    (tmp_path / "conf" / "benchmark" / "unmirrored.yaml").write_text(BENCHMARK)
    return f"hydra.searchpath=[file://{folder.parent}]"


def test_the_task_is_short():
    """A whole proxy task has at most 60 lines."""
    assert len(Path(unmirrored.__file__).read_text().splitlines()) <= 60


def test_it_trains_through_the_public_entry_point(tmp_path: Path, configs: str):
    """Two steps of ``locus.train task=unmirrored``: pre-flight, tables, scalars under its own names, its headline."""
    ended = runs.train(tmp_path / "run", configs, "task=unmirrored", "trainer.steps=2")
    assert "gold earns 1.000, foil earns 0.100" in ended.stdout + ended.stderr
    logged = pd.read_csv(tmp_path / "run" / "metrics.csv")
    assert {"train/reward", "train/accuracy", "train/format", "val/accuracy", "val/format"} <= set(logged)
    assert not [name for name in logged if "iou" in name]
    rollouts = pd.read_parquet(tmp_path / "run" / "rollouts.parquet")
    assert len(rollouts) == 2 * 2 * 4 and set(rollouts["status"]) <= {"ok", "truncated", "no_answer_tag"}
    validation = pd.read_parquet(tmp_path / "run" / "validation.parquet")
    assert set(validation["example_id"]) == {f"puzzle-{index}" for index in range(12, 16)}
    assert (tmp_path / "run" / "report.html").is_file() and (tmp_path / "run" / "policy" / "config.json").is_file()


def test_a_sweep_of_tasks_takes_it_by_one_value(configs: str, compose_app):
    """``experiment=tasks`` and its transfer matrix that know the nine tasks by name, and no tenth."""
    sizes = "data.source.count=64", "data.train_examples=8", "data.validation_examples=4"
    axes = "task@task.parts.main=unmirrored", "task@task.parts.other=cue_search", "task.shares.other=1"
    asked = "+task@diagnoses.proxy_tasks.tasks.unmirrored=unmirrored"
    config = compose_app("train", [configs, "experiment=tasks", "scale=tiny", *sizes, *axes, asked])
    task = instantiate(config.task, _convert_="all")
    assert dict(task.shares()) == {"unmirrored": 0.5, "cue_search": 0.5}
    assert task.headline == "accuracy" and "puzzle" in task.examples("validation")[0].example_id
    column = {"unmirrored": instantiate(config.diagnoses.proxy_tasks.tasks.unmirrored)}
    assert ProxyTasks(column, config.diagnoses.proxy_tasks.frame).tasks["unmirrored"].name == "unmirrored"


def test_supervised_training_learns_its_gold_answers(tmp_path: Path, configs: str):
    """SFT needs no more of a task than GRPO does."""
    runs.train(tmp_path / "run", configs, "task=unmirrored", "trainer.steps=2", "algorithm=sft")
    logged = pd.read_csv(tmp_path / "run" / "metrics.csv")
    assert logged["train/loss"].notna().sum() == 2


def test_a_gold_answer_that_does_not_earn_one_ends_the_run(tmp_path: Path, configs: str, monkeypatch):
    """The pre-flight must fail before step 1 when gold and grade do not fit, whatever the task."""
    monkeypatch.setattr(unmirrored.Unmirrored, "gold", lambda self, example, view: completion_text("one"))
    ended = runs.command(
        "train", *runs.SMALLEST, f"hydra.run.dir={tmp_path / 'run'}", configs, "task=unmirrored", "trainer.steps=2"
    )
    runs.refused(ended, "pre-flight", "gold answer earns 0.100", "unmirrored")
    assert not (tmp_path / "run" / "metrics.csv").exists()


def test_a_benchmark_asks_its_held_out_examples(tmp_path: Path, configs: str):
    """The fourth client: ``locus.evaluate`` grades as training does, under the task's own names."""
    folder = tmp_path / "evaluated"
    runs.succeeded(runs.command("evaluate", configs, "benchmark=unmirrored", f"folder={folder}"))
    row = pd.read_csv(folder / "scores.csv").iloc[0]
    assert (row["benchmark"], row["score"], row["n"]) == ("unmirrored", "accuracy", 4)
    (scores,) = folder.rglob("scores.json")
    assert set(json.loads(scores.read_text())["scores"]["locus"]) == {"reward", "accuracy", "format"}
