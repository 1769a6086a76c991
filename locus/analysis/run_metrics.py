"""A run's own summary: the validation table and the figure of its curve."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from locus.analysis.pages.page import Section
from locus.analysis.tables import paired_table
from locus.tasks.cue_search.task import CueSearch

BEFORE, AFTER = "before", "after"
"""A run's base and its trained policy, in column ``policy``."""
HEADLINE = f"val/{CueSearch.headline}"
"""Of cue search."""
LABELS = {f"val/{name}": label for name, label in CueSearch.labels.items()}


def validation_scalars(names: Iterable[str]) -> dict[str, str]:
    """Columns ``val/<scalar>`` among these -> labels; those of cue search first, in their order, then the others."""
    present = [name for name in names if name.startswith("val/") and name.count("/") == 1]
    known = {name: label for name, label in LABELS.items() if name in present}
    return known | {name: name.removeprefix("val/") for name in present if name not in known}


def other_tasks(metrics: pd.DataFrame) -> list[str]:
    """Names of the tasks that a mixture trains on beside its main one."""
    names = [name for name in metrics if name.startswith("train/") and name.endswith("_reward")]
    return [name.removeprefix("train/").removesuffix("_reward") for name in names]


def task_curves(metrics: pd.DataFrame) -> dict[str, str]:
    """Columns -> labels: of each of a mixture's other tasks the reward, and the validation where it has one."""
    curves = {}
    for task in other_tasks(metrics):
        said = task.replace("_", " ")
        curves[f"train/{task}_reward"] = f"{said}: reward"
        validated = [name for name in metrics if name.startswith(f"val/{task}_") and name.count("/") == 1]
        curves |= {name: f"{said}: validation {name.removeprefix(f'val/{task}_')}" for name in validated}
    return curves


def by_task(validation: pd.DataFrame, name: str) -> list[tuple[str, pd.DataFrame]]:
    """(task, its rows) of ``validation.parquet``, a mixture's main task first; ``name`` is that of a task alone."""
    return list(validation.groupby("task", sort=False)) if "task" in validation else [(name, validation)]


def validations(metrics: pd.DataFrame) -> pd.DataFrame:
    """What was logged at each validation, by the task and beside it: one row per step."""
    names = list(validation_scalars(metrics))
    rows = metrics[metrics[names].notna().any(axis=1)] if names else metrics[:0]
    return rows.groupby("step", as_index=False).last()


def read_metrics(folder: Path) -> pd.DataFrame:
    """``metrics.csv`` of a run folder, one row per logged step."""
    return pd.read_csv(folder / "metrics.csv")


def phase_seconds(metrics: pd.DataFrame) -> dict[str, float]:
    """Wall time of each phase over the whole run, by its name without ``time/`` and ``_s``."""
    names = [name for name in metrics if name.startswith("time/")]
    return {name.removeprefix("time/").removesuffix("_s"): float(metrics[name].sum()) for name in names}


def final_validation(metrics: pd.DataFrame, headline: str) -> dict[str, float]:
    """``val/…`` scalars of the last validation, also when a resumed run had nothing left to do."""
    rows = validations(metrics)
    last = rows[rows[f"val/{headline}"].notna()].iloc[-1]
    return {name: float(last[name]) for name in rows if name.startswith("val/") and pd.notna(last[name])}


def validation_rows(metrics: pd.DataFrame) -> pd.DataFrame:
    """The rows of validations, one per step, with the columns that the table shows; bins as ``tiny IoU`` and so on."""
    names = validation_scalars(metrics) or LABELS
    if not len(validations(metrics)):
        return pd.DataFrame(columns=["step", *names.values()])
    end = HEADLINE.removeprefix("val")
    names |= {name: f"{name.split('/')[1]} IoU" for name in metrics if name.count("/") == 2 and name.endswith(end)}
    rows = validations(metrics)[["step", *names]].rename(columns=names)
    return rows.astype({"step": int})


def validation_table(metrics: pd.DataFrame) -> str:
    """The validations of a run as aligned text."""
    return validation_rows(metrics).to_string(index=False, float_format=lambda value: f"{value:.3f}")


def save_curve(metrics: pd.DataFrame, path: Path, headline: str) -> None:
    """Draws reward parts over steps with the validation's headline, and KL below, as a PNG."""
    figure = Figure(figsize=(7, 5), layout="constrained")
    FigureCanvasAgg(figure)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    for name, label in (
        ("train/iou", "IoU"),
        ("train/format", "format"),
        ("train/reward", "reward"),
        ("train/loss", "loss"),
    ):
        if name in metrics and (name != "train/loss" or "train/reward" not in metrics):
            rows = metrics[metrics[name].notna()]
            upper.plot(rows["step"], rows[name], linewidth=1, label=f"train {label}")
    for name, label in task_curves(metrics).items():
        rows = metrics[metrics[name].notna()]
        upper.plot(rows["step"], rows[name], "o--" if name.startswith("val/") else "--", linewidth=1, label=label)
    rows, name = validations(metrics), f"val/{headline}"
    if name in rows:
        label = LABELS.get(name, headline)
        upper.plot(rows["step"], rows[name], "o-", color="black", label=f"validation {label}")
    upper.set_ylim(bottom=0)
    if "train/reward" in metrics:
        upper.set_ylim(0, 1)
    upper.set_ylabel("per rollout")
    upper.legend(fontsize="small")
    if "train/kl" in metrics:
        rows = metrics[metrics["train/kl"].notna()]
        lower.plot(rows["step"], rows["train/kl"], linewidth=1)
    lower.set_ylabel("KL")
    lower.set_xlabel("step")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


def first_and_last(validation: pd.DataFrame) -> pd.DataFrame:
    """``validation.parquet``: the rows of the base and of the last validation, with policy, item and unit (the image).

    Without the base's where the table has lost them.
    """
    ends = {0: BEFORE, int(validation["step"].max()): AFTER}
    rows = validation[validation["step"].isin(ends)].assign(policy=validation["step"].map(ends))
    rows = rows.rename(columns={"example_id": "item"})
    rows["unit"] = rows.pop("image_id").fillna(rows["item"])
    return rows


def validation_section(validation: pd.DataFrame, title: str) -> Section:
    """``validation.parquet`` of a run -> first against last validation, over all examples and by group.

    Examples about one image are drawn together in the bootstrap.
    """
    rows = first_and_last(validation)
    measures = {"reward": "reward"}
    if rows["iou"].notna().any():  # answers are boxes
        rows = rows.assign(at_50=rows["iou"] >= 0.5, at_75=rows["iou"] >= 0.75)
        measures = {"mean IoU": "iou", "ACC@0.5": "at_50", "ACC@0.75": "at_75", "format": "format"}
    ends, kind = ("first and the last", "paired bootstrap") if BEFORE in set(rows["policy"]) else ("last", "bootstrap")
    text = (
        f"Answers to examples that training never saw, at the {ends} validation; intervals are {kind} over the images."
    )
    return Section(title, text, paired_table(rows, measures, "bin"))
