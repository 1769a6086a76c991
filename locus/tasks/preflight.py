"""Pre-flight: gold answers through the real dataset, processor, template, parser and reward, before step 1.

It finds silent errors, such as boxes in one frame and rewards in another: a task's gold answer must earn 1 in every
part, and its foil must earn less. A policy whose pictures are black must not earn more than chance.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import mean

import torch

from locus.errors import LocusError
from locus.policy.prompts import PromptBuilder
from locus.tasks.answers import after_opened
from locus.tasks.task import Task
from locus.types import Frame, Grade, Response, RolloutGroup, Sample, View

TOLERANCE = 1e-2
RARE = 0.00135
"""How often a normal variable lies three standard deviations or more above its mean."""


@dataclass(frozen=True)
class PreflightReport:
    """Mean rewards over the samples checked, by what was answered: ``gold``, ``foil`` and the task's variants."""

    rewards: Mapping[str, float]
    samples: int

    def __str__(self) -> str:
        return ", ".join(f"{name} earns {value:.3f}" for name, value in self.rewards.items())


def check_examples(task: Task, count: int, steps: int) -> None:
    """Raises LocusError unless each of ``steps`` steps can have ``count`` training examples, and a validation any."""
    task.check(count, steps)
    if not len(task.examples("validation")):
        raise LocusError(
            f"the task {task.name} has no held-out examples: use it as a part of task=mixture beside a main one that "
            "has, or hold some out"
        )


def preflight(task: Task, samples: Sequence[Sample], builder: PromptBuilder, frame: Frame) -> PreflightReport:
    """Checks these samples; raises LocusError unless every gold answer earns 1 and every foil earns less.

    Args:
        task: the run's, with its reward.
        samples: as the datamodule makes them.
        builder: whose tokenizer the rollouts use.
        frame: the one that the policy speaks. Gold answers are written in it, sized by each prompt's own grid, not by
            what the sample says of itself: that is what is checked.
    """
    rewards: dict[str, list[float]] = defaultdict(list)
    for sample in samples:
        gold_view = _view(sample, frame, builder.patch_size)

        def earned(text: str, sample: Sample = sample) -> Grade:
            return grade_written(task, sample, text, builder.encode, builder.decode)

        gold = earned(task.gold(sample.example, gold_view))
        rewards["gold"].append(gold.total)
        lowest = min([gold.total, *gold.parts.values()])
        if lowest < 1 - TOLERANCE:
            raise LocusError(
                f"pre-flight: {_name(task, sample)}: the gold answer earns {gold.total:.3f} ({_parts(gold)}), written "
                f"for {_seen(gold_view)} and read in {_seen(sample.view)}: it must earn 1; check backbone.frame, the "
                f"annotations' image size, and gold and grade of the task {task.name}"
            )
        foil = task.foil(sample.example, gold_view)
        if foil is not None:
            other = earned(foil)
            rewards["foil"].append(other.total)
            if other.total >= gold.total:
                raise LocusError(
                    f"pre-flight: {_name(task, sample)}: the foil earns {other.total:.3f} ({_parts(other)}), as much "
                    "as the gold answer: the reward does not distinguish them; choose another reward, or a higher "
                    "threshold"
                )
        for name, text in task.variants(sample.example, gold_view).items():
            rewards[name].append(earned(text).total)
    if not samples:
        raise LocusError("pre-flight: no example to check: choose other data or crops")
    return PreflightReport({name: mean(values) for name, values in rewards.items()}, len(samples))


# --- Blind ----------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class BlindReport:
    """What a policy earns whose pictures are black."""

    earned: float
    """The mean of the task's headline."""
    chance: float | None
    """As the task states it; None where it states none."""
    samples: int

    def __str__(self) -> str:
        if self.chance is None:
            return f"blind earns {self.earned:.3f}, the task states no chance"
        limit = luckiest(self.chance, self.samples)
        return f"blind earns {self.earned:.3f}, chance {self.chance:.3f}, by luck {limit:.3f} at most"


def blackened(sample: Sample) -> Sample:
    """The same text, and pictures of the same sizes that are all black."""
    pixels = sample.prompt.pixels
    black = replace(pixels, levels=pixels.levels.new_zeros(1).expand_as(pixels.levels))
    return replace(sample, prompt=replace(sample.prompt, pixels=black))


def check_blind(task: Task, groups: Sequence[RolloutGroup]) -> BlindReport:
    """Compares what a policy earns on `blackened` samples with the task's chance.

    Args:
        task: that the samples are of.
        groups: what the policy has answered; at least one.

    Raises:
        LocusError: it earns more than `luckiest` allows.
    """
    chance = task.chance([group.sample.example for group in groups])
    report = BlindReport(task.validation_metrics(groups)[task.headline], chance, len(groups))
    if chance is not None and report.earned > luckiest(chance, report.samples):
        raise LocusError(
            f"pre-flight: {task.name}: a policy that sees black pictures earns more than chance (mean {task.headline} "
            f"of {report.samples} prompts: {report}): the text, the pictures' sizes or their order gives it away, "
            "or the task's chance is wrong; mend its prompt or chance, or go on as it is with preflight_blind=0"
        )
    return report


def luckiest(chance: float, samples: int) -> float:
    """The largest mean that blind answers reach by luck: they exceed it less often than `RARE`.

    By the binomial distribution. Of all variables in [0, 1] with a given mean, those that are 0 or 1 vary most, so it
    serves for partial credit and for IoU, too. Where a hit is rare, three standard errors would be exceeded ten times
    as often.

    Args:
        chance: the mean that is expected, in [0, 1].
        samples: N independent ones.
    """
    if not 0 < chance < 1:
        return chance
    rarer = 0.0
    for hits in range(samples, 0, -1):
        ways = math.lgamma(samples + 1) - math.lgamma(hits + 1) - math.lgamma(samples - hits + 1)
        rarer += math.exp(ways + hits * math.log(chance) + (samples - hits) * math.log1p(-chance))
        if rarer >= RARE:
            return hits / samples
    return 0.0


def grade_written(
    task: Task,
    sample: Sample,
    text: str,
    encode: Callable[[str], list[int]],
    decode: Callable[[torch.Tensor], str],
) -> Grade:
    """What a whole response earns on its way through the tokenizer, as if the policy had written it."""
    opened = sample.prompt.opened
    completion = decode(torch.tensor(encode(after_opened(text, opened))))
    return task.grade(sample.example, Response(opened + completion), sample.view)


def _view(sample: Sample, frame: Frame, patch_size: int) -> View:
    if not len(sample.prompt.image_grid_thw):
        return View(frame)
    rows, columns = sample.prompt.image_grid_thw[0, 1:].tolist()
    return View(frame, (columns * patch_size, rows * patch_size))


def _name(task: Task, sample: Sample) -> str:
    path = task.row(sample.example).get("image_path", "")
    return f"example {sample.prompt.prompt_id}" + (f" on {path}" if path else "")


def _parts(grade: Grade) -> str:
    return ", ".join(f"{name} {value:.3f}" for name, value in grade.parts.items())


def _seen(view: View) -> str:
    return f"frame {view.frame}" + (f" of {view.processed[0]:g}x{view.processed[1]:g}" if view.processed else "")
