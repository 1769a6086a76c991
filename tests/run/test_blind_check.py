"""Before the first validation the policy is asked with black pictures; what it earns above chance ends the run."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from lightning import Trainer

from locus.errors import LocusError
from locus.policy.engines import Written
from locus.policy.vlm import VLM
from locus.run.blind_check import BlindCheck
from locus.scenes.source import SceneSource
from locus.tasks.answers import completion_text
from locus.tasks.cue_search.crops import CropStrategy
from locus.tasks.cue_search.drawing import build_corpus
from locus.tasks.datamodule import SampleMaker, TaskDataModule
from locus.tasks.proxies.rotation import Rotation
from locus.tasks.task import Task
from locus.types import Completion, Prompt, Sampling
from tests.support import miniature
from tests.support.models import FAMILIES, builder

HELD_OUT = 16


def rotation(kind: type[Rotation] = Rotation) -> Rotation:
    """On small scenes of one object."""
    source = SceneSource(24, 64, 64, [1, 1], [16, 32], gap=0, lookalikes=0.0, clutter=0.0, seed=0)
    corpus = build_corpus(source.table(), CropStrategy({"any": (0, 1)}, {"any": 1}, 8, {}, {}), 4, HELD_OUT, seed=0)
    return kind(corpus, source)


class Knowing:
    """An engine that has no model: it writes what it knows of each prompt, and keeps the prompts."""

    def __init__(self, says: Callable[[str], str]) -> None:
        self.says, self.seen = says, []

    def __call__(
        self, policy: VLM, prompts: Sequence[Prompt], group: int, sampling: Sampling, seed: int, step: int,
        encoded: Any = None,
    ) -> Written:  # fmt: skip
        self.seen += prompts
        ids = [torch.tensor(builder(miniature.FAMILY).encode(self.says(one.prompt_id))) for one in prompts]
        return [[Completion(one, torch.zeros(len(one)), True)] * group for one in ids], [None] * len(prompts)


def validated(task: Task, says: Callable[[str], str], check: BlindCheck) -> list[Prompt]:
    """The validation before step 1 of a run of the task; the prompts in the order in which they were asked."""
    module, _ = miniature.grpo()
    module.task, module.engine = task, Knowing(says)
    make = SampleMaker(task, builder(miniature.FAMILY), FAMILIES[miniature.FAMILY][1])
    data = TaskDataModule(make, 2, validation_batch=8, steps=1, workers=0, seed=0)
    silent = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = Trainer(accelerator="cpu", callbacks=[check], enable_checkpointing=False, **silent)
    trainer.validate(module, data, verbose=False)
    return module.engine.seen


def gold(task: Task) -> Callable[[str], str]:
    answers = {one.example_id: task.gold(one, None) for one in task.examples("validation")}
    return answers.__getitem__


def test_a_policy_that_guesses_goes_on(caplog: pytest.LogCaptureFixture):
    """Pictures that are not black, other prompts than the first held-out ones, a validation that sees black, too."""
    caplog.set_level(logging.INFO, "locus")
    task = rotation()
    seen = validated(task, lambda name: completion_text("0"), BlindCheck(6))
    names = [one.example_id for one in task.examples("validation")]
    assert [prompt.prompt_id for prompt in seen] == names[:6] + names
    assert [bool(prompt.pixels.levels.any()) for prompt in seen] == [False] * 6 + [True] * HELD_OUT
    right = sum(task.answer(one) == "0" for one in task.examples("validation")[:6]) / 6
    said = f"6 samples of rotation with black pictures: blind earns {right:.3f}, chance 0.250, by luck 0.833 at most"
    assert [record.getMessage() for record in caplog.records if "black" in record.getMessage()] == [
        f"pre-flight, {said}"
    ]


def test_a_policy_that_knows_the_answers_ends_the_run():
    """Answers given away by anything but the pictures: a run that teaches nothing, and whose reward climbs."""
    task = rotation()
    with pytest.raises(
        LocusError, match=r"rotation: .*16 prompts: blind earns 1\.000, chance 0\.250.*preflight_blind=0"
    ):
        validated(task, gold(task), BlindCheck(32))
    with pytest.raises(LocusError, match="rotation"):
        validated(task, gold(task), BlindCheck(5))  # five of five is rarer than luck, four of four is not
    assert len(validated(task, gold(task), BlindCheck(4))) == 4 + HELD_OUT


class TwoTasks(Rotation):
    """A mixture as the check knows it."""

    def apart(self) -> Sequence[Task]:
        return rotation(), rotation(Fourth)


class Fourth(Rotation):
    """Always turned back by a quarter."""

    name = "fourth"

    def right(self, example: Any, rng: Any) -> int:
        return 3


def test_each_part_of_a_mixture_is_judged_by_itself():
    """A mean over parts, in which one that is given away is lost."""
    with pytest.raises(LocusError, match=r"pre-flight: fourth: .*blind earns 1\.000"):
        validated(rotation(TwoTasks), lambda name: completion_text("270"), BlindCheck(HELD_OUT))
