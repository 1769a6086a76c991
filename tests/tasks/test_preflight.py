"""The pre-flight passes on right frames and stops a run on planted faults, with a message that names them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from PIL import Image

from locus.errors import LocusError
from locus.policy.prompts import PromptBuilder
from locus.scenes.questions import KINDS, grounding
from locus.scenes.source import SceneSource
from locus.tasks.answers import box_text, completion_text
from locus.tasks.cue_search.reward import BoxReward
from locus.tasks.cue_search.task import CueSearch
from locus.tasks.datamodule import SampleMaker
from locus.tasks.mixture import Mixture
from locus.tasks.preflight import (
    RARE,
    PreflightReport,
    blackened,
    check_blind,
    grade_written,
    luckiest,
    preflight,
)
from locus.tasks.questions import GeneratedQuestions, Questions
from locus.tasks.scene_questions import SceneQuestions
from locus.tasks.task import Task
from locus.types import Completion, CueExample, Frame, Response, Rollout, RolloutGroup, Sample, View
from tests.support.models import FAMILIES, NoiseImages, backbone, builder, cue_task, example
from tests.support.numbers import Numbers

FAMILY = pytest.mark.parametrize("family", FAMILIES)
EXAMPLES = [
    example((500, 375), (101, 201, 121, 225), "bowl"),
    example((333, 500), (7, 451, 28, 468), "cup"),
    example((96, 80), (8, 12, 40, 44), "fork"),
]


def made(family: str, task: Task, count: int | None = None) -> list[Sample]:
    """Samples of all examples that are listed, or the first ``count`` of the task's training."""
    make = SampleMaker(task, builder(family), FAMILIES[family][1])
    if count is None:
        return [make(one) for split in ("train", "validation") for one in task.examples(split)]
    return [make(task.example(key)) for key in next(task.batches(count, 0))]


def cues(family: str, *which: int) -> list[Sample]:
    """Cue-search samples of these examples, or of all."""
    make = SampleMaker(cue_task(EXAMPLES), builder(family), FAMILIES[family][1])
    return [make(EXAMPLES[i]) for i in which or range(3)]


def check(family: str, samples: Sequence[Sample], **changes: object) -> PreflightReport:
    """The pre-flight as a run calls it, of cue search unless said otherwise; ``changes`` replace its arguments."""
    reward = changes.pop("reward", None)
    arguments = {
        "task": cue_task(EXAMPLES, reward=reward),
        "builder": builder(family),
        "frame": FAMILIES[family][1],
    }
    return preflight(samples=samples, **(arguments | changes))


@FAMILY
def test_right_frames_pass(family: str):
    """A true run that is stopped. A box shifted by half its sides keeps 1/4 of it: IoU 1/7, reward 0.9/7 + 0.1."""
    report = check(family, cues(family))
    assert report.samples == 3 and list(report.rewards) == ["gold", "foil", "rounded to integers"]
    gold, foil, integers = report.rewards.values()
    assert gold == pytest.approx(1, abs=1e-3)
    assert foil == pytest.approx(0.9 / 7 + 0.1, abs=1e-3)
    assert foil < integers < gold
    assert str(report) == f"gold earns {gold:.3f}, foil earns {foil:.3f}, rounded to integers earns {integers:.3f}"


def answer_size_of_the_file(sample: Sample) -> Sample:
    return replace(sample, view=replace(sample.view, processed=(sample.example.width, sample.example.height)))


def answer_size_swapped(sample: Sample) -> Sample:
    return replace(sample, view=replace(sample.view, processed=sample.view.processed[::-1]))


def answer_in_unit1000(sample: Sample) -> Sample:
    return replace(sample, view=View(Frame.UNIT1000))


@pytest.mark.parametrize("fault", [answer_size_of_the_file, answer_size_swapped, answer_in_unit1000])
@pytest.mark.parametrize("which", [0, 1])
def test_processed_boxes_read_in_another_frame_are_caught(fault: Callable, which: int):
    """The peers' silent error: the policy writes pixels of the processed image, the reward reads others.

    500x375 is processed as 504x364 and 333x500 as 336x504: the frames differ by 3 % of a side at most.
    """
    (sample,) = cues("qwen2_5_vl", which)
    faulty, name = fault(sample), EXAMPLES[which]
    with pytest.raises(LocusError) as caught:
        check("qwen2_5_vl", [faulty])
    message, (width, height) = str(caught.value), sample.view.processed
    for part in (name.image_path, name.example_id, f"frame processed of {width}x{height}", "backbone.frame"):
        assert part in message
    read = faulty.view.processed
    assert ("read in frame unit1000" if read is None else f"read in frame processed of {read[0]}x{read[1]}") in message
    assert "\n" not in message


def test_unit1000_boxes_read_as_processed_are_caught():
    """A backbone that speaks 0-1000 whose answers the task reads as pixels."""
    (sample,) = cues("qwen3_vl", 0)
    faulty = replace(sample, view=replace(sample.view, frame=Frame.PROCESSED))
    with pytest.raises(LocusError, match=r"bowl\.png.*frame unit1000.*read in frame processed.*backbone\.frame"):
        check("qwen3_vl", [faulty])


def test_a_fault_in_one_prompt_of_many_is_caught():
    """A mean over the prompts would hide a frame that is wrong for one image only."""
    samples = cues("qwen2_5_vl")
    samples[1] = answer_size_of_the_file(samples[1])
    with pytest.raises(LocusError, match=r"cup\.png"):
        check("qwen2_5_vl", samples)


class Unconverted(CueSearch):
    """Writes its gold answers in pixels of the file, whatever the policy speaks."""

    def gold(self, example: CueExample, view: View) -> str:
        return completion_text(box_text(example.target, 3))


@FAMILY
def test_a_gold_answer_in_another_frame_is_caught(family: str):
    """A new task whose gold and grade disagree about the frame or its size."""
    task = Unconverted(cue_task(EXAMPLES).corpus, NoiseImages())
    with pytest.raises(LocusError, match=r"bowl\.png.*gold and grade of the task cue_search"):
        check(family, cues(family, 0), task=task)


def test_a_wrong_image_size_in_the_annotations_is_caught_on_the_way():
    """Annotations made on a resized copy: relative boxes stay right, the cue does not, so the task refuses it."""

    class Resized:
        def open(self, path: str) -> Image.Image:
            return Image.new("RGB", (640, 480))

    task = cue_task(EXAMPLES)
    task.source = Resized()
    with pytest.raises(LocusError, match=r"bowl\.png.*640x480.*500x375"):
        check("qwen3_vl", made("qwen3_vl", task), task=task)


@FAMILY
@pytest.mark.parametrize("lost", list("[],."))
def test_a_tokenizer_that_loses_a_character_is_caught(family: str, lost: str):
    """A perfect answer that the decoded text no longer holds."""

    class Lossy(PromptBuilder):
        def decode(self, token_ids: torch.Tensor) -> str:
            return super().decode(token_ids).replace(lost, "")

    make = builder(family)
    with pytest.raises(LocusError, match="pre-flight"):
        check(family, cues(family), builder=Lossy(make.processor, make.pixels))


def test_a_template_that_opens_the_thinking_unseen_is_caught():
    """The gold text continues what the prompt says was opened; a wrong one costs it the format reward."""
    samples = [replace(one, prompt=replace(one.prompt, opened="<think> so: <think>")) for one in cues("qwen3_vl")]
    with pytest.raises(LocusError, match="pre-flight"):
        check("qwen3_vl", samples)


@pytest.fixture(params=["iou", "giou", "iou_threshold", "format_only"])
def reward(request: pytest.FixtureRequest, compose_app: Callable) -> BoxReward:
    """Every reward that conf has."""
    return instantiate(compose_app("train", [f"reward={request.param}"]).reward)


def test_every_reward_is_here(repo: Path):
    """A reward that is added and never meets the pre-flight."""
    assert {file.stem for file in (repo / "conf" / "reward").glob("*.yaml")} == {
        *("iou", "giou", "iou_threshold", "format_only")
    }


@FAMILY
def test_right_frames_pass_with_every_reward(family: str, reward: BoxReward):
    """A reward that its own pre-flight refuses, or that a shifted box costs nothing."""
    earned = check(family, cues(family), reward=reward).rewards
    assert earned["gold"] == pytest.approx(1, abs=1e-3)
    assert earned["foil"] < 0.6 if reward.alpha < 1 else "foil" not in earned


def test_wrong_frames_are_caught_with_every_reward(reward: BoxReward):
    """Frames 5 % apart: the boxes overlap by more than half, which a threshold, or a format alone, rewards in full."""
    (sample,) = cues("qwen2_5_vl", 2)
    width, height = sample.view.processed
    samples = [replace(sample, view=replace(sample.view, processed=(width * 1.05, height)))]
    with pytest.raises(LocusError, match=r"pre-flight.*iou 0\.[5-9].*backbone\.frame"):
        check("qwen2_5_vl", samples, reward=reward)


@FAMILY
def test_a_reward_that_ignores_the_place_is_caught(family: str):
    """A localisation reward that is 1 for any box: shifted boxes then earn as much as true ones."""
    with pytest.raises(LocusError, match=r"foil earns 1\.000.*as much as the gold answer"):
        check(family, cues(family), reward=BoxReward(localisation=lambda box, target: 1.0))


def test_a_format_only_reward_passes():
    """With alpha 1 the place earns nothing by intent."""
    report = check("qwen3_vl", cues("qwen3_vl"), reward=BoxReward(alpha=1.0))
    assert report.rewards["gold"] == 1 and "foil" not in report.rewards


def test_an_empty_corpus_is_refused():
    """A division by zero, or a run that starts with nothing checked."""
    with pytest.raises(LocusError, match="no example"):
        check("qwen3_vl", [])


# --- Blind ----------------------------------------------------------------------------------------------------
@FAMILY
def test_black_is_what_the_processor_makes_of_black_pictures(family: str):
    """Grey, or another size: a policy would see something, or be asked something else."""
    make = SampleMaker(task := cue_task(EXAMPLES), builder(family), FAMILIES[family][1])
    for one in EXAMPLES:
        query, ours = task.prompt(one, make.frame), blackened(make(one))
        black = [Image.new("RGB", image.size) for image in query.images]
        theirs = builder(family).build(one.example_id, query.text, black)
        for name in ("input_ids", "image_grid_thw", "pixel_values"):
            assert torch.equal(getattr(ours.prompt, name), getattr(theirs, name))
        assert (ours.example, ours.view) == (one, make(one).view)


@pytest.mark.parametrize(
    ("chance", "samples", "limit"),
    [
        (0.25, 4, 1.0),  # four of four: 0.25^4 = 0.0039
        (0.25, 5, 0.8),  # five of five: 0.25^5 = 0.00098; four or more: 0.0156
        (0.01, 2, 0.5),  # two of two: 0.0001; one or more: 0.0199
        (0.0, 8, 0.0),
        (1.0, 8, 1.0),
    ],
)
def test_luck_by_hand(chance: float, samples: int, limit: float):
    """A run that is stopped although its policy only guesses, or the reverse; 0.00135 is the line."""
    assert luckiest(chance, samples) == limit


@pytest.mark.parametrize("chance", [1 / 24, 0.25, 0.9])
def test_luck_is_exceeded_as_seldom_as_is_said(chance: float):
    """Against 400,000 draws, and for many samples against three standard errors."""
    hits = np.random.default_rng(0).binomial(32, chance, 400_000) / 32
    assert (hits > luckiest(chance, 32)).mean() < RARE * 1.2 and (hits >= luckiest(chance, 32)).mean() > RARE * 0.8
    errors = (luckiest(chance, 100_000) - chance) / np.sqrt(chance * (1 - chance) / 100_000)
    assert errors == pytest.approx(3, abs=0.03)


def test_a_task_without_chance_is_not_judged():
    """A default that ends runs of tasks which know nothing of it; or a mean of rewards in place of the headline."""
    groups = [RolloutGroup(one, (earns(one),)) for one in made("qwen3_vl", Numbers(12))]
    report = check_blind(Numbers(12), groups)
    assert str(report) == "blind earns 1.000, the task states no chance" and report.samples == 12

    class Halves(Numbers):
        def chance(self, examples: Sequence[object]) -> float:
            return 0.5

    with pytest.raises(LocusError, match=r"pre-flight: numbers: .*mean right of 12 prompts: blind earns 1\.000"):
        check_blind(Halves(12), groups)
    assert check_blind(Halves(12), groups[:9]).earned == 1  # nine of nine: 0.002


def earns(sample: Sample) -> Rollout:
    """A right answer of `Numbers`."""
    grade = Numbers(12).grade(sample.example, Response(Numbers(12).gold(sample.example, sample.view)), sample.view)
    return Rollout(Completion(torch.zeros(1), torch.zeros(1), True), "", grade)


# --- Every task -----------------------------------------------------------------------------------------------
SCENES = SceneSource(1, 128, 128, (4, 7), (10, 26), seed=6)
TASKS: dict[str, Callable[[], Task]] = {
    "cue search": lambda: cue_task(EXAMPLES),
    "questions": lambda: Questions(GeneratedQuestions((SCENES,), KINDS_IN_WORDS, 1), think=True, alpha=0.1),
    "mixture": lambda: Mixture({"main": TASKS["cue search"](), "other": TASKS["questions"]()}, {"main": 1, "other": 1}),
    "numbers": lambda: Numbers(3),
    **{f"scenes, {ask.__name__}": lambda ask=ask: SceneQuestions(SCENES, ask, 4, 7) for ask in KINDS},
}
KINDS_IN_WORDS = tuple(ask for ask in KINDS if ask is not grounding)


@FAMILY
@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_gold_earns_1_in_every_part_and_the_foil_less(family: str, task: Callable[[], Task]):
    """A gold answer that its own task does not take; parts outside [0, 1]; a headline that no validation has."""
    task = task()
    drawn = 4 if isinstance(task, Mixture | Questions) else None
    samples = made(family, task, drawn)
    earned = check(family, samples, task=task).rewards
    assert earned["gold"] == pytest.approx(1, abs=1e-2)
    assert ("foil" in earned) == (not isinstance(task, Numbers))
    for sample in samples:
        for text in (task.gold(sample.example, sample.view), "<think>[1, 2, 3, 4]", "<answer>", ""):
            grade = grade_written(task, sample, text, builder(family).encode, builder(family).decode)
            assert 0 <= grade.total <= 1 and all(0 <= part <= 1 for part in grade.parts.values())
        assert grade.total == 0  # of no answer


@FAMILY
def test_a_mixture_is_checked_in_all_its_parts(family: str):
    """A pre-flight that looks at cues alone: the fault is in a question's answer, or in a cue's frame."""
    task = TASKS["mixture"]()
    samples = made(family, task, 4)
    kinds = [one.example.part for one in samples]
    assert sorted(kinds) == [0, 0, 1, 1]
    cue, question = samples[kinds.index(0)], samples[kinds.index(1)]
    broken = replace(question.example, inner=replace(question.example.inner, answer="</answer>"))
    with pytest.raises(LocusError, match="pre-flight: example question-0-0-"):
        check(family, [*samples, replace(question, example=broken)], task=task)
    other = Frame.FILE if cue.view.frame is not Frame.FILE else Frame.UNIT1000
    with pytest.raises(LocusError, match=r"pre-flight: example example-.*read in frame file"):
        check(family, [*samples, replace(cue, view=View(other))], task=task)


def test_a_template_that_opens_the_thinking_passes():
    """A gold answer that opens it twice: every run of a thinking backbone would be stopped."""
    processor = backbone("qwen3_vl").processor()
    ending = "<|im_start|>assistant\n{% endif %}"
    processor.chat_template = processor.chat_template.removesuffix(ending) + ending.replace("\n", "\n<think>\n")
    make, task = PromptBuilder(processor, builder("qwen3_vl").pixels), cue_task(EXAMPLES)
    samples = [SampleMaker(task, make, Frame.UNIT1000)(one) for one in EXAMPLES]
    assert {one.prompt.opened for one in samples} == {"<think>\n"}
    assert check("qwen3_vl", samples, builder=make).rewards["gold"] == pytest.approx(1, abs=1e-3)
