"""Lines of progress in the log: when they come, what they say, and that each long command writes them."""

from __future__ import annotations

import json
import logging
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from locus.analysis.diagnoses.shared import measure
from locus.errors import LocusError
from locus.evaluation.predictions import Prediction, PredictionFile
from locus.files import progress
from locus.files.progress import INTERVAL, Progress, set_interval, tracked, within
from tests.support.runs import command, refused, resume, succeeded, train

ALWAYS = "progress.every=0"
LINE = re.compile(
    r"\[locus\]\[INFO\] - (?P<what>[^\n]*?): (?P<done>\d+)/(?P<total>\d+) (?P<unit>\w+), (?P<rate>[\d.,]+) \w+/min"
    r"(?P<rest>[^\n]*)"
)


class Clock:
    """A clock that stands still until it is told to go on."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(autouse=True)
def default_interval() -> Iterator[None]:
    """Commands of these tests leave their own interval behind."""
    set_interval(INTERVAL)
    yield
    set_interval(INTERVAL)


def lines(file: Path, what: str) -> list[re.Match[str]]:
    """The lines of a log that begin with this name."""
    return [line for line in LINE.finditer(file.read_text()) if line["what"] == what]


# --- One piece of work ------------------------------------------------------------------------------------------
def test_rate_and_time_left_by_hand(caplog):
    """Items of an earlier run counted into the rate, or a time left that is of the whole work."""
    clock = Clock()
    work = Progress("scenes", 100, done=40, clock=clock)
    with caplog.at_level(logging.INFO, "locus"):
        for seconds, done in ((4, 44), (20, 50), (80, 90), (85, 100)):
            clock.now = 1000 + seconds
            work.reach(done)
    assert caplog.messages == [
        # 10 new ones in 20 s are 30 a minute; the other 50 take 100 s.
        "scenes: 50/100 items, 30.0 items/min, ETA 0:01:40",
        # 50 in 80 s are 37.5 a minute; 10 take 16 s.
        "scenes: 90/100 items, 37.5 items/min, ETA 0:00:16",
        # Not due, but the last: 60 in 85 s.
        "scenes: 100/100 items, 42.4 items/min, took 0:01:25",
    ]


def test_slow_and_fast_work_by_hand():
    """A rate rounded to 0, and a line that nobody can read."""
    line = Progress("training", 300, "steps").line
    assert line(3, 3600, {"train/reward": 0.41237}) == (
        "training: 3/300 steps, 0.0500 steps/min, ETA 4 days, 3:00:00, train/reward 0.4124"
    )
    assert line(200, 1, {}) == "training: 200/300 steps, 12,000 steps/min, ETA 0:00:00"
    assert line(0, 30, {}) == "training: 0/300 steps, 0.00 steps/min"


def test_lines_come_every_ten_seconds_then_every_minute(caplog):
    """A log that is flooded, or silent for the minutes in which one wants to see that the work goes on."""
    clock = Clock()
    work = Progress("training", 10_000, "steps", clock=clock)
    with caplog.at_level(logging.INFO, "locus"):
        seen = []
        for second in range(1, 601):
            clock.now = 1000 + second
            work.reach(second)
            if len(caplog.messages) > len(seen):
                seen.append(second)
    assert seen == [*range(10, 300, 10), 350, 410, 470, 530, 590]


def test_interval(caplog):
    """A setting that changes nothing: fewer lines later, more of them at once, or none that is a number."""
    counts = {}
    for seconds in (0, 5, 120):
        set_interval(seconds)
        clock, work = Clock(), None
        caplog.clear()
        with caplog.at_level(logging.INFO, "locus"):
            work = Progress("training", 10_000, clock=clock)
            for second in range(1, 601):
                clock.now = 1000 + second
                work.reach(second)
        counts[seconds] = len(caplog.messages)
    assert counts == {0: 600, 5: 120, 120: 29 + 2}
    for wrong in (-1, "soon", None, True, float("nan")):
        with pytest.raises(LocusError, match=r"progress\.every"):
            set_interval(wrong)


def test_short_work_is_silent(caplog):
    """A line for each of a sweep's hundred short jobs."""
    with caplog.at_level(logging.INFO, "locus"):
        assert list(tracked("abc", "letters", 3)) == ["a", "b", "c"]
    assert caplog.messages == []


def test_tracked_counts_what_is_done(caplog):
    """An item that is counted before it is worked on; the name of the work around it left out."""
    set_interval(0)
    with caplog.at_level(logging.INFO, "locus"), within("attention of before"):
        for item in tracked("ab", "letters", 2):
            logging.getLogger("locus").info("work on %s", item)
    said = [message.split(",")[0] for message in caplog.messages]
    counts = [f"attention of before: letters: {done}/2 items" for done in (1, 2)]
    assert said == ["work on a", counts[0], "work on b", counts[1]]
    assert Progress("letters", 2).what == "letters", "the name stays behind"


@pytest.mark.parametrize(("terminal", "bar", "printed"), [(True, True, 0), (True, False, 1), (False, True, 1)])
def test_a_progress_bar_is_not_torn(tmp_path, monkeypatch, capsys, terminal, bar, printed):
    """A line in the middle of a bar, where there is one; the file has it in any case."""
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal)
    monkeypatch.setattr(logging.root, "handlers", [logging.StreamHandler(sys.stdout)])
    logging.root.addHandler(file := logging.FileHandler(tmp_path / "run.log"))
    monkeypatch.setattr(progress.log, "level", logging.INFO)
    set_interval(0)
    Progress("training", 2, "steps", bar=bar).reach(1)
    file.close()
    assert (tmp_path / "run.log").read_text().count("training: 1/2 steps") == 1
    assert capsys.readouterr().out.count("training: 1/2 steps") == printed


# --- The commands -----------------------------------------------------------------------------------------------
@pytest.fixture
def counted(monkeypatch) -> list[Progress]:
    """All work that trainings and evaluations count from here on."""
    made: list[Progress] = []

    class Recorded(Progress):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            made.append(self)

    monkeypatch.setattr("locus.run.callbacks.Progress", Recorded)
    monkeypatch.setattr("locus.evaluation.evaluator.Progress", Recorded)
    return made


def test_training(tmp_path, counted):
    """A log that is silent for the whole training; a rate of a resumed run that counts its earlier steps."""
    train(tmp_path, ALWAYS, "trainer.steps=2")
    steps = lines(tmp_path / "train.log", "training")
    assert [(line["done"], line["total"], line["unit"]) for line in steps] == [("1", "2", "steps"), ("2", "2", "steps")]
    assert re.fullmatch(
        r", ETA 0:\d\d:\d\d, train/reward [\d.]+, train/loss \S+, val/mean_iou [\d.]+", steps[0]["rest"]
    )
    assert lines(tmp_path / "train.log", "validation at step 0")
    counted.clear()
    resume(tmp_path, ALWAYS, "trainer.steps=3")
    (log,) = tmp_path.glob("*/train.log")
    assert [line["done"] for line in lines(log, "training")] == ["3"]
    assert [work.before for work in counted if work.what == "training"] == [2]


def test_evaluation(tmp_path, monkeypatch, counted):
    """A log that is silent while items are answered; a rate that counts what an earlier call has answered."""
    tiny = "backbone=tiny_random", "sampling.max_new_tokens=4", "token_budget=300", "limit=9", f"folder={tmp_path}"
    write = PredictionFile.write

    def interrupted(self: PredictionFile, predictions: list[Prediction]) -> None:
        write(self, predictions)
        if self.done >= 4:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(PredictionFile, "write", interrupted)
        assert command("evaluate", *tiny, ALWAYS).status == 130
    first = lines(tmp_path / "evaluate.log", "scenes_attributes")
    assert first and all((line["total"], line["unit"]) == ("9", "items") for line in first)
    assert all("ETA 0:" in line["rest"] for line in first)
    succeeded(command("evaluate", *tiny, ALWAYS))
    assert lines(tmp_path / "evaluate.log", "scenes_attributes")[-1]["done"] == "9"
    assert counted[0].before == 0 < counted[1].before < 9


def test_diagnoses_say_which_and_of_which_policy(tmp_path):
    """Hours of diagnoses in which nobody knows what is measured."""
    options = (
        "analysis.limit=2",
        "benchmark.scenes.questions=4",
        "sampling.max_new_tokens=4",
        f"hydra.run.dir={tmp_path}",
    )
    succeeded(command("analyze", "analysis=context_suppression", "backbone=tiny_random", *options, ALWAYS))
    counts = lines(tmp_path / "analyze.log", "context_suppression of tiny_random: scenes_attributes")
    assert [(line["done"], line["total"]) for line in counts] == 2 * [("1", "2"), ("2", "2")]
    assert "- context_suppression of tiny_random\n" in (tmp_path / "analyze.log").read_text()


def test_a_report_measures_by_the_same_function(caplog):
    """The diagnoses at the end of a training, silent or nameless."""

    class Diagnosis:
        name = "rot"

        def measure(self, evaluator: None) -> pd.DataFrame:
            set_interval(0)
            return pd.DataFrame({"item": list(tracked(["a"], "boxes", 1))})

    with caplog.at_level(logging.INFO, "locus"):
        assert measure(Diagnosis(), None, "after").to_dict("list") == {"item": ["a"], "policy": ["after"]}
    assert caplog.messages[0] == "rot of after" and caplog.messages[1].startswith("rot of after: boxes: 1/1 items")


def test_prepare(tmp_path):
    """Images, look-alikes and rationales, each counted to its own total."""
    pictures, boxes = tmp_path / "images", []
    pictures.mkdir()
    for number in range(8):
        Image.effect_noise((160, 120), 40).convert("RGB").save(pictures / f"{number}.png")
        boxes += [{"image": f"{number}.png", "box": [10, 10, 22, 22], "label": "thing"}]
    (tmp_path / "boxes.jsonl").write_text("\n".join(map(json.dumps, boxes)))
    data = "data=boxes", f"data.path={tmp_path / 'boxes.jsonl'}", f"data.images={pictures}", "crop=tiny"
    sizes = "data.train_examples=6", "data.validation_examples=2", "crop.min_side=8", "audit.ambiguity_sample=3"
    run = f"hydra.run.dir={tmp_path / 'run'}"
    succeeded(command("prepare", *data, *sizes, "rationales=templates", run, ALWAYS))
    log = tmp_path / "run" / "prepare.log"
    for what, total in (("checking images", 8), ("looking for look-alikes", 3), ("rationales", 6)):
        assert [line["done"] for line in lines(log, what)] == [str(done) for done in range(1, total + 1)], what
    refused(command("prepare", *data, *sizes, run, "progress.every=-1"), "progress.every=-1")
