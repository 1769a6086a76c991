"""Every task of conf/task, found by glob, states its chance and proves it: gold, foil, blind answers, black pictures.

A task that is added is tested by being there. Those of a user's own file are not.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import cache
from itertools import pairwise
from math import sqrt
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from PIL import Image

import locus.run.runtime  # noqa: F401  its resolvers are conf's
from locus.boxes import parse_frame
from locus.policy.engines import LocalEngine
from locus.policy.prompts import PromptBuilder
from locus.policy.vlm import VLM
from locus.run.callbacks import RolloutTable
from locus.tasks.choices import ChoiceTask
from locus.tasks.datamodule import SampleMaker
from locus.tasks.preflight import blackened, check_blind, luckiest, preflight
from locus.tasks.proxies.rotation import TURNS, Rotation
from locus.tasks.rollouts import graded, roll_out
from locus.tasks.task import Task
from locus.types import Completion, CueExample, Frame, Response, RolloutGroup, Sample, View
from tests.support.paths import CONF

NAMES = sorted(file.stem for file in (CONF / "task").glob("*.yaml"))
ALL = pytest.mark.parametrize("name", NAMES)
SCENES = ("data.source.count=80", "data.source.height=96", "data.train_examples=64", "data.validation_examples=256")
"""Pictures that are not square: their shapes could tell something."""
VIEW = View(Frame.UNIT1000)


@cache
def configured() -> DictConfig:
    """A run on small scenes, with all tasks below ``tried``: composed once, in place of a second for each of them."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("train", [*SCENES, *(f"+task@tried.{name}={name}" for name in NAMES)])


@cache
def built(name: str) -> Task:
    return instantiate(configured().tried[name], _convert_="all")


def stated(name: str) -> tuple[Task, list[Any], float]:
    """The task with its held-out examples and its chance."""
    if missing := OmegaConf.missing_keys(configured().tried[name]):
        pytest.skip(f"asks about a user's file: {', '.join(missing)}")
    task = built(name)
    if len(task.apart()) > 1:
        pytest.skip("a mixture: its parts are tried by themselves")
    if not len(examples := task.examples("validation")):
        pytest.skip("no example is held out: it is trained on as a part of mixtures")
    chance = task.chance(examples)
    assert chance is not None and 0 <= chance < 1
    return task, list(examples), chance


def earned(task: Task, examples: Sequence[Any], texts: Sequence[str]) -> float:
    """The mean headline of these responses."""
    grades = [task.grade(one, Response(text), VIEW) for one, text in zip(examples, texts, strict=True)]
    return task.summary(grades)[task.headline]


def evenly(task: Task, chance: float) -> bool:
    """One of a few options, each as often right as any other."""
    return isinstance(task, ChoiceTask) and chance == 1 / len(task.options)


@ALL
def test_blind_answers_earn_chance(name: str):
    """A chance that is stated too low, or for even choices too high; blind answers in a form that costs reward.

    Within three standard errors, a draw for each held-out example; no variable in [0, 1] of that mean has larger ones.
    """
    task, examples, chance = stated(name)
    rng = np.random.default_rng(0)
    texts = [task.blind(one, VIEW, rng) for one in examples]
    mean, error = earned(task, examples, texts), 3 * sqrt(chance * (1 - chance) / len(examples))
    assert chance - (error if evenly(task, chance) else 1) <= mean <= chance + error
    grades = (task.grade(one, Response(text), VIEW) for one, text in zip(examples, texts, strict=True))
    assert {grade.parts.get("format", 1) for grade in grades} == {1}


@ALL
def test_answers_of_even_choices_are_balanced(name: str):
    """A right answer that is often the first one. Chi-square with k - 1 degrees of freedom, by its mean and deviation.

    Its variance is 2 (k - 1) (1 - 1/n), however few examples an option has.
    """
    task, examples, chance = stated(name)
    if not evenly(task, chance):
        pytest.skip("not a choice of options that are right as often as each other")
    counts, options = Counter(task.answer(one) for one in examples), len(task.options)
    share = len(examples) / options
    squares = sum((count - share) ** 2 for count in counts.values()) + (options - len(counts)) * share**2
    assert squares / share < options - 1 + 5 * sqrt(2 * (options - 1))


CLUES: Mapping[str, Callable[[str, list[tuple[int, int]]], Hashable]] = {
    "text": lambda text, sizes: text,
    "number of pictures": lambda text, sizes: len(sizes),
    "sizes": lambda text, sizes: tuple(sizes),
    "shapes": lambda text, sizes: tuple(int(np.sign(width - height)) for width, height in sizes),
    "largest": lambda text, sizes: int(np.argmax([width * height for width, height in sizes])),
    "smallest": lambda text, sizes: int(np.argmin([width * height for width, height in sizes])),
    "of rarest size": lambda text, sizes: int(np.argmin([sizes.count(size) for size in sizes])),
}
"""What can be known of a prompt without a look at its pictures."""


def guessed(task: Task, examples: Sequence[Any]) -> dict[str, float]:
    """Clue -> the mean headline on the second half, answered by what was mostly right with it in the first."""
    half, outlines = len(examples) // 2, [task.outline(one, Frame.UNIT1000) for one in examples]
    gold = [task.gold(one, VIEW) for one in examples[:half]]
    means = {}
    for name, clue in CLUES.items():
        known, right = [clue(*outline) for outline in outlines], defaultdict(Counter)
        for place, text in enumerate(gold):
            right[known[place]][text] += 1
        commonest = Counter(gold).most_common(1)
        texts = [(right[one].most_common(1) or commonest)[0][0] for one in known[half:]]
        means[name] = earned(task, examples[half:], texts)
    return means


@ALL
def test_neither_text_nor_sizes_give_the_answer_away(name: str):
    """The best guess of a policy that has read many prompts and seen no picture."""
    task, examples, _ = stated(name)
    rest = examples[len(examples) // 2 :]
    limit = luckiest(task.chance(rest), len(rest))
    assert {clue: mean for clue, mean in guessed(task, examples).items() if mean > limit} == {}


class Oblong(Rotation):
    """Turns the whole picture, so its shape tells a quarter turn from a half one."""

    def pictures(
        self, example: CueExample, image: Image.Image, right: int, rng: np.random.Generator
    ) -> tuple[Image.Image, ...]:
        return image, image if TURNS[right] is None else image.transpose(TURNS[right])


def test_a_shape_that_gives_the_answer_away_is_caught():
    """A guess that cannot find what is there: with two of four turns known it earns twice as much."""
    task = Oblong(built("rotation").corpus, built("rotation").source)
    examples, limit = list(task.examples("validation")), luckiest(0.25, 128)
    means = guessed(task, examples)
    assert means["shapes"] == pytest.approx(0.5, abs=0.13) and means["text"] <= limit < means["shapes"]


@ALL
def test_what_is_asked_is_an_examples_own(name: str):
    """Random numbers that go on from example to example, or those of the image, the same for all of its crops."""
    task, examples, _ = stated(name)
    order = [*range(5), *range(4, -1, -1)]
    seen = [asked(task, examples[place]) for place in order]
    assert seen == seen[::-1]
    of_image = defaultdict(list)
    for one in examples:
        of_image[task.row(one).get("image_id", one.example_id)].append(one)
    pairs = [two for same in of_image.values() for two in pairwise(same[:2])][:12]
    assert not pairs or any(asked(task, one) != asked(task, other) for one, other in pairs)


def asked(task: Task, example: Any) -> tuple[Any, ...]:
    """Text, pictures and right answer."""
    query = task.prompt(example, Frame.UNIT1000)
    return query.text, [(one.size, one.tobytes()) for one in query.images], task.gold(example, VIEW)


# --- Through the bundled backbone -----------------------------------------------------------------------------
@cache
def tiny() -> tuple[PromptBuilder, Frame]:
    backbone = instantiate(configured().backbone)
    pixels = instantiate(configured().pixels)
    return PromptBuilder(backbone.processor(), pixels, backbone.family), parse_frame(backbone.frame)


@cache
def policy() -> VLM:
    return instantiate(configured().backbone).load()


def samples(task: Task, examples: Sequence[Any]) -> list[Sample]:
    make = SampleMaker(task, *tiny())
    return [make(one) for one in examples]


@ALL
def test_gold_earns_1_and_a_foil_less(name: str):
    """Which the pre-flight asserts, of every part; a foil that only some examples have."""
    task, examples, _ = stated(name)
    few = samples(task, examples[:6])
    rewards = preflight(task, few, *tiny()).rewards
    foils = [task.foil(one.example, one.view) for one in few]
    assert ("foil" in rewards) == (None not in foils) and len({foil is None for foil in foils}) == 1


@ALL
def test_rollouts_say_whether_an_answer_was_right(name: str, tmp_path: Path):
    """Cells that are documented, and empty: a mean of them over the run is not a number."""
    task, examples, _ = stated(name)
    if "expected" not in task.row(examples[0]):
        pytest.skip("answered by a box")
    (one,) = samples(task, examples[:1])
    table, completion = RolloutTable(tmp_path, task, last_step=0), Completion(torch.tensor([1]), torch.zeros(1), True)
    texts = task.gold(one.example, one.view), "<think>t</think><answer>neither</answer>"
    group = RolloutGroup(one, tuple(graded(task, one, completion, text) for text in texts))
    table.table.append(1, table.rows(SimpleNamespace(finished_steps=1), group, torch.zeros(2)))
    table.table.close()
    assert pd.read_parquet(tmp_path / "rollouts.parquet")["correct"].tolist() == [1, 0]


@ALL
@pytest.mark.slow
def test_the_tiny_base_stays_at_chance_without_pictures(name: str):
    """A prompt that a true policy can answer blind."""
    how, (builder, _) = configured().rollout, tiny()
    engine, sampling = LocalEngine(how.token_budget, how.decode_budget), instantiate(how.validation)
    task, examples, _ = stated(name)
    black = [blackened(one) for one in samples(task, examples[:32])]
    groups = [group for group, _ in roll_out(policy(), task, black, builder.decode, sampling, 1, 0, -1, engine)]
    report = check_blind(task, groups)
    assert report.samples == 32 and report.chance is not None
