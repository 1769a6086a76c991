"""Tasks side by side: what each teaches, on the same items, from one base and at one budget.

Every number is a mean over items, or a difference of such means, in points; its interval is that of
`changes.scores`: scenes are drawn together, and crossed with seeds where there are several.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from locus.analysis import runs
from locus.analysis.changes import changed, paired
from locus.analysis.claims import BENCHMARKS, CROWDED, LARGE, OPEN, SPARSE
from locus.analysis.run_metrics import BEFORE
from locus.analysis.task_rows import ATTENTION, CROWDING, FEWEST_OBJECTS, IN_BOX, MOST_OBJECTS, PROXIES, rows_of
from locus.analysis.task_runs import COSTS, Budget, TaskRun, task_runs
from locus.evaluation.resampling import resampled_sums
from locus.evaluation.statistics import RESAMPLES
from locus.tasks.cue_search.task import CueSearch

BETTER, WORSE = "better", "worse"
"""Verdicts beside `OPEN`: the interval is above 0, or below."""
LEVEL = 0.05


@dataclass(frozen=True)
class Measure:
    """A column of a table: the mean of its parts, less the mean of others."""

    name: str
    block: str
    """The rows that are resampled together; see `task_rows`."""
    parts: tuple[str, ...]
    less: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Comparison:
    """The runs of one budget.

    Its tables have a row per setting and measure: setting, measure, base, change, low, high (points; with ``against``
    base is what the other setting changed, and change how much more this one did), p, verdict, holm (the verdict after
    Holm's correction over the whole table), items, scenes, seeds.
    """

    budget: Budget
    settings: tuple[str, ...]
    trained: Mapping[str, frozenset[str]]
    """Setting -> the tasks that it trained on."""
    benchmarks: pd.DataFrame
    """Against the base."""
    against: pd.DataFrame
    """Against cue search alone, on the items and seeds that both have; empty without it."""
    transfer: pd.DataFrame
    """The proxy tasks, held out, against the base; with column ``chance``."""
    folders: tuple[Path, ...]
    """Of the runs."""
    costs: pd.DataFrame
    """A row per setting: seeds, the means of `COSTS` over them, and early: how many runs ended before the budget."""
    unlike: tuple[str, ...] = ()
    """Settings, beside the tasks' own, that are not the same for all tasks: effects may be theirs."""


def compared(path: str | Path) -> list[Comparison]:
    """The finished runs at or below a path, a comparison per budget; none where there is nothing to compare."""
    folders = runs.find(path)
    return comparisons(task_runs(runs.load(path, folders=folders), folders))


def comparisons(found: Sequence[TaskRun]) -> list[Comparison]:
    """A comparison per budget, equal completions first; none unless runs differ in their tasks or were asked proxy
    tasks."""
    budgets = sorted(
        {run.budget for run in found},
        key=lambda one: (one.seconds is not None, one.seconds or 0.0, one.completions or 0),
    )
    made = [comparison(budget, [run for run in found if run.budget == budget]) for budget in budgets]
    made = [one for one in made if len(one.benchmarks) or len(one.transfer)]
    return made if several_tasks(found) or any(len(one.transfer) for one in made) else []


def several_tasks(found: Sequence[TaskRun]) -> bool:
    """Whether the runs were not all trained on the same tasks."""
    return len({run.tasks for run in found}) > 1


def comparison(budget: Budget, found: Sequence[TaskRun]) -> Comparison:
    """Of the runs of one budget."""
    trained = {run.setting: run.tasks for run in found}
    settings = tuple(sorted(trained, key=lambda name: (len(trained[name]), runs.cue_search_first(name))))
    blocks, chances = blocks_of(found, settings)
    columns = measures(blocks)
    tasks = [Measure(name, PROXIES, (name,)) for name in sorted(chances, key=runs.cue_search_first)]
    against = pd.DataFrame()
    if CueSearch.name in settings:
        others = [name for name in settings if name != CueSearch.name]
        less = {name: one.less(CueSearch.name) for name, one in blocks.items() if CueSearch.name in one.change}
        against = judged(scored(less, columns), others, columns)
    transfer = judged(scored(blocks, tasks), settings, tasks)
    if len(transfer):
        transfer = transfer.assign(chance=[100 * chances[task] for task in transfer["measure"]])
    costs = pd.DataFrame([{"setting": run.setting, "seeds": 1, **run.costs, "early": run.early} for run in found])
    how = {"seeds": "sum"} | dict.fromkeys(COSTS, "mean") | {"early": "sum"}
    costs = costs.groupby("setting", sort=False).agg(how).loc[list(settings)].reset_index()
    benchmarks, folders = judged(scored(blocks, columns), settings, columns), tuple(run.folder for run in found)
    unlike = tuple(dict.fromkeys(name for run in found for name in run.unlike))
    return Comparison(budget, settings, trained, benchmarks, against, transfer, folders, costs, unlike)


def measures(blocks: Mapping[str, Block]) -> list[Measure]:
    """The columns of the table of benchmarks: of each block those whose parts it has."""
    found = []
    for family in (CROWDED, SPARSE):
        found.append(Measure(f"{family} mean", family, BENCHMARKS))
        found += [Measure(f"{family} {name}", family, (name,)) for name in BENCHMARKS]
    found.append(Measure(f"{LARGE} mean", LARGE, tuple(blocks[LARGE].parts) if LARGE in blocks else ()))
    found.append(Measure("cue search", PROXIES, (CueSearch.name,)))
    found.append(Measure("attention in box", ATTENTION, (IN_BOX,)))
    found.append(Measure("context rot", CROWDING, (MOST_OBJECTS,), (FEWEST_OBJECTS,)))
    return [one for one in found if one.block in blocks and {*one.parts, *one.less} <= {*blocks[one.block].parts}]


@dataclass(frozen=True, eq=False)
class Block:
    """Rows that are resampled together, of all settings: a row per seed, unit, part and item, a column per setting."""

    before: pd.DataFrame
    change: pd.DataFrame
    """Like ``before``; NaN where a setting has no such row."""

    @property
    def parts(self) -> list[str]:
        """Sorted."""
        return sorted(self.change.index.unique("part"))

    def less(self, reference: str) -> Block:
        """How much more each other setting changes than this one, row by row; beside it, what this one changes."""
        theirs = self.change[reference]
        more = self.change.drop(columns=reference).sub(theirs, axis=0)
        return Block(more.mul(0).add(theirs, axis=0), more)


def blocks_of(found: Sequence[TaskRun], settings: Sequence[str]) -> tuple[dict[str, Block], dict[str, float]]:
    """Of all runs' tables: block -> its rows, and proxy task -> its chance level in [0, 1], NaN where unknown."""
    frames: dict[str, list[pd.DataFrame]] = {}
    chances: list[pd.Series] = []
    for run in found:
        rows, chance = rows_of(run.folder)
        chances.append(chance)
        for name, frame in rows.items():
            frames.setdefault(name, []).append(frame.assign(setting=run.setting, seed=run.seed))
    blocks = {}
    for name, parts in frames.items():
        rows = paired(pd.concat(parts, ignore_index=True), ["value"], ["setting", "part", "item"])
        rows = rows.assign(change=changed(rows, "value")).rename(columns={f"value {BEFORE}": "before"})
        rows = rows.set_index(["seed", "unit", "part", "item", "setting"])
        wide = rows[["before", "change"]].unstack("setting")
        there = [setting for setting in settings if setting in wide["change"]]
        blocks[name] = Block(wide["before"][there], wide["change"][there])
    mean = pd.concat(chances).groupby(level=0).mean() if chances else pd.Series(dtype=float)
    return blocks, mean.to_dict()


def scored(blocks: Mapping[str, Block], columns: Sequence[Measure]) -> Iterator[dict[str, object]]:
    """A row per setting and measure, in any order; none where a setting has not all parts of the measure."""
    for name, block in blocks.items():
        own = [one for one in columns if one.block == name]
        for alike in _alike(block.change) if own else ():
            before, change = block.before.loc[alike.rows, alike.settings], block.change.loc[alike.rows, alike.settings]
            base, values = resampled_means(before, 0), resampled_means(change, RESAMPLES)
            numbers = change.index.to_frame(index=False)
            for one in own:
                if not {*one.parts, *one.less} <= values.keys():
                    continue
                its = numbers[numbers["part"].isin([*one.parts, *one.less])]
                extent = {"items": int(its.groupby("seed").size().max()), "scenes": its["unit"].nunique()}
                extent["seeds"] = its["seed"].nunique()
                for setting, first, row in zip(
                    alike.settings, _combined(base, one)[0], _combined(values, one).T, strict=True
                ):
                    yield {"setting": setting, "measure": one.name, "base": first, **_interval(row), **extent}


@dataclass(frozen=True, eq=False)
class _Alike:
    """Settings that have the same rows, and so share their resamples."""

    settings: list[str]
    rows: np.ndarray
    """[N], true for these."""


def _alike(change: pd.DataFrame) -> list[_Alike]:
    there: dict[bytes, _Alike] = {}
    for setting in change:
        rows = change[setting].notna().to_numpy()
        if rows.any():
            there.setdefault(rows.tobytes(), _Alike([], rows)).settings.append(str(setting))
    return list(there.values())


def resampled_means(values: pd.DataFrame, resamples: int) -> dict[str, np.ndarray]:
    """Part -> [1 + R, S] means in points, of the rows themselves and of each resample: units crossed with seeds.

    Args:
        values: of S settings, indexed by seed, unit, part and item; none is NaN.
        resamples: R.
    """
    by = values.groupby(["seed", "unit", "part"], sort=True)
    sums, counts = by.sum().unstack("part", fill_value=0.0), by.size().unstack("part", fill_value=0)
    rows = sums.index.to_frame(index=False)
    crossed = ("seed",) if rows["seed"].nunique() > 1 else ()
    both = np.hstack([sums.to_numpy(float), counts.to_numpy(float)])
    drawn = resampled_sums(rows, both, ("unit",), resamples, crossed=crossed)
    totals, numbers = np.split(drawn, [sums.shape[1]], axis=1)
    totals = totals.reshape(len(drawn), values.shape[1], counts.shape[1])
    numbers = numbers[:, None, :]
    means = 100 * np.divide(totals, numbers, out=np.full_like(totals, np.nan), where=numbers > 0)
    return {str(part): means[:, :, place] for place, part in enumerate(counts)}


def _combined(means: Mapping[str, np.ndarray], measure: Measure) -> np.ndarray:
    """[1 + R, S] of a measure."""
    value = np.mean([means[part] for part in measure.parts], axis=0)
    return value - np.mean([means[part] for part in measure.less], axis=0) if measure.less else value


def _interval(values: np.ndarray) -> dict[str, float]:
    """Of a number and its resamples [1 + R]; p by the normal law, for resamples are too few for small ones."""
    change, drawn = float(values[0]), values[1:]
    if not np.isfinite(drawn).any():
        return {"change": change, "low": math.nan, "high": math.nan, "p": math.nan}
    (low, high), error = np.nanpercentile(drawn, [2.5, 97.5]), float(np.nanstd(drawn))
    far = abs(change) / error if error else math.inf if change else 0.0
    return {"change": change, "low": float(low), "high": float(high), "p": math.erfc(far / math.sqrt(2))}


def judged(rows: Iterator[dict[str, object]], settings: Sequence[str], columns: Sequence[Measure]) -> pd.DataFrame:
    """The rows with their verdicts, in the order of settings and of measures."""
    table = pd.DataFrame(list(rows))
    if table.empty:
        return table
    orders = {"setting": list(settings), "measure": [one.name for one in columns]}
    table = table.sort_values([*orders], key=lambda names: names.map(orders[names.name].index), ignore_index=True)
    table["verdict"] = np.select([table["low"] > 0, table["high"] < 0], [BETTER, WORSE], OPEN)
    table["holm"] = table["verdict"].where(holm(table["p"].to_numpy(float)) < LEVEL, OPEN)
    extent = ["items", "scenes", "seeds"]
    return table[[name for name in table if name not in extent] + extent]


def holm(p: np.ndarray) -> np.ndarray:
    """[N] p-values -> adjusted (Holm 1979): below 0.05, so that the chance of one wrong rejection or more among all is
    at most that, however they depend on each other. NaN stays and does not count."""
    adjusted, known = np.full(len(p), np.nan), np.flatnonzero(~np.isnan(p))
    order = known[np.argsort(p[known], kind="stable")]
    steps = p[order] * np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(steps))
    return adjusted
