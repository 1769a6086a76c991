"""The page of one run or of several: tables, curves, boxes by frame, and a browser of rollouts."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
from PIL import Image

from locus.analysis.ablations import as_set, cells, over_seeds
from locus.analysis.diagnoses.attention import layer_curves
from locus.analysis.pages.rollouts import browser_html, groups_of
from locus.analysis.plots import COLOURS, as_picture, histogram, mean_bars, panels
from locus.analysis.run_metrics import AFTER, BEFORE, HEADLINE, by_task, task_curves, validation_scalars
from locus.analysis.runs import FACTS, MAX_SECONDS, TASKS, axes, telling
from locus.errors import LocusError
from locus.files.step_tables import ROLLOUTS, VALIDATION, read_rows

TIMES = {"time/rollout_s": "rollout, s", "time/update_s": "update, s"}
CURVES = {"train/reward": "reward", HEADLINE: "validation IoU", "train/kl": "KL", "train/entropy": "entropy"}


def validated(runs: pd.DataFrame) -> dict[str, str]:
    """Columns of the last validation -> labels; the reward is told by its parts, attention by its own page."""
    left_out = ("val/reward", "val/attention_in_box", "val/peak_in_box")
    return {name: label for name, label in validation_scalars(runs).items() if name not in left_out}


def table_of(runs: pd.DataFrame) -> pd.DataFrame:
    """Every run with the settings in which they differ, as text."""
    measures = validated(runs) | {name: label for name, label in TIMES.items() if name in runs}
    measures |= {name: name.removeprefix("score/") for name in runs if name.startswith("score/")}
    return cells(runs[[*FACTS, *axes(runs), *measures]].rename(columns=measures), ["seed", *axes(runs)])


def means_over_seeds(runs: pd.DataFrame) -> pd.DataFrame | None:
    """Means over seeds by the settings in which the runs differ; None where every setting was run once."""
    measures = validated(runs)
    if runs["seed"].nunique() < 2 or not measures:
        return None
    return cells(over_seeds(runs.assign(all="all"), axes(runs) or ["all"], measures), axes(runs))


def setting_of(runs: pd.DataFrame) -> pd.Series:
    """[runs] the settings of `runs.axes` in one text, or the experiment alone where it says all; without any, the run's
    name."""
    settings = axes(runs)
    if not settings:
        return runs["run"]
    settings = telling(runs, settings)
    texts = runs[settings].map(as_set)
    if TASKS in settings:  # and seconds only where these bound a run
        if MAX_SECONDS in settings:
            texts[MAX_SECONDS] = [f"{value:g} s" if value > 0 else "" for value in runs[MAX_SECONDS]]
        return texts.agg(lambda row: ", ".join(text for text in row if text), axis=1)
    return texts.agg(", ".join, axis=1)


def ablation_bars(runs: pd.DataFrame) -> Image.Image | None:
    """Last validation of every setting with its 95 % interval over seeds; None where nothing was validated."""
    measures = validated(runs)
    finished = runs[runs["status"] == "finished"]
    if not measures or not len(finished):
        return None
    table = over_seeds(finished.assign(setting=setting_of(finished)), ["setting"], measures)
    figure, (one,) = panels(width=max(5.0, 1.2 * len(table) + 2))
    mean_bars(one, table, "setting", list(measures.values()))
    return as_picture(figure)


def iou_histograms(folders: Sequence[tuple[str, Path]]) -> Image.Image | None:
    """IoU of the last validation, of a mixture's main task, one outline per setting, its seeds together; None where
    nothing was validated.

    folders: (setting, run folder).
    """
    frames = []
    for setting, folder in folders:
        if (folder / "validation.parquet").exists():
            rows = _rows(folder / "validation.parquet", VALIDATION)
            if not rows.empty:
                _, rows = by_task(rows[[name for name in rows if name in ("step", "iou", "task")]], "")[0]
            rows = rows[rows["step"] == rows["step"].max()].dropna(subset="iou")
            frames += [rows.assign(policy=setting)] if len(rows) else []
    if not frames:
        return None
    figure, (one,) = panels()
    histogram(one, pd.concat(frames), "iou")
    return as_picture(figure)


def attention_by_layer(folders: Sequence[tuple[str, Path]]) -> Image.Image | None:
    """`layer_curves` of the base and of every setting (paper, Fig. 8); None without any.

    An item counts once, by its mean over a setting's seeds: they are asked the same ones.
    """
    frames = [
        pd.read_parquet(folder / "attention.parquet").replace({"policy": {BEFORE: "base", AFTER: setting}})
        for setting, folder in folders
        if (folder / "attention.parquet").exists()
    ]
    if not frames:
        return None
    rows = pd.concat(frames)
    keys = [name for name in ("policy", "item", "unit") if name in rows]
    return layer_curves(rows.groupby(keys, sort=False).mean(numeric_only=True).reset_index())


def dynamics(metrics: pd.DataFrame, settings: Mapping[str, str] | None = None) -> Image.Image | None:
    """Reward, validation (with its area bins where there is one run), KL and entropy over steps (paper, Fig. 9); then
    reward and validation of each other task of a mixture.

    None where nothing was logged.

    Args:
        metrics: of `runs.metrics`.
        settings: run -> its setting; runs of one have one colour. None: each run is one of its own.
    """
    names = {run: (settings or {}).get(run, run) for run in metrics["run"].unique()}
    colours = {setting: COLOURS[n % len(COLOURS)] for n, setting in enumerate(dict.fromkeys(names.values()))}
    curves = CURVES
    if HEADLINE not in metrics:  # of another task
        curves = CURVES | {name: f"validation {label}" for name, label in list(validated(metrics).items())[:1]}
    shown = {name: label for name, label in curves.items() if name in metrics} | task_curves(metrics)
    if not shown:
        return None
    figure, places = panels(len(shown), width=4)
    for one, (name, label) in zip(places, shown.items(), strict=True):
        for run, rows in metrics.groupby("run", sort=False):
            logged = rows[rows[name].notna()]
            first = list(names).index(run) == list(names.values()).index(names[run])
            legend = names[run] if first else None  # once a setting
            one.plot(logged["step"], logged[name], color=colours[names[run]], linewidth=1, label=legend)
        if name == HEADLINE and len(names) == 1:
            bins = [
                column for column in metrics if column.count("/") == 2 and column.endswith(HEADLINE.removeprefix("val"))
            ]
            for index, column in enumerate(bins, 1):
                logged = metrics[metrics[column].notna()]
                colour, label = COLOURS[index % len(COLOURS)], column.split("/")[1]
                one.plot(logged["step"], logged[column], color=colour, linewidth=1, label=label)
        one.set_title(label, fontsize="medium")
        one.set_xlabel("step")
    if len(places) and len(colours) <= len(COLOURS):
        places[min(1, len(places) - 1)].legend(fontsize="x-small", frameon=False)
    return as_picture(figure)


def rollouts_of(run: Path) -> pd.DataFrame:
    """The rows of a run's ``rollouts.parquet`` that are answered by a box; raises LocusError when it cannot be read."""
    return _rows(run / "rollouts.parquet", ROLLOUTS).dropna(subset=["target", "image_path"], ignore_index=True)


def _rows(path: Path, schema: pa.Schema) -> pd.DataFrame:
    """As `read_rows`; raises LocusError when they cannot be read."""
    try:
        return read_rows(path, schema)
    except (OSError, ValueError) as error:
        raise LocusError(f"{path}: cannot be read ({error}); leave the run out") from error


def gallery_of(folder: Path) -> list[Image.Image]:
    """The pictures of a validation step's folder, by name."""
    pictures = []
    for file in sorted(folder.glob("*.png")):
        with Image.open(file) as picture:
            pictures.append(picture.convert("RGB"))
    return pictures


def frames_of(rollouts: pd.DataFrame) -> pd.DataFrame:
    """`corner_fit` of the last tenth of the steps, as text."""
    late = rollouts[rollouts["step"] > 0.9 * rollouts["step"].max()]
    return cells(corner_fit(late), digits=2)


def browser_of(rollouts: pd.DataFrame, open_image: Callable[[str], Image.Image], most: int) -> str:
    """The rollout browser as a part of the page."""
    return browser_html(groups_of(rollouts, open_image, most))


LEAST = 0.7
"""Correlation below which corners say nothing of a frame: the policy does not find its targets yet."""
TOLERANCE = 0.1
"""Of the scale, around 1."""


def corner_fit(rollouts: pd.DataFrame) -> pd.DataFrame:
    """Rollouts with a box -> one row per axis: scale, offset, correlation, corners, meaning.

    ``scale`` is the ratio of the spreads of predicted and true corners (the reduced major axis, which noise in the
    predictions does not flatten), ``offset`` the predicted corner where the true one is 0, in pixels of the file.
    """
    boxed = rollouts[rollouts["box"].notna()]
    rows = []
    for axis, places in (("x", (0, 2)), ("y", (1, 3))):
        true, said = (
            np.array([[box[place] for place in places] for box in boxed[column]], dtype=float).ravel()
            for column in ("target", "box")
        )
        rows.append({"axis": axis, **_fit(true, said), "corners": len(true)})
    table = pd.DataFrame(rows)
    return table.assign(meaning=[meaning(row.scale, row.offset, row.correlation) for row in table.itertuples()])


def _fit(true: np.ndarray, said: np.ndarray) -> dict[str, float]:
    if len(true) < 3 or true.std() == 0 or said.std() == 0:
        return {"scale": math.nan, "offset": math.nan, "correlation": math.nan}
    correlation = float(np.corrcoef(true, said)[0, 1])
    scale = float(said.std() / true.std())
    return {"scale": scale, "offset": float(said.mean() - scale * true.mean()), "correlation": correlation}


def meaning(scale: float, offset: float, correlation: float) -> str:
    """What a fit says of the frame, in words."""
    if math.isnan(correlation):
        return "too few different boxes to say"
    if correlation < LEAST:
        return "boxes do not follow their targets yet: nothing to say of the frame"
    if abs(scale - 1) > TOLERANCE:
        return (
            f"boxes are {scale:.2f} times as far apart as their targets: they are read in another frame than they are "
            "written in; check backbone.frame and the processor's limits of pixels"
        )
    said = "no sign of another frame"  # one less than a tenth larger looks the same
    return said if abs(offset) < 5 else f"{said}; boxes lie {offset:+.0f} px beside"
