"""Runs that cannot be resumed: one line on stderr that names the damaged file and how to go on, and status 2."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from tests.support.interrupted import STEPS, cut, settings, written_by_another
from tests.support.runs import command, differences, metrics, refused, resume, train


def cut_in_half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def foreign(path: Path) -> None:
    torch.save({"state_dict": {}}, path)


def flipped(path: Path) -> None:
    """A bad block in the weights: the archive around them is whole."""
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 4096] = bytes(byte ^ 255 for byte in content[middle : middle + 4096])
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [cut_in_half, pytest.param(emptied, marks=pytest.mark.slow), foreign, flipped])
def test_a_corrupt_checkpoint_and_the_earlier_one(run, unbroken, damage):
    """A run that goes on from rubbish, or that gives up where the checkpoint before is whole."""
    newest = run / "checkpoints" / "step-000002.ckpt"
    damage(newest)
    refused(command("train", f"resume={run}"), str(newest), "corrupt", "step-000001.ckpt")
    if damage is cut_in_half:
        newest.unlink()  # as it says
        resume(run)
        assert list(differences(run, unbroken)) == []


def test_the_only_checkpoint_is_corrupt(run):
    """There is no earlier one to fall back to."""
    (run / "checkpoints" / "step-000001.ckpt").unlink()
    cut_in_half(run / "checkpoints" / "step-000002.ckpt")
    refused(command("train", f"resume={run}"), "step-000002.ckpt", "start the run anew")


def test_a_run_that_is_not_there(tmp_path):
    """A typo in the path, or another folder: it is no run, rather than a run without checkpoints."""
    (tmp_path / "other").mkdir()
    for name in ("absent", "other"):
        refused(command("train", f"resume={tmp_path / name}"), f"resume={tmp_path / name}", "folder of a run")


def test_a_run_that_goes_on(run, unbroken):
    """Two processes would write the same tables; the first may end as if nobody had come."""
    for name in ("summary.json", ".writer"):
        (run / name).unlink()
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    with written_by_another(run):
        refused(command("train", f"resume={run}"), str(run), "process 7 on here", "wait for its end")
    assert {path: path.read_bytes() for path in before} == before and not (run / "summary.json").exists()
    resume(run)
    assert list(differences(run, unbroken)) == []


def test_another_corpus_is_told(run):
    """An image that is gone, or one more: all crops are drawn anew, and held-out images are trained on."""
    record = json.loads((run / "run.json").read_text())
    assert "another corpus" not in resume(run).stdout
    cut(run, 2)
    (run / "run.json").write_text(json.dumps(record | {"corpus_hash": 64 * "0"}))
    assert "the data give another corpus" in resume(run).stdout


@pytest.mark.parametrize("lacks", ["checkpoints", ".hydra/resume.yaml"])
def test_a_folder_that_is_no_run(run, lacks):
    """A folder of something else, or of a run that was tidied up."""
    path = run / lacks
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    refused(command("train", f"resume={run}"), f"resume={run}", "start the run anew")


@pytest.mark.parametrize("text", ["", "seed: ["])
def test_a_configuration_that_is_none(run, text):
    """Emptied or cut, by a copy or a quota."""
    (run / ".hydra" / "resume.yaml").write_text(text)
    refused(command("train", f"resume={run}"), f"resume={run}", "resume.yaml")


def test_a_run_of_another_version(run):
    """A traceback, or a run that goes on without a part of its settings, because its groups were called otherwise."""
    begun = run / ".hydra" / "resume.yaml"
    begun.write_text(begun.read_text().replace("\ndiagnoses:\n", "\nevaluation:\n"))
    refused(command("train", f"resume={run}"), "resume.yaml", "another version", "no diagnoses", "start the run anew")


@pytest.mark.parametrize("name", ["rollouts.parquet", "validation.parquet", "metrics.csv"])
@pytest.mark.parametrize("text", [pytest.param("", marks=pytest.mark.slow), "not a table\n1,2\n"])
def test_tables_that_cannot_be_read(run, name, text):
    """A table of the run that is overwritten, or a traceback, because it is broken."""
    (run / name).write_text(text)
    refused(command("train", f"resume={run}"), str(run / name))
    assert (run / name).read_text() == text


def test_a_checkpoint_of_another_model(run):
    """A resumed run whose backbone changed: torch's list of a hundred keys."""
    change = "backbone=tiny_random", "backbone.path=null", "backbone.architecture.text_layers=3"
    refused(command("train", f"resume={run}", *change), "checkpoint")


# --- Settings of the resume -----------------------------------------------------------------------------------
def test_other_held_out_examples_are_refused(folder, unbroken):
    """A run that trains to its end, and whose page, which pairs first and last validation, is a traceback for good."""
    cut(folder, 2)
    refused(command("train", f"resume={folder}", "data.validation_examples=2"), "held-out examples", "2 instead of 4")
    resume(folder)
    assert list(differences(folder, unbroken)) == []


@pytest.mark.parametrize(
    ("step", "change", "says"),
    [
        (2, "optimizer.make.lr=fast", "optimizer"),
        (3, "trainer.max_seconds=1e-6", "trainer.max_seconds=1e-06: the run is at step 3 already"),
    ],
)
def test_a_refused_resume_leaves_no_trace(folder, unbroken, step, change, says):
    """Its settings stay, and the plain resume is refused as well; or an earlier validation's numbers are the end's."""
    cut(folder, step)
    refused(command("train", f"resume={folder}", change), says)
    resume(folder)
    assert list(differences(folder, unbroken)) == []


def test_a_curriculum_that_the_run_did_not_begin_with(tmp_path):
    """It trained one step by shares that are not there, kept the setting, and could not be resumed any more."""
    run = tmp_path / "run"
    train(run, *settings(), "task=mixture", "task@task.parts.other=rotation", "task.shares.other=0")
    whole = shutil.copytree(run, tmp_path / "whole")
    cut(run, 3)
    curriculum = "{_target_:locus.tasks.by_spread.BySpread,window:8,floor:0.1}"
    ended = command("train", f"resume={run}", "task=mixture", f"task.curriculum={curriculum}")
    refused(ended, "task.curriculum", "give null")
    resume(run)
    assert list(differences(run, whole)) == []


def test_a_value_that_an_earlier_validation_has_reached(tmp_path):
    """The numbers of step 2 for those of the policy of step 3."""
    train(tmp_path, *settings(), "trainer.stop_at=1")
    cut(tmp_path, 3)
    refused(command("train", f"resume={tmp_path}", "trainer.stop_at=0"), "trainer.stop_at=0: the run is at step 3")
    resume(tmp_path)
    assert metrics(tmp_path)["step"].max() == STEPS


def test_a_refused_resume_of_a_finished_run(folder):
    """A run that is finished no longer, for a typo."""
    names = "summary.json", "config.yaml", ".hydra/resume.yaml", "run.json"
    before = {name: (folder / name).read_bytes() for name in names}
    refused(command("train", f"resume={folder}", "optimizer.make.lr=fast", "trainer.steps=6"), "optimizer")
    assert {name: (folder / name).read_bytes() for name in names} == before
