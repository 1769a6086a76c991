"""Logged runs as tables: what differs, what became of them, means over seeds."""

from __future__ import annotations

import json
import math
from pathlib import Path
from unittest import mock

import numpy as np
import pandas as pd
import pytest
import yaml

from locus.analysis import ablations, runs
from locus.analysis.pages.sweep import means_over_seeds, setting_of, table_of
from locus.analysis.paper import ABLATIONS, RESULTS, ablation_of, against_locus, paper_table
from locus.errors import LocusError


def write_run(folder: Path, seed: int, lr: float, iou: float | None, **more: object) -> Path:
    """What a run leaves, as far as tables read it; without a last validation it is unfinished."""
    folder.mkdir(parents=True)
    settings = {"seed": seed, "name": "train", "optimizer": {"lr": lr}, "data": {"source": {"seed": seed}}, **more}
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    (folder / "metrics.csv").write_text("step,train/iou\n1,0.1\n2,0.2\n")
    if iou is not None:
        (folder / "summary.json").write_text(json.dumps({"status": "finished", "val/mean_iou": iou}))
        (folder / "run.json").write_text(json.dumps({"seconds_per_phase": {"rollout": 2.0}, "peak_memory_gb": 1.5}))
    return folder


@pytest.fixture
def sweep(tmp_path) -> Path:
    """Two rates with two seeds each, and a run that was killed."""
    for number, (seed, lr, iou) in enumerate(
        [(1, 0.1, 0.4), (2, 0.1, 0.6), (1, 0.2, 0.7), (2, 0.2, 0.7), (3, 0.2, None)]
    ):
        write_run(tmp_path / "sweep" / str(number), seed, lr, iou)
    return tmp_path / "sweep"


def test_one_row_a_run(sweep):
    """A setting that is alike in all shown as a difference, a seed as one, or an unfinished run lost."""
    frame = runs.load(sweep)
    assert frame["run"].tolist() == list("01234") and frame["status"].tolist() == ["finished"] * 4 + ["unfinished"]
    assert frame["optimizer.lr"].tolist() == [0.1, 0.1, 0.2, 0.2, 0.2] and frame["step"].eq(2).all()
    assert {name for name in frame if "." in name and "/" not in name} == {"optimizer.lr"}
    assert frame["time/rollout_s"].sum() == 8 and frame["seed"].tolist() == [1, 2, 1, 2, 3]
    alone = runs.load(sweep / "3")
    assert alone["run"].tolist() == ["3"] and alone["val/mean_iou"].tolist() == [0.7]
    assert runs.metrics(sweep).groupby("run")["train/iou"].max().tolist() == [0.2] * 5


def test_what_differs_is_sought_once(sweep, monkeypatch):
    """All settings of all runs compared for each run anew: minutes for a sweep of hundreds."""
    sought = mock.Mock(wraps=runs.differing)
    monkeypatch.setattr(runs, "differing", sought)
    runs.load(sweep)
    assert sought.call_count <= 2, "of groups and of settings"


def test_what_lies_in_a_run_is_no_run(sweep):
    """W&B's copy of the configuration as a further, unfinished run beside each that was logged online."""
    copy = sweep / "1" / "wandb" / "run-20260101_000000-a" / "files" / "config.yaml"
    copy.parent.mkdir(parents=True)
    copy.write_text("_wandb: {value: {}}\n")
    assert runs.load(sweep)["run"].tolist() == list("01234") and runs.axes(runs.load(sweep)) == ["optimizer.lr"]
    assert runs.find(sweep / "1") == [sweep / "1"]


def test_pretraining_stands_beside_no_run(sweep):
    """``runs=outputs``: the backbone's lessons as a run whose settings all differ from the others'."""
    lessons = write_run(sweep / "pretrain" / "0", 0, 0.1, None, lessons={"patch_lessons": 10})
    assert lessons not in runs.find(sweep) and len(runs.find(sweep)) == 5
    assert runs.find(sweep / "pretrain") == [lessons]


def test_where_its_plan_lies_is_no_setting(sweep):
    """One seed that was planned as a setting of its own, set against the others."""
    write_run(sweep / "5", 3, 0.2, 0.7, planned="outputs/plan/A")
    assert runs.axes(runs.load(sweep)) == ["optimizer.lr"]


def test_a_part_without_a_share_is_no_setting(tmp_path):
    """Seeds of one task as two settings, for what was not mixed in was another task."""
    for seed, other in ((1, "Rotation"), (2, "Jigsaw")):
        parts = {"main": {"_target_": "CueSearch"}, "other": {"_target_": other, "alpha": seed}}
        task = {"parts": parts, "shares": {"main": 1, "other": 0}}
        write_run(tmp_path / "sweep" / other, seed, 0.1, 0.5, task=task)
    assert runs.axes(runs.load(tmp_path / "sweep")) == []


def test_scores_of_their_policies(sweep, tmp_path):
    """A score beside another run's row; one of a served policy, which may have been asked in process before, lost."""
    rows = [(sweep / "2" / "policy", "vstar", 50.0), (sweep / "0" / "policy", "vstar", 30.0), ("tiny", "vstar", 1.0)]
    rows += [(f"endpoint:{sweep / '0' / 'policy'}", "vstar", 40.0)]
    pd.DataFrame(rows, columns=["policy", "benchmark", "value"]).to_csv(tmp_path / "scores.csv")
    scores = runs.load(sweep, tmp_path / "scores.csv")["score/vstar"]
    assert scores.dropna().to_dict() == {0: 40.0, 2: 50.0}


def test_scores_of_no_run_are_named(sweep, tmp_path, caplog):
    """A page without the scores that it was given, and no word of it: folders that were moved since."""
    table = pd.DataFrame({"policy": ["/elsewhere/0/policy"], "benchmark": "vstar", "value": 50.0})
    table.to_csv(tmp_path / "scores.csv")
    assert "score/vstar" not in runs.load(sweep, tmp_path / "scores.csv")
    (said,) = caplog.messages
    assert f"scores={tmp_path / 'scores.csv'}: " in said and "/elsewhere/0/policy" in said


def test_wrong_input(sweep, tmp_path):
    """Each with the file's name."""
    with pytest.raises(LocusError, match="nothing: no run below it"):
        runs.load(tmp_path / "nothing")
    (sweep / "1" / "summary.json").write_text("{")
    with pytest.raises(LocusError, match=r"summary\.json: broken"):
        runs.load(sweep)
    (sweep / "1" / "config.yaml").write_text("a: [")
    with pytest.raises(LocusError, match=r"config\.yaml: no configuration"):
        runs.load(sweep)


def test_over_seeds_by_hand(sweep):
    """The spread of runs in place of the mean's interval; unfinished runs counted."""
    table = ablations.over_seeds(runs.load(sweep), ["optimizer.lr"], {"val/mean_iou": "IoU"})
    assert table["runs"].tolist() == [2, 2] and table["IoU"].tolist() == pytest.approx([0.5, 0.7])
    # Two values 0.4 and 0.6: standard deviation 0.1414, of the mean 0.1, times t(1) = 12.706.
    assert table["IoU ±"].tolist() == pytest.approx([1.2706, 0.0], abs=1e-9)
    assert math.isnan(ablations.half_interval([0.5]))
    assert [ablations.t_95(n) for n in (9, 10, 20, 60)] == pytest.approx([2.262, 2.228, 2.086, 2.000], abs=3e-3)
    wide = np.random.default_rng(0).normal(0, 1, (4000, 3))
    covered = np.mean([abs(row.mean()) <= ablations.half_interval(row) for row in wide])
    assert covered == pytest.approx(0.95, abs=0.015)


def test_a_run_without_a_score_narrows_no_interval():
    """A mean of two runs with the interval of three: a third seed whose benchmark nobody has scored."""
    frame = pd.DataFrame({"seed": [1, 2, 3], "status": "finished", "lr": 0.1, "score": [0.4, 0.6, math.nan]})
    (row,) = ablations.over_seeds(frame, ["lr"], {"score": "score"}).to_dict("records")
    assert row["score"] == pytest.approx(0.5) and row["score ±"] == pytest.approx(1.2706)
    assert math.isnan(ablations.half_interval([0.4, math.nan]))


def test_saved_tables(sweep, tmp_path):
    """An underscore that ends a LaTeX run, a column of halves, numbers rounded in the CSV."""
    frame = runs.load(sweep).rename(columns={"optimizer.lr": "learning_rate"})
    ablations.save(ablations.over_seeds(frame, ["learning_rate"], {"val/mean_iou": "IoU"}), tmp_path / "tables" / "t")
    text = (tmp_path / "tables" / "t.md").read_text().splitlines()
    assert text[0] == "| learning_rate | runs | IoU |" and text[2] == "| 0.100 | 2 | 0.500 ± 1.271 |"
    assert r"learning\_rate & runs & IoU \\" in (tmp_path / "tables" / "t.tex").read_text()
    assert r"0.500 $\pm$ 1.271 \\" in (tmp_path / "tables" / "t.tex").read_text()
    assert pd.read_csv(tmp_path / "tables" / "t.csv")["IoU ±"].iloc[0] == pytest.approx(1.2706, abs=1e-4)


def test_settings_are_told_as_they_were_set(sweep):
    """Two learning rates as 0.000, a number of heads that one run lacks as 8.000, a seed as 1.000."""
    for number, folder in enumerate(sorted(sweep.iterdir())):
        settings = {"optimizer": {"lr": (1e-4, 2e-4)[number % 2]}}
        settings |= {"seed": number, "heads": {"number": 8}} if number else {}
        (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    frame = runs.load(sweep)
    assert frame["heads.number"].dtype == float, "the gap makes it one"
    table = table_of(frame)
    assert table["optimizer.lr"].tolist() == ["0.0001", "0.0002", "0.0001", "0.0002", "0.0001"]
    assert table["heads.number"].tolist() == ["", "8", "8", "8", "8"]
    assert table["seed"].tolist() == ["", "1", "2", "3", "4"]
    assert table["mean IoU"].tolist() == ["0.400", "0.600", "0.700", "0.700", ""]
    means = means_over_seeds(frame)
    assert means["optimizer.lr"].tolist() == ["0.0001", "0.0002", "0.0001"] and set(means["heads.number"]) == {"", "8"}
    assert setting_of(frame).tolist() == ["0.0001, ", *["0.0002, 8", "0.0001, 8"] * 2]


def test_marks_of_latex_are_text():
    """A backslash whose own braces are escaped, too; a caret or a tilde that ends a LaTeX run, or is lost."""
    text = ablations.latex(pd.DataFrame({"a^b": [r"~\{x}_1 ± 50 %"]}))
    assert r"a\textasciicircum{}b \\" in text
    assert r"\textasciitilde{}\textbackslash{}\{x\}\_1 $\pm$ 50 \% \\" in text


@pytest.fixture
def table7(tmp_path) -> Path:
    """Random and object crops, two seeds each; questions before and after."""
    number = 0
    for seed, random, locus in ((1, 0.2, 0.4), (2, 0.3, 0.6)):
        for crop, iou in (("object", locus), ("random", random)):
            folder = write_run(tmp_path / "table7" / str(number), seed, 0.1, iou, crop={"_target_": crop, "side": 1})
            (folder / "metrics.csv").write_text(f"step,train/iou,val/mean_iou\n0,,{seed / 10}\n1,0.1,{iou}\n")
            record = {"hydra": {"runtime": {"choices": {"experiment": "table7", "crop": crop, "hydra/launcher": "x"}}}}
            (folder / ".hydra").mkdir()
            (folder / ".hydra" / "hydra.yaml").write_text(yaml.safe_dump(record))
            scores = [("before", 0.0), ("before", 1.0), ("after", 1.0), ("after", float(crop == "object"))]
            questions = [{"policy": policy, "benchmark": "attributes", "score": score} for policy, score in scores]
            pd.DataFrame(questions).to_parquet(folder / "questions.parquet")
            number += 1
    return tmp_path / "table7"


def test_groups_tell_runs_apart(table7):
    """A row for each value below a group in place of one for its option; an experiment that is not known any more."""
    frame = runs.load(table7)
    assert runs.axes(frame) == ["crop"] and frame["crop._target_"].tolist() == ["object", "random"] * 2
    assert runs.experiment(runs.find(table7)) == "table7"
    assert frame["score/attributes"].tolist() == [1.0, 0.5] * 2 and frame["base/score/attributes"].eq(0.5).all()
    assert frame["base/val/mean_iou"].tolist() == [0.1, 0.1, 0.2, 0.2]


def test_settings_within_a_group_are_no_seeds(table7):
    """Another minimum side pooled with the first as if it were one more seed; a setting that some runs lack."""
    config = table7 / "3" / "config.yaml"
    config.write_text(config.read_text().replace("side: 1", "side: 2"))
    frame = runs.load(table7)
    assert runs.axes(frame) == ["crop", "crop.side"]
    config.write_text(config.read_text().replace("side: 2", "share: null"))
    assert setting_of(runs.load(table7)).tolist() == ["object, 1", "random, 1", "object, 1", "random, "]


def test_the_papers_table_takes_settings_for_no_seeds(table7):
    """Two minimum sides in one mean, as if they were two seeds; of the difference only one of them."""
    for name in "23":  # of the second seed
        config = table7 / name / "config.yaml"
        config.write_text(config.read_text().replace("side: 1", "side: 2"))
    frame = runs.load(table7)
    table = paper_table(frame, ABLATIONS["table7"])
    assert table["crop"].tolist() == ["base"] * 2 + ["random"] * 2 + ["object"] * 2 and table["runs"].eq(1).all()
    assert table["cue search IoU"].tolist()[:2] == pytest.approx([0.1, 0.2]), "each base beside its own runs"
    less = against_locus(frame, ABLATIONS["table7"])
    assert less["crop.side"].tolist() == [1, 2] and less["cue search IoU"].tolist() == pytest.approx([0.2, 0.3])


def test_copies_of_settings_are_left_out(sweep):
    """A rate that is an axis twice, under its own name and where the method copies it."""
    for folder in sweep.iterdir():
        config = yaml.safe_load((folder / "config.yaml").read_text())
        (folder / "config.yaml").write_text(yaml.safe_dump(config | {"method": {"optimizer": config["optimizer"]}}))
        (folder / ".hydra").mkdir()
        (folder / ".hydra" / "resume.yaml").write_text("optimizer: {lr: 0.1}\nmethod: {optimizer: '${optimizer}'}\n")
    assert runs.axes(runs.load(sweep)) == ["optimizer.lr"]


def test_a_setting_that_one_run_copies_is_an_axis(sweep):
    """A rate that one run takes from its backbone's recipe and another names: a column with a gap."""
    for number, folder in enumerate(sorted(sweep.iterdir())):
        (folder / ".hydra").mkdir()
        rate = "0.1" if number else "${backbone.recipe.lr}"
        (folder / ".hydra" / "resume.yaml").write_text(f"optimizer: {{lr: '{rate}'}}\n")
    frame = runs.load(sweep)
    assert runs.axes(frame) == ["optimizer.lr"] and frame["optimizer.lr"].notna().all()


def test_a_group_within_a_group_is_one_axis(sweep):
    """``trainer/order`` as a column of class names, and one more for each key that only one of its options has."""
    for number, folder in enumerate(sorted(sweep.iterdir())):
        option = ("uniform", "balanced")[number % 2]
        settings = yaml.safe_load((folder / "config.yaml").read_text())
        settings |= {
            "optimizer": {"lr": 0.1},
            "trainer": {"order": {"_target_": f"locus.tasks.order.{option.title()}"}},
        }
        (folder / "config.yaml").write_text(yaml.safe_dump(settings))
        (folder / ".hydra").mkdir()
        record = {"hydra": {"runtime": {"choices": {"trainer": "cpu", "trainer/order": option, "hydra/launcher": "x"}}}}
        (folder / ".hydra" / "hydra.yaml").write_text(yaml.safe_dump(record))
    frame = runs.load(sweep)
    assert runs.axes(frame) == ["trainer.order"]
    assert frame["trainer.order"].tolist() == ["uniform", "balanced", "uniform", "balanced", "uniform"]


def test_a_table_of_unfinished_runs(table7):
    """A report while the sweep runs: a base of a run that failed, a crash where nothing has ended yet."""
    (table7 / "0" / "summary.json").unlink()
    table = paper_table(runs.load(table7), ABLATIONS["table7"])
    assert table["crop"].tolist() == ["base", "random", "object"] and table["runs"].tolist() == [2, 2, 1]
    for file in table7.glob("*/summary.json"):
        file.unlink()
    assert ablation_of(runs.load(table7), "table7") is None and ablation_of(runs.load(table7), None) is None


def test_scores_stand_in_the_papers_columns(table7, tmp_path):
    """Scores of the real benchmarks that were loaded and shown nowhere."""
    rows = [(table7 / str(number) / "policy", "vstar", 10.0 * number) for number in range(4)]
    pd.DataFrame(rows, columns=["policy", "benchmark", "value"]).to_csv(tmp_path / "scores.csv")
    table = paper_table(runs.load(table7, tmp_path / "scores.csv"), ABLATIONS["table7"])
    assert table["V*"].tolist()[1:] == [20.0, 10.0] and math.isnan(table["V*"].iloc[0])


def test_the_paper_table_by_hand(table7):
    """The base among the trained, rows in another order than the paper's, or seeds compared across each other."""
    frame = runs.load(table7)
    table = paper_table(frame, ABLATIONS["table7"])
    assert table["crop"].tolist() == ["base", "random", "object"] and table["runs"].eq(2).all()
    assert table["cue search IoU"].tolist() == pytest.approx([0.15, 0.25, 0.5])
    assert table["attributes"].tolist() == pytest.approx([0.5, 0.5, 1.0])
    assert table["paper: V*"].tolist() == ["79.6", "81.2", "87.4"]
    less = against_locus(frame, ABLATIONS["table7"])
    assert less["LOCUS less crop"].tolist() == ["random"] and less["seeds"].tolist() == [2]
    # Differences 0.2 and 0.3: mean 0.25, standard deviation of the mean 0.05, times t(1) = 12.706.
    assert less["cue search IoU"].tolist() == pytest.approx([0.25])
    assert less["cue search IoU ±"].tolist() == pytest.approx([12.706 * 0.05], rel=1e-3)


@pytest.mark.parametrize("name", ABLATIONS)
def test_the_papers_ablations_are_whole(name):
    """A row with a number too few, or a LOCUS that is no row."""
    ablation = ABLATIONS[name]
    assert ablation.locus in ablation.rows and set(ablation.benchmarks) <= set(RESULTS)
    assert {len(row) for row in [ablation.base, *ablation.rows.values()]} == {len(ablation.benchmarks)}


def test_families_of_questions_are_told_apart(sweep):
    """Sparse scenes averaged into the score of crowded ones."""
    rows = [("crowded", "before", 0.0), ("crowded", "after", 1.0), ("sparse", "before", 1.0), ("sparse", "after", 0.0)]
    table = pd.DataFrame(rows, columns=["family", "policy", "score"]).assign(benchmark="counting")
    table.to_parquet(sweep / "0" / "questions.parquet")
    first = runs.load(sweep).iloc[0]
    assert first[["base/score/counting", "score/counting", "score/sparse: counting"]].tolist() == [0.0, 1.0, 0.0]
