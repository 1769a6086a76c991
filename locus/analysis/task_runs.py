"""Runs of a sweep of tasks: what each was trained on, at what budget, and what it cost."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from locus.analysis import runs
from locus.analysis.ablations import as_set

COSTS = ("steps", "completions", "seconds", "tokens")
"""Of a run: seconds of training steps; tokens of completions. NaN where a run does not say."""
LENGTH = "train/completion_length"


@dataclass(frozen=True)
class Budget:
    """What the runs of one table have alike."""

    seconds: float | None
    """``trainer.max_seconds``; None: as many completions."""
    completions: int | None
    """As planned, of a budget in completions; None where the run does not say."""

    @property
    def kind(self) -> str:
        """Without the number."""
        return "equal completions" if self.seconds is None else "equal seconds"

    @property
    def name(self) -> str:
        """``equal completions (2,560)`` or ``equal seconds (120 s)``."""
        if self.seconds is not None:
            return f"{self.kind} ({self.seconds:g} s)"
        return self.kind if self.completions is None else f"{self.kind} ({self.completions:,})"

    @property
    def file(self) -> str:
        """The same in names of files: ``equal_completions_2560``."""
        number = self.completions if self.seconds is None else f"{self.seconds:g}".replace(".", "_")
        return "_".join([*self.kind.split(), *([] if number is None else [str(number)])])


@dataclass(frozen=True)
class TaskRun:
    """A finished run of one task or of several."""

    folder: Path
    setting: str
    """The tasks trained on, and in what else runs of these tasks differ."""
    tasks: frozenset[str]
    budget: Budget
    seed: str
    costs: Mapping[str, float]
    """Of `COSTS`."""
    early: bool = False
    """It ended before its budget did: at ``trainer.stop_at``, or where the steps were done before the seconds were."""
    unlike: tuple[str, ...] = ()
    """Settings, beside its task's own, whose values runs of other tasks at this budget do not have, too."""


def task_runs(frame: pd.DataFrame, folders: Sequence[Path]) -> list[TaskRun]:
    """Finished runs that say what tasks they had, each setting, budget and seed once.

    Args:
        frame: of `runs.load`.
        folders: of its rows.
    """
    done = [folder if status == "finished" else None for folder, status in zip(folders, frame["status"], strict=True)]
    records = {place: runs.record(folder) for place, folder in enumerate(done) if folder is not None}
    records = {place: record for place, record in records.items() if record.get(runs.TASKS)}
    settings = {place: runs.settings(folders[place]) for place in records}
    budgets = {place: _budget(settings[place], record) for place, record in records.items()}
    names = {place: runs.tasks_named(record[runs.TASKS]) for place, record in records.items()}
    alike: dict[tuple[str, Budget], list[int]] = {}
    for place, name in names.items():
        alike.setdefault((name, budgets[place]), []).append(place)
    more, unlike = _others(frame, list(alike.values())), _unlike(frame, alike)
    found: dict[tuple[str, Budget, str], TaskRun] = {}
    for place, record in records.items():
        setting, seed = names[place] + more[place], str(frame["seed"].iloc[place])
        tasks = frozenset(name for name, share in record[runs.TASKS].items() if share)
        costs, budget = _costs(folders[place], record), budgets[place]
        steps = settings[place].get("trainer.steps")
        if budget.seconds is not None:
            early = costs["seconds"] < budget.seconds
        else:
            early = isinstance(steps, int) and costs["steps"] < steps
        run = TaskRun(folders[place], setting, tasks, budget, seed, costs, early, unlike[budget])
        found.setdefault((setting, budget, seed), run)
    return list(found.values())


def _others(frame: pd.DataFrame, alike: Sequence[Sequence[int]]) -> dict[int, str]:
    """Row -> the settings in which runs of its tasks differ, as text; the budget, and what the tasks' names say, aside.

    A task with another difficulty, or another algorithm, is another setting, not the same one run twice.

    Args:
        frame: of `runs.load`.
        alike: rows of the same tasks and budget.
    """
    plain = _settings(frame, "task.shares")
    texts: dict[int, str] = {}
    for places in alike:
        rows = frame.iloc[places]
        told = rows[plain].map(_told)
        differ = runs.telling(told, [name for name in plain if told[name].nunique() > 1])
        for place, values in zip(places, told[differ].to_numpy().tolist(), strict=True):
            pairs = zip(differ, values, strict=True)
            texts[place] = "".join(f", {name.split('.')[-1]}={value}" for name, value in pairs)
    return texts


def _told(value: object) -> str:
    """A setting as it tells runs apart; ``null`` where a run lacks it."""
    return "null" if pd.isna(value) else as_set(value)


def _unlike(frame: pd.DataFrame, alike: Mapping[tuple[str, Budget], Sequence[int]]) -> dict[Budget, tuple[str, ...]]:
    """Budget -> settings whose values are not the same for all tasks: another base, or learning rate.

    Args:
        frame: of `runs.load`.
        alike: (tasks, budget) -> their rows.
    """
    plain, found = _settings(frame, "task"), {}
    for budget in dict.fromkeys(budget for _, budget in alike):
        rows = [frame.iloc[places] for (_, one), places in alike.items() if one == budget]
        values = {name: {frozenset(part[name].map(_told)) for part in rows} for name in plain}
        found[budget] = tuple(name for name in plain if len(values[name]) > 1)
    return found


def _settings(frame: pd.DataFrame, left_out: str) -> list[str]:
    """In which the runs differ, without the budget, what the tasks' names say, and names that begin with this."""
    known = (left_out, runs.MAX_SECONDS, "trainer.steps")
    return [name for name in runs.axes(frame) if not name.startswith(known) and name != runs.TASKS]


def _budget(settings: Mapping[str, object], record: Mapping[str, object]) -> Budget:
    seconds = settings.get(runs.MAX_SECONDS)
    if seconds is not None:
        return Budget(float(str(seconds)), None)
    steps, each = settings.get("trainer.steps"), record.get("completions_per_step")
    return Budget(None, steps * each if isinstance(steps, int) and isinstance(each, int) else None)


def _costs(folder: Path, record: Mapping[str, object]) -> dict[str, float]:
    """Of `COSTS`, from ``metrics.csv`` and ``run.json``."""
    logged = runs.metrics(folder, [folder])
    trained: Mapping[str, float] = record.get("trained") or {}  # type: ignore[assignment]
    steps = float(trained.get("steps", logged["step"].max() if len(logged) else math.nan))
    per_step = float(record.get("completions_per_step") or math.nan)  # type: ignore[arg-type]
    phases: Mapping[str, float] = record.get("seconds_per_phase") or {}  # type: ignore[assignment]
    length = 0.0
    for name, share in dict(record["tasks"]).items():  # type: ignore[call-overload]
        # Metrics of the task that a mixture is named by have no name before them.
        column = next((one for one in (f"train/{name}_completion_length", LENGTH) if one in logged), None)
        length += share * (logged[column].mean() if column else math.nan)
    seconds = float(trained.get("seconds", sum(phases.values()) if phases else math.nan))
    costs = (steps, steps * per_step, seconds, steps * per_step * length)
    return dict(zip(COSTS, costs, strict=True))
