"""What a run says at its end, where it was resumed: of its own last policy, and of the process that trained it."""

from __future__ import annotations

import json

import pandas as pd

import locus.train
from tests.support.interrupted import STEPS, cut, killed
from tests.support.runs import resume


def test_the_diagnoses_of_an_earlier_end_are_none(folder):
    """Claims and scores of the policy that a finished run had before it went on; a user's table that goes with them."""
    measured = pd.DataFrame({"policy": ["before", "after"], "item": "a", "unit": "a", "score": [0.0, 1.0]})
    measured.to_parquet(folder / "questions.parquet")
    measured.drop(columns="policy").to_parquet(folder / "mine.parquet")
    (folder / "claims.csv").write_text("name,verdict\n")
    resume(folder)
    assert (folder / "questions.parquet").exists(), "no step was taken: it is of this policy"
    resume(folder, f"trainer.steps={STEPS + 1}", "diagnoses.enabled=false")
    assert not (folder / "questions.parquet").exists() and (folder / "mine.parquet").exists()
    claims = pd.read_csv(folder / "claims.csv")
    assert set(claims.loc[claims["verdict"] != "not measured", "name"].str[:2]) == {"H1"}


def test_a_table_of_validations_that_is_moved_away(folder, unbroken):
    """A traceback once all is trained, or a later policy that is taken for the base."""
    cut(folder, 1)
    (folder / "validation.parquet").unlink()
    resume(folder)
    assert sorted(set(pd.read_parquet(folder / "validation.parquet")["step"])) == [2, 4]
    whole, ours = ((one / "report.html").read_text().lower() for one in (unbroken, folder))
    for words in ("of cue search, held out: ", "base: ", "validation images", "paired bootstrap over the images"):
        assert words in whole and words not in ours


def test_memory_is_that_of_the_process_that_trained(folder):
    """A run whose diagnoses were killed: the peak of a process that took no step stands beside its plan."""
    cut(folder, STEPS)
    record = json.loads((folder / "run.json").read_text())
    record |= {"peak_memory_gb": 77.0, "outcome": {"peak_gb": 76.0, "seconds_per_step": {}}}
    (folder / "run.json").write_text(json.dumps(record))
    killed(lambda: resume(folder), locus.train, "export", lambda *_: True)  # again, before it has come that far
    resume(folder)
    now = json.loads((folder / "run.json").read_text())
    assert (now["peak_memory_gb"], now["outcome"]) == (77.0, record["outcome"])
