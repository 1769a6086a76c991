"""Cue search mixed with questions: how batches are mixed, and that a step trains on both alike."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache, partial

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from locus.analysis.pages.rollouts import groups_of
from locus.analysis.pages.sweep import corner_fit, rollouts_of
from locus.errors import LocusError
from locus.policy.logprobs import CompletionBatch, PackedScorer, SeparateScorer
from locus.policy.split_groups import prompt_batches
from locus.run.callbacks import RolloutTable
from locus.scenes.questions import colour, existence_random
from locus.scenes.source import SceneSource
from locus.tasks import rollouts
from locus.tasks.answers import THINK_ANSWER
from locus.tasks.cue_search.task import CueSearch
from locus.tasks.datamodule import SampleMaker, TaskDataModule
from locus.tasks.mixture import Mixture
from locus.tasks.parts import PartExample, interleaved
from locus.tasks.questions import GeneratedQuestions, ImageQuestion, Questions
from locus.tasks.task import Task
from locus.types import Completion, CueExample, Frame, Prompt, Rollout, RolloutGroup, Sample, View
from tests.support.interrupted import cut
from tests.support.miniature import (
    FAMILY,
    GROUP,
    LARGE_BUDGET,
    PROMPTS,
    SMALL_BUDGET,
    TOKENS,
    Run,
    fit,
    graded,
    grpo,
    scenes,
    sft,
)
from tests.support.miniature import data_module as cue_data_module
from tests.support.models import FAMILIES, builder, cue_task, tiny_vlm, token_ids
from tests.support.runs import command, differences, metrics, refused, resume, train, warm_policy

FORMED = "<think>t</think><answer>{}</answer>"


# --- Batches --------------------------------------------------------------------------------------------------
@lru_cache
def questions(seed: int = 1) -> GeneratedQuestions:
    return GeneratedQuestions((SceneSource(1, 96, 64, (2, 3), (12, 20), seed=9),), (colour, existence_random), seed)


def half(main: Task, other: Task, share: float = 0.5) -> Mixture:
    """``share`` of the other."""
    return Mixture({"main": main, "other": other}, {"main": 1 - share, "other": share})


def mixture(share: float = 0.5, think: bool = False) -> Mixture:
    """Cue search on the scenes of tests.support.miniature with questions among it."""
    source, corpus = scenes()
    return half(CueSearch(corpus, source), Questions(questions(), think, alpha=0.1), share)


def mixed(
    share: float = 0.5, prompts: int = PROMPTS, steps: int = 4, think: bool = False, start: int = 0, workers: int = 0,
    family: str = FAMILY,
) -> TaskDataModule:  # fmt: skip
    """Its data."""
    make = SampleMaker(mixture(share, think), builder(family), FAMILIES[family][1])
    return TaskDataModule(make, prompts, validation_batch=4, steps=steps, workers=workers, seed=0, start_step=start)


def asks(sample: Sample) -> bool:
    """It is a question."""
    return isinstance(sample.example.inner, ImageQuestion)


def ids(batch: Sequence[Sample]) -> list[str]:
    return [sample.prompt.prompt_id for sample in batch]


def count(batch: Sequence[Sample]) -> int:
    """Questions."""
    return sum(map(asks, batch))


@pytest.mark.parametrize(("share", "prompts", "expected"), [(0.5, 4, 2), (0.25, 4, 1), (0.3, 4, 1), (0.7, 4, 3)])
def test_share_of_each_step(share, prompts, expected):
    """A share of the run that is not one of each step, or that adds to the prompts of a step."""
    batches = list(mixed(share, prompts).train_dataloader())
    assert [(len(batch), count(batch)) for batch in batches] == [(prompts, expected)] * 4
    assert len({name for batch in batches for name in ids(batch)}) == 4 * prompts


@pytest.mark.parametrize(
    ("shares", "says"),
    [
        ({"main": 0, "other": 0}, "main gives the run's headline"),
        ({"main": 1, "other": -0.5}, "none below 0"),
        ({"main": 1, "other": "half"}, "none below 0"),
        ({"main": 1, "other": float("nan")}, "none below 0"),
        ({"main": 1}, "of the parts main, other"),
        ({"main": 1, "other": 1, "third": 1}, "of the parts main, other"),
        ({"main": 9, "other": 1}, r"prompts_per_step=4: a step would have no prompt of questions"),
        ({"main": 1, "other": 19}, r"prompts_per_step=4: a step would have no prompt of cue_search"),
    ],
)
def test_shares_that_cannot_be_meant(shares, says):
    """A mix that is none, a misspelt part, or a share rounded to no prompt, whose metrics are then means of nothing."""
    with pytest.raises(LocusError, match=rf"task\.shares.*{says}"):
        Mixture(dict(zip(("main", "other"), mixture().tasks, strict=True)), shares).check(4, 1)


def test_a_step_has_one_batch_wherever_the_run_started():
    """A resumed run whose questions begin anew; worker processes that change what is asked."""
    whole = [ids(batch) for batch in mixed().train_dataloader()]
    assert [ids(batch) for batch in mixed(start=2).train_dataloader()] == whole[2:]
    assert [ids(batch) for batch in mixed(workers=2).train_dataloader()] == whole
    assert len(mixed(start=2).train_dataloader()) == 4  # of the whole run, as without a mix


def test_cue_search_is_that_of_a_smaller_step():
    """A mix that draws other cues, twice in an epoch, or that changes validation."""
    alone = cue_data_module(4, prompts=2)
    cues = [[name for name in ids(batch) if name.startswith("scene")] for batch in mixed().train_dataloader()]
    assert cues == [ids(batch) for batch in alone.train_dataloader()]
    assert [ids(batch) for batch in mixed().val_dataloader()] == [ids(batch) for batch in alone.val_dataloader()]


def test_every_mini_batch_has_its_share():
    """Questions at the end of the batch are a mini-batch of their own: updates that are not mixed."""
    assert interleaved("abcd", "xy") == list("axbcyd")
    assert interleaved("abc", "x") == list("abxc")
    assert interleaved("ab", "xy") == list("axby")


def test_prompts_of_questions():
    """The instruction missing, or there unasked; another image than the question's."""
    for think in (False, True):
        task = mixture(think=think)
        sample = next(filter(asks, next(iter(mixed(think=think).train_dataloader()))))
        asked, text = sample.example.inner, builder(FAMILY).processor.tokenizer.decode(sample.prompt.input_ids)
        row = task.row(sample.example)
        expected = {"image_path": asked.image_path, "question": asked.text, "expected": asked.answer}
        assert row == {**expected, "task": "questions"}
        assert asked.text in text and (THINK_ANSWER in text) == think
        pixels = builder(FAMILY).processor.image_processor([asked.open()], return_tensors="pt")["pixel_values"]
        assert torch.equal(sample.prompt.pixel_values, pixels) and sample.prompt.image_grid_thw.shape == (1, 3)


def test_each_part_is_its_own_tasks():
    """A question graded by its IoU, facts or columns of one part that are lost, or metrics of both under one name."""
    task, (main, other) = mixture(), mixture().tasks
    assert (task.name, task.headline, task.labels) == (main.name, main.headline, main.labels)
    assert task.facts() == main.facts() | other.facts() and "corpus_hash" in task.facts()
    assert task.columns == {**other.columns, **main.columns, "task": str}
    assert [one.inner for one in task.examples("validation")] == list(main.examples("validation"))
    assert [one.inner for one in task.examples("validation")[1:3]] == list(main.examples("validation"))[1:3]
    for key in next(task.batches(PROMPTS, seed=0)):
        example, view = task.example(key), View(Frame.UNIT1000, (64, 64))
        own = (main, other)[key[0]]
        assert task.of(example) is task.tasks[key[0]] and example.example_id == own.example(key[1]).example_id
        for method in ("gold", "foil", "variants"):
            assert getattr(task, method)(example, view) == getattr(own, method)(own.example(key[1]), view)


def test_refills_are_mixed_and_a_function_of_their_arguments():
    """Refills of cue search alone would thin the questions out, step by step."""
    data, drawn = mixed(), []
    for step in range(20):
        fresh = data.draw(step, 0, 3)
        assert len(fresh) == 3 and ids(fresh) == ids(data.draw(step, 0, 3))
        drawn.append(count(fresh))
    assert set(drawn) == {1, 2} and ids(data.draw(0, 0, 3)) != ids(data.draw(0, 1, 3))  # of 1.5


def question(answer: str = "red", name: str = "q") -> Sample:
    """A question without a picture, to be graded."""
    asked = ImageQuestion(name, "a.png", partial(Image.new, "RGB", (8, 8)), "What colour is it?", answer)
    return sample_of(PartExample(1, asked))


def sample_of(example: PartExample) -> Sample:
    inputs = torch.arange(5), torch.zeros(5), torch.zeros(0), torch.zeros(0, 3)
    return Sample(example, Prompt(example.example_id, *inputs, (100, 50)), View(Frame.FILE))


def written(task: Task, sample: Sample, answer: str) -> Rollout:
    """A rollout with this answer."""
    completion = Completion(torch.arange(3), torch.zeros(3), True)
    return rollouts.graded(task, sample, completion, FORMED.format(answer))


# --- Training -------------------------------------------------------------------------------------------------
def run_of(steps: int = 1, share: float = 0.5, **settings: object) -> Run:
    """A fitted GRPO run on the mix."""
    module, _ = grpo(steps=steps, **settings)
    data = mixed(share, settings.get("prompts", PROMPTS), steps)
    module.draw, module.task = data.draw, data.task
    return fit(module, data)


@pytest.fixture
def spread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rewards that differ within groups of both kinds, by the tokens; of cue search and of questions as they are."""

    real = rollouts.graded

    def scored(task: Task, sample: Sample, completion: Completion, text: str) -> Rollout:
        right = int(completion.token_ids.sum()) % 2
        if asks(sample):
            return real(task, sample, completion, FORMED.format(sample.example.inner.answer if right else "nothing"))
        return graded(lambda *_: right)(task, sample, completion, text)

    monkeypatch.setattr(rollouts, "graded", scored)


@pytest.mark.parametrize("family", FAMILIES)
def test_packed_log_probs_are_the_separate_ones(family):
    """Prompts of one image beside prompts of two: features or positions at another prompt's place."""
    data = mixed(steps=1, think=True, family=family)
    batch, policy = [sample.prompt for sample in next(iter(data.train_dataloader()))], tiny_vlm(family)
    assert {len(prompt.image_grid_thw) for prompt in batch} == {1, 2}
    completions = CompletionBatch.of(token_ids(((7, 3), (1, 5), (6, 6), (4, 2))), torch.device("cpu"))
    with torch.no_grad():
        expected = SeparateScorer()(policy, batch, completions, 1.0)
        features = policy.vision_features(batch)
        for known in (None, features):  # a frozen tower's features serve rollout, reference and policy
            found = PackedScorer()(policy, batch, completions, 1.0, known)
            torch.testing.assert_close(found.logprobs, expected.logprobs, rtol=0, atol=2e-5)
    assert expected.logprobs[expected.mask].std() > 0.1


@pytest.mark.parametrize("train_vision", [True, False])
def test_micro_batches_do_not_change_the_gradient(spread, train_vision):
    """Both kinds in one micro-batch, or one prompt in each: the update is the same."""
    runs = [
        run_of(train_vision=train_vision, budget=budget, epochs=2, mini_batches=2)
        for budget in (LARGE_BUDGET, SMALL_BUDGET)
    ]
    batch = [group.sample for group, _ in runs[0].steps[0]["groups"]]
    batches = prompt_batches([one.prompt for one in batch], [[TOKENS] * GROUP] * len(batch), SMALL_BUDGET)
    assert len(batches) > 2 and count(batch) == 2
    for one, other in zip(*(run.optimizer.gradients for run in runs), strict=True):
        one, other = (torch.cat([gradient.flatten() for gradient in gradients]) for gradients in (one, other))
        assert float((one - other).norm() / one.norm()) < 1e-5 and one.norm() > 0


def test_metrics_keep_the_kinds_apart(spread):
    """A reward curve that rises because questions are easier than cues."""
    run = run_of(share=0.25)
    groups = [group for group, _ in run.steps[0]["groups"]]
    cues = [reward for group in groups if not asks(group.sample) for reward in group.rewards]
    right = [r.grade.parts["accuracy"] for group in groups if asks(group.sample) for r in group.rollouts]
    assert (len(cues), len(right)) == (12, 4)
    (row,) = run.rows
    assert row["train/reward"] == pytest.approx(np.mean(cues)) and row["train/questions_accuracy"] == np.mean(right)
    assert row["train/max_log_ratio"] == 0 and row["train/rollout_mismatch"] < 1e-4 and row["train/grad_norm"] > 0


def test_no_mix_no_questions_accuracy():
    """A new column in every run, or a mean of nothing where all groups are of one kind."""
    task, sample = mixture(), question()
    answers = tuple(written(task, sample, word) for word in ("red", "blue"))
    assert task.training_metrics([RolloutGroup(sample, answers)])["questions_accuracy"] == 0.5
    (row,) = fit(*grpo()).rows
    assert "train/questions_accuracy" not in row and "train/iou" in row


def test_refill_of_a_mixed_batch(spread):
    """A refill that takes questions for cues: groups without spread are replaced by those of either kind that have it,
    the batch keeps its size and its good groups, and no prompt is in it twice."""
    module, _ = grpo(refill=4)
    data = mixed()
    module.draw, module.task = data.draw, data.task
    before = module.roll_out(next(iter(data.train_dataloader())), module.sampling, 2, step=0)
    poor = [(replace(group, rollouts=group.rollouts[:1] * 2), features) for group, features in before[:3]]
    after, without_spread = module.refill([*poor, *before[3:]], step=0)
    names = ids([group.sample for group, _ in after])
    fresh = set(names) - set(ids([group.sample for group, _ in before]))
    assert len(set(names)) == len(names) == PROMPTS and without_spread >= 3 and len(fresh) >= 3
    assert {name.startswith("question") for name in fresh} == {True, False}


def test_sft_learns_answers():
    """The SFT baseline of a mixed run stops at the first question, or is taught something that earns nothing."""
    module, _ = sft(steps=2)
    data = mixed(steps=2)
    module.task = data.task
    batch = next(iter(data.train_dataloader()))
    texts = list(data.task.target(batch))
    assert len(texts) == len(batch) and 0 < count(batch) < len(batch)
    for sample, text in zip(batch, texts, strict=True):
        target = module.target_ids(sample.prompt, text)
        completion = Completion(target, torch.zeros(len(target)), True)
        assert rollouts.graded(data.task, sample, completion, module.decode(target)).grade.total > 0.9
        assert target[-1] == module.policy.end_token_ids[0]
    assert [row["train/loss"] > 0 for row in fit(module, data).rows] == [True, True]


# --- What a run leaves ----------------------------------------------------------------------------------------
def test_rows_of_both_kinds(tmp_path):
    """A row of a question that breaks the table, or the readers of boxes."""

    class Module:
        finished_steps = 1

    example = CueExample("e-1", "e", "e.png", 100, 50, (10.0, 10.0, 30.0, 30.0), 0.08, "medium")
    task = half(cue_task([example]), Questions(questions(), think=False, alpha=0.1))
    table = RolloutTable(tmp_path, task, last_step=0)
    answers = (sample_of(PartExample(0, example)), "[10, 10, 30, 20]"), (question(), "red"), (question(name="q2"), "")
    for sample, text in answers:
        rollout = written(task, sample, text)
        group = RolloutGroup(sample, (rollout, rollout))
        table.table.append(1, table.rows(Module, group, torch.zeros(2)))
    table.table.close()
    whole = pd.read_parquet(tmp_path / "rollouts.parquet").set_index("prompt_id")
    assert whole.loc["q", "correct"].tolist() == [1, 1] and whole.loc["q2", "correct"].tolist() == [0, 0]
    assert set(whole.loc["q", "expected"]) == {"red"} and set(whole.loc["q", "reward"]) == {1.0}
    assert whole.loc["q", ["target", "box", "written", "iou", "bin"]].isna().all(axis=None)
    assert whole.loc["e-1", ["question", "expected", "correct"]].isna().all(axis=None)
    shown = rollouts_of(tmp_path)
    assert shown["prompt_id"].tolist() == ["e-1", "e-1"] and shown["iou"].tolist() == [0.5, 0.5]
    assert corner_fit(shown)["corners"].tolist() == [4, 4]
    browsed = groups_of(shown, lambda path: Image.new("RGB", (100, 50)), 100)
    assert [group["target"] for group in browsed["groups"]] == [[10, 10, 30, 30]]


def test_a_share_that_is_none_is_refused_by_the_command(tmp_path):
    """A Hydra traceback instead of one line that names the key."""
    ended = command("train", "logger=csv", "task=mixture", "task.shares.main=0", f"hydra.run.dir={tmp_path / 'run'}")
    refused(ended, "task.shares={'main': 0, 'other': 1}", "above 0")


MIXED = ("task=mixture", "trainer.prompts_per_step=4", "trainer.steps=2", "trainer.validate_every=2")


@pytest.mark.slow
def test_a_mixed_run_and_its_resume(tmp_path):
    """Two steps by command; the run cut after the first and resumed is the same, bit for bit; and its page is made."""
    start = [f"backbone.path={warm_policy()}", "optimizer.make.lr=2e-3"]
    train(tmp_path / "whole", *MIXED, *start)
    table = pd.read_parquet(tmp_path / "whole" / "rollouts.parquet")
    assert table.groupby("step")["question"].agg(lambda texts: texts.notna().mean()).tolist() == [0.5, 0.5]
    logged = metrics(tmp_path / "whole").dropna(subset="train/questions_accuracy")
    right = table.groupby("step")["correct"].mean()
    np.testing.assert_allclose(logged["train/questions_accuracy"], right)
    np.testing.assert_allclose(logged["train/reward"], table.dropna(subset="iou").groupby("step")["reward"].mean())
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    cut(tmp_path / "cut", 1)
    resume(tmp_path / "cut")
    assert list(differences(tmp_path / "cut", tmp_path / "whole")) == []
    page = command("report", f"runs={tmp_path / 'whole'}", f"hydra.run.dir={tmp_path / 'page'}")
    assert page.status == 0 and "rollout-data" in (tmp_path / "page" / "report.html").read_text()


@pytest.mark.slow
def test_a_file_by_command(tmp_path):
    """Questions of one's own, with the settings that the config's comment gives."""
    Image.effect_noise((48, 48), 60).convert("RGB").save(tmp_path / "a.png")
    rows = [{"image": "a.png", "question": f"Which noise, {n}?", "answer": "grey"} for n in range(4)]
    (tmp_path / "q.jsonl").write_text("\n".join(map(json.dumps, rows)))
    file = ["task@task.parts.other=questions_file", f"task.parts.other.source.path={tmp_path / 'q.jsonl'}"]
    train(tmp_path / "run", *MIXED, *file)
    table = pd.read_parquet(tmp_path / "run" / "rollouts.parquet")
    assert set(table["expected"].dropna()) == {"grey"} and table["correct"].notna().mean() == 0.5
