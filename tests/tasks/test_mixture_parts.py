"""Mixtures of any tasks: one part alone, several over one corpus, rewards by chance, shares that follow the spread."""

from __future__ import annotations

import json
import shutil
from itertools import islice

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from locus.analysis.run_metrics import by_task, task_curves
from locus.errors import LocusError
from locus.scenes.questions import colour
from locus.tasks.blind import blind_reward
from locus.tasks.by_spread import LAG, BySpread
from locus.tasks.cue_search.reward import BoxReward
from locus.tasks.cue_search.task import CueSearch
from locus.tasks.datamodule import SampleMaker, TaskDataModule
from locus.tasks.mixture import Mixture
from locus.tasks.proxies.jigsaw import Jigsaw
from locus.tasks.proxies.rotation import Rotation
from locus.tasks.questions import FileQuestions, GeneratedQuestions, Questions
from locus.tasks.task import Task
from locus.types import Frame, Response, View
from tests.support.interrupted import cut
from tests.support.miniature import FAMILY, scenes
from tests.support.models import FAMILIES, builder
from tests.support.runs import differences, metrics, resume, train, warm_policy

SEED, VIEW = 0, View(Frame.FILE)


def cues() -> CueSearch:
    source, corpus = scenes()
    return CueSearch(corpus, source)


def turns() -> Rotation:
    source, corpus = scenes()
    return Rotation(corpus, source)


def both(**settings: object) -> Mixture:
    return Mixture({"main": turns(), "other": cues()}, {"main": 3, "other": 1}, **settings)


@pytest.mark.parametrize(
    ("parts", "shares"),
    [
        ({"main": cues, "other": turns}, {"main": 2, "other": 0}),
        ({"main": cues, "other": cues, "third": turns}, {"main": 1, "other": 3, "third": 0}),
    ],
)
def test_one_trained_part_is_that_task_alone(parts, shares):
    """A part that is left out still changes batches, columns or facts; a task beside itself is counted as two."""
    task, alone = Mixture({name: make() for name, make in parts.items()}, shares), cues()
    assert task.shares() == alone.shares() == {"cue_search": 1.0}
    assert (task.columns, task.facts()) == (alone.columns, alone.facts())
    batches = [[key for _, key in batch] for batch in islice(task.batches(4, SEED), 6)]
    assert batches == list(islice(alone.batches(4, SEED), 6))
    used = {alone.example(key).example_id for key in batches[0]}
    assert [key for _, key in task.fresh(2, 0, 3, SEED, used)] == alone.fresh(2, 0, 3, SEED, used)
    for mine, own in zip(task.examples("validation"), alone.examples("validation"), strict=True):
        assert mine.example_id == own.example_id and task.row(mine) == alone.row(own)


def test_tasks_of_one_name_are_one_only_if_they_pay_alike():
    """A reward that was asked for and is not used, since the part before it asks the same question."""
    source, corpus = scenes()
    for other in (BoxReward(alpha=0.5), BoxReward(localisation="giou")):
        parts = {"main": cues(), "other": CueSearch(corpus, source, other)}
        with pytest.raises(LocusError, match=r"parts\.other and task\.parts\.main are both called cue_search"):
            Mixture(parts, {"main": 1, "other": 1})


def test_the_main_part_can_be_validated():
    """A first validation, of a part that is only trained on, that ends in an IndexError."""
    lacking = Questions(GeneratedQuestions([scenes()[0]], [colour], 0), think=False, alpha=0.1)
    with pytest.raises(LocusError, match=r"task\.parts\.main: questions .*no held-out examples"):
        Mixture({"main": lacking, "other": cues()}, {"main": 1, "other": 1})
    assert Mixture({"main": cues(), "other": lacking}, {"main": 1, "other": 1}).shares()["questions"] == 0.5


def test_parts_over_one_corpus_stay_apart():
    """Two examples of one id in a table, a refill that takes one part's ids for another's, a part not validated."""
    task = both()
    assert task.counts(8) == [6, 2] and task.shares() == {"rotation": 0.75, "cue_search": 0.25}
    third = Mixture(dict(zip(("main", "b", "c"), (turns(), *named("b", "c")), strict=True)), dict(main=1, b=1, c=1))
    assert third.counts(8) == [3, 2, 3] and third.counts(3) == [1, 1, 1]  # each its share to less than one prompt
    validation = task.examples("validation")
    names = [example.example_id for example in validation]
    assert len(set(names)) == len(names) == 2 * len(task.tasks[0].examples("validation"))
    assert [task.part(example) for example in (validation[0], validation[-1])] == ["rotation", "cue_search"]
    make = SampleMaker(task, builder(FAMILY), FAMILIES[FAMILY][1])
    data = TaskDataModule(make, 8, validation_batch=4, steps=1, workers=0, seed=SEED)
    for split in ("train", "validation"):  # what the pre-flight looks at
        assert [[one.example.part for one in data.first(split, count)] for count in (1, 4)] == [[0, 1], [0, 1, 0, 1]]
    assert [len(data.first(split, 99)) for split in ("train", "validation")] == [99, len(names)]
    batch = [task.example(key) for key in next(task.batches(8, SEED))]
    crops = [{example.inner.example_id for example in batch if example.part == part} for part in (0, 1)]
    assert not crops[1] <= crops[0]
    everything = task.tasks[1].examples("train")
    used = {f"cue_search/{one.example_id}" for one in everything}
    assert {part for step in range(4) for part, _ in task.fresh(step, 0, 4, SEED, used)} == {0}


@pytest.mark.parametrize("seed", range(4))
def test_each_part_of_a_curriculum_is_looked_at(seed):
    """A part that gets less than a prompt per step: in the first step it has none, and is not checked before it."""
    (rare,) = named("rare")
    task = Mixture({"main": turns(), "rare": rare}, {"main": 15, "rare": 1}, curriculum=BySpread(8, 0.1))
    make = SampleMaker(task, builder(FAMILY), FAMILIES[FAMILY][1])
    data = TaskDataModule(make, 8, validation_batch=4, steps=1, workers=0, seed=seed)
    assert {one.example.part for one in data.first("train", 8)} == {0, 1}


def test_a_short_file_beside_a_curriculum(tmp_path):
    """A remedy that cannot help: a curriculum may give any part a whole step, however low its share."""
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    row = json.dumps({"image": "a.png", "question": "What is it?", "answer": "red"})
    (tmp_path / "q.jsonl").write_text(f"{row}\n{row}\n")
    few = Questions(FileQuestions(str(tmp_path / "q.jsonl"), "", 0), think=False, alpha=0.1)
    parts, shares = {"main": turns(), "other": few}, {"main": 1, "other": 1}
    Mixture(parts, shares).check(4, steps=1)
    with pytest.raises(LocusError, match=r"2 questions, 4 are .*trainer\.prompts_per_step \(without task\.curriculum"):
        Mixture(parts, shares, BySpread()).check(4, steps=1)


def named(*names: str) -> list[Task]:
    tasks = [turns() for _ in names]
    for task, name in zip(tasks, names, strict=True):
        task.name = name
    return tasks


def test_rewards_by_chance():
    """A task of four options and one of a box that weigh differently: a guess must earn 0, gold 1, in both."""
    assert blind_reward(turns()) == pytest.approx(0.9 / 4 + 0.1, abs=0.03)
    task, plain = Mixture({"main": turns()}, {"main": 1}, normalise="chance"), turns()
    example = task.examples("train")[0]
    chance = blind_reward(plain)
    for text, earned in ((task.gold(example, VIEW), 1), (task.foil(example, VIEW), (0.1 - chance) / (1 - chance))):
        assert task.grade(example, Response(text), VIEW).total == pytest.approx(earned)
    parts = task.grade(example, Response(task.foil(example, VIEW)), VIEW).parts
    assert parts == plain.grade(example.inner, Response(task.foil(example, VIEW)), VIEW).parts
    with pytest.raises(LocusError, match=r"task\.normalise=mean"):
        Mixture({"main": turns()}, {"main": 1}, normalise="mean")


def test_shares_by_spread():
    """Weights 3 to 1, rates 0 and 1 of two of three steps, floor 0.5: 3 x 0.5 to 1 x 1.5, so half each; all by hand."""
    curriculum, base = BySpread(window=2, floor=0.5), np.array([0.75, 0.25])
    steps = [[(6, 6), (2, 0)], [(6, 0), (2, 2)], [(4, 0), (4, 4)]]
    np.testing.assert_allclose(curriculum.shares(base, steps), [0.5, 0.5])
    np.testing.assert_allclose(curriculum.shares(base, steps[:1]), [4.5 / 5, 0.5 / 5])
    np.testing.assert_allclose(curriculum.shares(base, [[(8, 0), (0, 0)]]), [0.5, 0.5])  # nothing of it: tried again
    for wrong in ({"window": 0}, {"floor": 0}, {"floor": "low"}):
        with pytest.raises(LocusError, match=r"task\.curriculum\."):
            BySpread(**wrong)


def test_a_step_follows_the_steps_up_to_the_lag():
    """Shares by what a worker knows by chance: a step must not depend on how much more has been seen by then."""
    task = both(curriculum=BySpread(window=1, floor=0.5))
    keys = task.batches(8, SEED)
    drawn = []
    for step in range(12):
        drawn.append(next(keys))
        if step:  # as late as can be: a step behind
            task.observe([("rotation", step > 6)] * 6 + [("cue_search", step < 7)] * 2)
    again = both(curriculum=task.curriculum)
    again.restore(task.state())
    assert list(islice(again.batches(8, SEED), 12)) == drawn  # all seen beforehand
    shares = [task.shares_at(step)[0] for step in range(12)]
    assert shares[:LAG] == [0.75] * LAG and shares[LAG] == 0.5 and shares[11] == pytest.approx(0.9)
    again.restore(task.state()[:1])
    with pytest.raises(LocusError, match="resume with the curriculum"):
        again.shares_at(5)
    three = Mixture({"main": turns(), "b": cues(), "c": named("c")[0]}, dict(main=1, b=1, c=1), task.curriculum)
    with pytest.raises(LocusError, match=r"began with other task\.parts"):
        three.restore(task.state())
    with pytest.raises(LocusError, match=r"task\.curriculum .* give null"):
        again.restore(both().state())
    plain = both()
    plain.restore(task.state())  # resumed without: what it saw is not logged as a step's
    assert plain.state() is None and not plain.history
    plain.restore(plain.state())
    with pytest.raises(LocusError, match=r"algorithm=sft"):
        task.check_targets()


def test_another_task_of_one_name_is_refused():
    """A part that is left out, silently, as if it were the one before it: nine pieces for four, a file for scenes."""
    source, corpus = scenes()
    small, large = Jigsaw(corpus, source), Jigsaw(corpus, source, grid=(3, 3))
    assert Mixture({"main": small, "other": Jigsaw(corpus, source)}, {"main": 1, "other": 1}).tasks == [small]
    with pytest.raises(LocusError, match=r"task\.parts\.other and task\.parts\.main .* jigsaw"):
        Mixture({"main": small, "other": large}, {"main": 1, "other": 1})
    assert Mixture({"main": small, "other": large}, {"main": 1, "other": 0}).tasks == [small]


MIXED = (
    *("task=mixture", "task@task.parts.main=rotation", "task@task.parts.other=cue_search", "trainer.steps=6"),
    *("trainer.prompts_per_step=4", "trainer.validate_every=3", "optimizer.make.lr=2e-3"),
    "task.curriculum={_target_:locus.tasks.by_spread.BySpread,window:2,floor:0.1}",
)


@pytest.mark.slow
def test_a_curriculum_run_and_its_resume(tmp_path):
    """Shares move, workers and a resume change nothing, and the run's folder tells of both tasks."""
    run, other = tmp_path / "run", tmp_path / "other"
    train(run, *MIXED, f"backbone.path={warm_policy()}", "trainer.workers=0")
    table = pd.read_parquet(run / "rollouts.parquet")
    cue_share = table.groupby("step")["task"].agg(lambda names: (names == "cue_search").mean())
    assert cue_share.nunique() > 1
    logged = metrics(run).dropna(subset="train/rotation_share")
    np.testing.assert_allclose(logged["train/cue_search_share"], cue_share)
    assert {"val/accuracy", "val/cue_search_mean_iou"} <= set(metrics(run))
    assert list(task_curves(metrics(run))) == ["train/cue_search_reward", "val/cue_search_mean_iou"]
    parts = by_task(pd.read_parquet(run / "validation.parquet"), "rotation")
    assert [(name, rows["example_id"].nunique()) for name, rows in parts] == [("rotation", 4), ("cue_search", 4)]
    assert json.loads((run / "run.json").read_text())["tasks"] == {"rotation": 0.5, "cue_search": 0.5}
    page = (run / "report.html").read_text()
    assert "Rotation, held out" in page and "Cue search, held out" in page
    shutil.copytree(run, other)
    cut(other, 4)
    resume(other, "trainer.workers=2")
    assert list(differences(other, run)) == []
