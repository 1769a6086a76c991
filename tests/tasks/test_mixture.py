"""Cue search mixed with questions: what answers earn, how batches are mixed, and that a step trains on both alike."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from functools import lru_cache

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from locus.analysis.frame_check import corner_fit
from locus.analysis.pages.rollouts import groups_of
from locus.analysis.pages.sweep import rollouts_of
from locus.errors import LocusError
from locus.policy.batching import micro_batches
from locus.policy.logprobs import CompletionBatch, PackedScorer, SeparateScorer
from locus.policy.prompts import CueCollator
from locus.run.callbacks import RolloutTable
from locus.scenes.questions import colour, existence_random
from locus.scenes.source import SceneSource
from locus.tasks.answers import normalised, parse_text
from locus.tasks.cue_search.prompts import THINK_ANSWER
from locus.tasks.cue_search.reward import BoxReward, judge
from locus.tasks.mixture import MixedDataModule, interleaved
from locus.tasks.questions import GeneratedQuestions
from locus.training import module as policy_module
from locus.training.metrics import rollout_metrics
from locus.types import (
    Completion,
    CueExample,
    Frame,
    ParsedText,
    PromptRecord,
    QuestionRecord,
    RolloutGroup,
    Status,
    TrainingPrompt,
)
from tests.support.interrupted import cut
from tests.support.miniature import FAMILY, LARGE_BUDGET, PROMPTS, SMALL_BUDGET, Run, fit, grpo, judged, scenes, sft
from tests.support.miniature import data_module as cue_data_module
from tests.support.models import FAMILIES, collator, tiny_vlm, token_ids
from tests.support.runs import command, differences, metrics, refused, resume, train, warm_policy

FORMED = "<think>t</think><answer>{}</answer>"


# --- What an answer earns -------------------------------------------------------------------------------------
def question(answer: str = "red", opened: str = "", name: str = "q") -> QuestionRecord:
    """A question without a picture, to be judged."""
    inputs = torch.arange(5), torch.zeros(5), torch.zeros(0), torch.zeros(0, 3)
    return QuestionRecord(
        name, *inputs, (0, 0), opened, question="What colour is it?", answer=answer, image_path="a.png"
    )


def earned(text: str, answer: str = "red", alpha: float = 0.1, opened: str = "") -> tuple[float, float, float]:
    """total, correct, format."""
    completion = Completion(torch.arange(3), torch.zeros(3), True)
    reward = judge(completion, text, question(answer, opened), BoxReward(alpha)).reward
    return reward.total, reward.correct, reward.format


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (FORMED.format("red"), (1.0, 1, 1)),
        (FORMED.format(" Red. "), (1.0, 1, 1)),
        (FORMED.format("blue"), (0.1, 0, 1)),  # a well-formed error
        (FORMED.format("red or blue"), (0.1, 0, 1)),  # no credit for naming several
        ("<answer>red</answer>", (0.9, 1, 0)),  # right, but no thought
        ("<answer>blue</answer><answer>red</answer>", (0.9, 1, 0)),  # the last block counts, as for boxes
        (FORMED.format(""), (0.0, 0, 0)),
        ("red", (0.0, 0, 0)),
        ("<think>red</think>", (0.0, 0, 0)),
        ("", (0.0, 0, 0)),
    ],
)
def test_rewards_by_hand(text, expected):
    """alpha on the wrong part; credit for a word outside the answer block, or for a list of guesses."""
    assert earned(text) == pytest.approx(expected, abs=1e-12)


def test_alpha_and_the_opened_template():
    """The run's alpha, not a fixed one; a thought that the template opened is no error of format."""
    assert earned("<answer>red</answer>", alpha=0.3)[0] == pytest.approx(0.7)
    assert earned("t</think><answer>red</answer>", opened="<think>\n") == pytest.approx((1, 1, 1))


def test_texts_are_compared_normalised():
    """Case, spaces, quotes and a full stop are no error; another word, number or sign is."""
    same = ["Two  cats", "two cats.", '"Two cats"', "two\ncats!", "**Two cats**", "ＴＷＯ cats"]
    assert {normalised(text) for text in same} == {"two cats"}
    assert len({normalised(text) for text in ("5", "-5", ".5", "5.5", "five", "5 %", "")}) == 7


def test_a_text_answer_or_why_there_is_none():
    """A cut completion counted as an error of format; the tags of two parsers drifting apart."""
    assert parse_text(FORMED.format(" a [1, 2] ")) == ParsedText(Status.OK, "a [1, 2]", True)
    assert parse_text("<think>I see", finished=False) == ParsedText(Status.TRUNCATED, None, False)
    assert parse_text("<think>I see") == ParsedText(Status.NO_ANSWER_TAG, None, False)
    assert parse_text("<answer></answer>") == ParsedText(Status.OK, "", False)


# --- Batches --------------------------------------------------------------------------------------------------
@lru_cache
def questions(seed: int = 1) -> GeneratedQuestions:
    return GeneratedQuestions((SceneSource(1, 96, 64, (2, 3), (12, 20), seed=9),), (colour, existence_random), seed)


def mixed(
    share: float = 0.5, prompts: int = PROMPTS, steps: int = 4, think: bool = False, start: int = 0, workers: int = 0
) -> MixedDataModule:
    """The data of tests.support.miniature with questions among them."""
    source, corpus = scenes()
    return MixedDataModule(
        corpus, source, collator(FAMILY), prompts, questions(), share, think,
        validation_batch=4, steps=steps, workers=workers, seed=0, start_step=start,
    )  # fmt: skip


def ids(batch: list[TrainingPrompt]) -> list[str]:
    return [prompt.prompt_id for prompt in batch]


def count(batch: list[TrainingPrompt]) -> int:
    """Questions."""
    return sum(isinstance(prompt, QuestionRecord) for prompt in batch)


@pytest.mark.parametrize(("share", "prompts", "expected"), [(0.5, 4, 2), (0.25, 4, 1), (0.3, 4, 1), (0.7, 4, 3)])
def test_share_of_each_step(share, prompts, expected):
    """A share of the run that is not one of each step, or that adds to the prompts of a step."""
    batches = list(mixed(share, prompts).train_dataloader())
    assert [(len(batch), count(batch)) for batch in batches] == [(prompts, expected)] * 4
    assert len({name for batch in batches for name in ids(batch)}) == 4 * prompts


@pytest.mark.parametrize("share", [0, 1, -0.5, 1.5, 0.1, 0.95, "half", float("nan")])
def test_share_out_of_range(share):
    """A mix that is none: rounded to no question, or to no cue search, whose metrics are then means of nothing."""
    with pytest.raises(LocusError, match=r"mix\.share=.*trainer\.prompts_per_step=4"):
        mixed(share)


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
    """The instruction missing, or there unasked; the answer in the prompt; another image than the question's."""
    for think in (False, True):
        (asked,) = questions().draw(0, 0, 1)
        record = next(prompt for prompt in next(iter(mixed(think=think).train_dataloader())) if count([prompt]))
        text = collator(FAMILY).processor.tokenizer.decode(record.input_ids)
        assert (record.question, record.answer, record.image_path) == (asked.text, asked.answer, asked.image_path)
        assert asked.text in text and (THINK_ANSWER in text) == think
        pixels = collator(FAMILY).processor.image_processor([asked.image], return_tensors="pt")["pixel_values"]
        assert torch.equal(record.pixel_values, pixels) and record.image_grid_thw.shape == (1, 3)


def test_refills_are_mixed_and_a_function_of_their_arguments():
    """Refills of cue search alone would thin the questions out, step by step."""
    data, drawn = mixed(), []
    for step in range(20):
        fresh = data.draw(step, 0, 3)
        assert len(fresh) == 3 and ids(fresh) == ids(data.draw(step, 0, 3))
        drawn.append(count(fresh))
    assert set(drawn) == {1, 2} and ids(data.draw(0, 0, 3)) != ids(data.draw(0, 1, 3))  # of 1.5


# --- Training -------------------------------------------------------------------------------------------------
def run_of(steps: int = 1, share: float = 0.5, **settings: object) -> Run:
    """A fitted GRPO run on the mix."""
    module, _ = grpo(steps=steps, **settings)
    data = mixed(share, settings.get("prompts", PROMPTS), steps)
    module.draw = data.draw
    return fit(module, data)


@pytest.fixture
def spread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rewards that differ within groups of both kinds, by the tokens; of cue search and of questions as they are."""

    def scored(completion: Completion, text: str, prompt: TrainingPrompt, reward: BoxReward):
        right = int(completion.token_ids.sum()) % 2
        if isinstance(prompt, QuestionRecord):
            return judge(completion, FORMED.format(prompt.answer if right else "nothing"), prompt, reward)
        return judged(lambda *_: right)(completion, text, prompt, reward)

    monkeypatch.setattr(policy_module, "judge", scored)


@pytest.mark.parametrize("family", FAMILIES)
def test_packed_log_probs_are_the_separate_ones(family):
    """Prompts of one image beside prompts of two: features or positions at another prompt's place."""
    make: CueCollator = collator(family)
    source, corpus = scenes()
    data = MixedDataModule(
        corpus, source, make, PROMPTS, questions(), 0.5, True, validation_batch=4, steps=1, workers=0, seed=0
    )
    batch, policy = next(iter(data.train_dataloader())), tiny_vlm(family)
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
    batch = [group.prompt for group, _ in runs[0].steps[0]["groups"]]
    assert len(micro_batches(batch, 24, SMALL_BUDGET)) > 2 and count(batch) == 2
    for one, other in zip(*(run.optimizer.gradients for run in runs), strict=True):
        one, other = (torch.cat([gradient.flatten() for gradient in gradients]) for gradients in (one, other))
        assert float((one - other).norm() / one.norm()) < 1e-5 and one.norm() > 0


def test_metrics_keep_the_kinds_apart(spread):
    """A reward curve that rises because questions are easier than cues."""
    run = run_of(share=0.25)
    groups = [group for group, _ in run.steps[0]["groups"]]
    cues = [r.reward.total for group in groups if isinstance(group.prompt, PromptRecord) for r in group.rollouts]
    right = [r.reward.correct for group in groups if isinstance(group.prompt, QuestionRecord) for r in group.rollouts]
    assert (len(cues), len(right)) == (12, 4)
    (row,) = run.rows
    assert row["train/reward"] == pytest.approx(np.mean(cues)) and row["train/question_accuracy"] == np.mean(right)
    assert row["train/max_log_ratio"] == 0 and row["train/rollout_mismatch"] < 1e-4 and row["train/grad_norm"] > 0


def test_no_mix_no_question_accuracy():
    """A new column in every run, or a mean of nothing where all groups are of one kind."""
    completion = Completion(torch.arange(3), torch.zeros(3), True)
    answers = [judge(completion, FORMED.format(word), question(), BoxReward()) for word in ("red", "blue")]
    assert rollout_metrics([RolloutGroup(question(), tuple(answers))]) == {"question_accuracy": 0.5}
    (row,) = fit(*grpo()).rows
    assert "train/question_accuracy" not in row and "train/iou" in row


def test_refill_of_a_mixed_batch(spread):
    """A refill that takes questions for cues: groups without spread are replaced by those of either kind that have it,
    the batch keeps its size and its good groups, and no prompt is in it twice."""
    module, _ = grpo(refill=4)
    data = mixed()
    module.draw = data.draw
    before = module.roll_out(next(iter(data.train_dataloader())), module.sampling, 2, step=0)
    poor = [(replace(group, rollouts=group.rollouts[:1] * 2), features) for group, features in before[:3]]
    after, without_spread = module.refill([*poor, *before[3:]], step=0)
    names = ids([group.prompt for group, _ in after])
    fresh = set(names) - set(ids([group.prompt for group, _ in before]))
    assert len(set(names)) == len(names) == PROMPTS and without_spread >= 3 and len(fresh) >= 3
    assert {name.startswith("question") for name in fresh} == {True, False}


def test_sft_learns_answers():
    """The SFT baseline of a mixed run stops at the first question, or is taught something that earns nothing."""
    module, _ = sft(steps=2)
    data = mixed(steps=2)
    for prompt in next(iter(data.train_dataloader())):
        target = module.target_ids(prompt, "")
        rollout = judge(Completion(target, torch.zeros(len(target)), True), module.decode(target), prompt, BoxReward())
        assert rollout.reward.total > 0.9 and target[-1] == module.policy.end_token_ids[0]
    assert [row["train/loss"] > 0 for row in fit(module, data).rows] == [True, True]


# --- What a run leaves ----------------------------------------------------------------------------------------
def test_rows_of_both_kinds(tmp_path):
    """A row of a question that breaks the table, or the readers of boxes."""

    class Module:
        finished_steps = 1

    example = CueExample("e-1", "e", "e.png", 100, 50, (10.0, 10.0, 30.0, 30.0), 0.08, "medium")
    cue = PromptRecord(
        example,
        torch.arange(5),
        torch.zeros(5),
        torch.zeros(0),
        torch.zeros(0, 3),
        example.target,
        Frame.FILE,
        (100, 50),
    )
    table = RolloutTable(tmp_path, last_step=0)
    for prompt, text in ((cue, "[10, 10, 30, 20]"), (question(), "red"), (question(name="q2"), "")):
        rollout = judge(Completion(torch.arange(3), torch.zeros(3), True), FORMED.format(text), prompt, BoxReward())
        group = RolloutGroup(prompt, (rollout, rollout))
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
    ended = command("train", "logger=csv", "mix=questions", "mix.share=1.5", f"hydra.run.dir={tmp_path / 'run'}")
    refused(ended, "mix.share=1.5", "mix=none")


MIXED = ("mix=questions", "trainer.prompts_per_step=4", "trainer.steps=2", "trainer.validate_every=2")


@pytest.mark.slow
def test_a_mixed_run_and_its_resume(tmp_path):
    """Two steps by command; the run cut after the first and resumed is the same, bit for bit; and its page is made."""
    start = [f"backbone.path={warm_policy()}", "optimizer.make.lr=2e-3"]
    train(tmp_path / "whole", *MIXED, *start)
    table = pd.read_parquet(tmp_path / "whole" / "rollouts.parquet")
    assert table.groupby("step")["question"].agg(lambda texts: texts.notna().mean()).tolist() == [0.5, 0.5]
    logged = metrics(tmp_path / "whole").dropna(subset="train/question_accuracy")
    right = table.groupby("step")["correct"].mean()
    np.testing.assert_allclose(logged["train/question_accuracy"], right)
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
    train(tmp_path / "run", "mix=questions_file", f"mix.path={tmp_path / 'q.jsonl'}", *MIXED[1:])
    table = pd.read_parquet(tmp_path / "run" / "rollouts.parquet")
    assert set(table["expected"].dropna()) == {"grey"} and table["correct"].notna().mean() == 0.5
