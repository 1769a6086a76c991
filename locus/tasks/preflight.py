"""Pre-flight: gold answers through the real dataset, processor, template, parser and reward, before step 1.

It finds silent errors, such as boxes in one frame and rewards in another: a task's gold answer must earn 1 in every
part, and its foil must earn less.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean

import torch

from locus.errors import LocusError
from locus.policy.prompts import PromptBuilder
from locus.tasks.answers import after_opened
from locus.tasks.task import Task
from locus.types import Frame, Grade, Response, Sample, View

TOLERANCE = 1e-2


@dataclass(frozen=True)
class PreflightReport:
    """Mean rewards over the samples checked, by what was answered: ``gold``, ``foil`` and the task's variants."""

    rewards: Mapping[str, float]
    samples: int

    def __str__(self) -> str:
        return ", ".join(f"{name} earns {value:.3f}" for name, value in self.rewards.items())


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
