"""The part of a sweep's page that sets tasks side by side: matrix, tables, and what they say in words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from locus.analysis.claims import OPEN
from locus.analysis.pages.page import Section
from locus.analysis.plots import as_picture, heat_map, panels
from locus.analysis.task_comparison import BETTER, LEVEL, WORSE, Comparison
from locus.analysis.task_runs import COSTS
from locus.tasks.cue_search.task import CueSearch

MOST_NAMED = 6
"""Settings that a sentence names before it counts them."""


def task_sections(found: Sequence[Comparison], left_out: Sequence[str] = ()) -> list[tuple[str, Section, pd.DataFrame]]:
    """What opens the page: of each section the name of its files, itself, and the numbers in it.

    Args:
        found: one or several budgets.
        left_out: names of runs that have not finished.
    """
    more = f" Left out, for they have not finished: {_list(left_out)}." if left_out else ""
    made = [matrix_section(one) for one in found if len(one.transfer)]
    made += [benchmark_section(one) for one in found if len(one.benchmarks)]
    made += [against_section(one) for one in found if len(one.against)]
    made += [verdict_section(one, more) for one in found]
    made.append(cost_section(found))
    return made + [transfer_section(one) for one in found if len(one.transfer)]


# --- Sections ---------------------------------------------------------------------------------------------------
def matrix_section(one: Comparison) -> tuple[str, Section, pd.DataFrame]:
    """The transfer matrix as a picture."""
    text = (
        "Trained on the row, asked the column's held-out examples: change from the base in points, green above 0. "
        "Bold: its 95 % interval does not contain 0. Framed: a task that the row trained on."
    )
    title = f"Transfer matrix, {one.budget.name}"
    return f"transfer_{one.budget.file}", Section(title, text, pictures=[matrix_picture(one)]), pd.DataFrame()


def matrix_picture(one: Comparison) -> Image.Image:
    """Settings in rows below chance and base, proxy tasks in columns."""
    tasks = list(dict.fromkeys(one.transfer["measure"]))
    settings = [name for name in one.settings if (one.transfer["setting"] == name).any()]
    changes, verdicts = (grid(one.transfer, column, settings, tasks) for column in ("change", "verdict"))
    trained = pd.DataFrame([[task in one.trained[name] for task in tasks] for name in settings], settings, tasks)
    first = one.transfer.groupby("measure")[["chance", "base"]].mean().loc[tasks].T
    figure, (axes,) = panels(width=3.0 + 0.95 * len(tasks), height=1.3 + 0.36 * (len(settings) + 2))
    heat_map(axes, changes.astype(float), verdicts.isin([BETTER, WORSE]), trained, first)
    return as_picture(figure)


def grid(cells: pd.DataFrame, column: str, settings: Sequence[str], measures: Sequence[str]) -> pd.DataFrame:
    """A column of a comparison's table as [settings, measures]; NaN where there is no cell."""
    return cells.pivot(index="setting", columns="measure", values=column).reindex(settings)[list(measures)]


def benchmark_section(one: Comparison) -> tuple[str, Section, pd.DataFrame]:
    """Task x benchmark, against the base."""
    table, verdicts = side_by_side(one.benchmarks, {"base": "base"})
    text = (
        "Below the base: change from it with each setting, on the same held-out items. "
        f"{intervals_of(one.benchmarks)} Cue search: mean IoU. Attention in box: its share. Context rot: accuracy "
        "where scenes hold most objects less accuracy where they hold fewest."
    )
    title = f"Tasks and benchmarks, {one.budget.name}"
    return f"benchmarks_{one.budget.file}", Section(title, text, table, verdicts=verdicts), one.benchmarks


def against_section(one: Comparison) -> tuple[str, Section, pd.DataFrame]:
    """The same against cue search alone."""
    table, verdicts = side_by_side(one.against, {"base": f"{CueSearch.name} less base"})
    text = (
        "By how much more each setting changes a number than cue search alone does, on the items and seeds that both "
        f"have. {intervals_of(one.against)} {_capital(by_chance(one.against))}"
    )
    title = f"Against cue search alone, {one.budget.name}"
    return f"against_cue_search_{one.budget.file}", Section(title, text, table, verdicts=verdicts), one.against


def transfer_section(one: Comparison) -> tuple[str, Section, pd.DataFrame]:
    """The matrix in numbers."""
    table, verdicts = side_by_side(one.transfer, {"chance": "chance", "base": "base"})
    text = f"The matrix with its intervals. {intervals_of(one.transfer)} {_capital(by_chance(one.transfer))}"
    section = Section(f"Transfer matrix in numbers, {one.budget.name}", text, table, verdicts=verdicts)
    return f"transfer_{one.budget.file}", section, one.transfer


def verdict_section(one: Comparison, more: str) -> tuple[str, Section, pd.DataFrame]:
    """Both tables in words."""
    section = Section(f"What the tasks teach, {one.budget.name}", summary(one) + more, lines=lines(one))
    return "", section, pd.DataFrame()


def cost_section(found: Sequence[Comparison]) -> tuple[str, Section, pd.DataFrame]:
    """What a run of each setting cost."""
    costs = pd.concat([one.costs.assign(budget=one.budget.name) for one in found], ignore_index=True)
    costs = costs[["budget", "setting", "seeds", *COSTS, "early"]]
    shown = costs.astype({name: object for name in COSTS})
    for name in COSTS:
        shown[name] = ["" if np.isnan(value) else f"{value:,.0f}" for value in costs[name]]
    text = (
        "Of a run, on average over seeds: seconds of training steps, tokens of completions. Early: how many runs ended "
        "before the budget did."
    )
    return "task_costs", Section("Cost of the tasks", text, shown), costs


def side_by_side(cells: pd.DataFrame, above: Mapping[str, str]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """A comparison's table as texts, a row per setting, and the verdicts of its cells.

    Args:
        cells: see `Comparison`.
        above: columns of plain numbers -> what their rows, the first, are called.
    """
    measures = [name for name in dict.fromkeys(cells["measure"])]
    settings = list(dict.fromkeys(cells["setting"]))
    texts = grid(cells.assign(text=[cell_text(row) for row in cells.itertuples()]), "text", settings, measures)
    verdicts = grid(cells, "verdict", settings, measures).fillna("")
    first = pd.DataFrame(
        [[_span(cells.loc[cells["measure"] == name, column]) for name in measures] for column in above],
        list(above.values()),
        measures,
    )
    plain = pd.DataFrame("", first.index, measures)
    both = [pd.concat([first, texts.fillna("")]), pd.concat([plain, verdicts])]
    table, marks = (one.rename_axis("setting").reset_index() for one in both)
    return table, marks


def intervals_of(cells: pd.DataFrame) -> str:
    """What the brackets and stars of a table are."""
    alone = " Scenes alone where a setting has one seed." if (cells["seeds"] == 1).any() else ""
    return (
        f"Points, with 95 % bootstrap intervals in which scenes and seeds are drawn crossed.{alone} *: the interval "
        "does not contain 0; **: nor after Holm's correction over the whole table. Few seeds that differ much make "
        "them too narrow."
    )


def cell_text(row: Any) -> str:
    """``+3.1* [+1.0, +5.2]``; breaks only before the bracket."""
    return number_text(row) + ("" if np.isnan(row.low) else f" [{_signed(row.low)},\u00a0{_signed(row.high)}]")


def number_text(row: Any) -> str:
    """``+3.1*``."""
    return _signed(row.change) + ("**" if row.holm != OPEN else "*" if row.verdict != OPEN else "")


def _signed(value: float) -> str:
    """Without a sign before 0.0 that says nothing."""
    return f"{round(value, 1) + 0.0:+.1f}"


def _span(values: pd.Series) -> str:
    """A number, or from the least to the most of them where they are not the same."""
    known = values.dropna()
    if known.empty:
        return ""
    least, most = (f"{value:.1f}" for value in (known.min(), known.max()))
    return least if least == most else f"{least} to {most}"


# --- In words ---------------------------------------------------------------------------------------------------
def by_chance(cells: pd.DataFrame) -> str:
    """How many cells stand out, and how many would without any effect."""
    known = int(cells["p"].notna().sum())
    apart, held = (int((cells[name] != OPEN).sum()) for name in ("verdict", "holm"))
    return (
        f"of {known} cells {apart} differ from 0, {held} after Holm's correction; without any effect about "
        f"{LEVEL * known:.0f} would."
    )


def summary(one: Comparison) -> str:
    """What the table of benchmarks and the one against cue search come to."""
    said = [f"Against the base, {by_chance(one.benchmarks)}"] if len(one.benchmarks) else []
    if len(one.against):
        counts = one.against["verdict"].value_counts()
        said.append(
            f"Against cue search alone, of {len(one.against)} cells {counts.get(BETTER, 0)} are better, "
            f"{counts.get(WORSE, 0)} worse, {counts.get(OPEN, 0)} not distinguished."
        )
    elif len(one.settings) > 1:
        said.append("No run of cue search alone, with the others' seeds and settings, is there to compare with.")
    if one.unlike:
        said.append(f"Tasks differ in more than themselves: in {_list(one.unlike)}, too, which may be what is seen.")
    return " ".join(said)


def lines(one: Comparison) -> list[str]:
    """What cue search alone does; each benchmark against the base, then against cue search; what the runs cost."""
    found = []
    alone = one.benchmarks[one.benchmarks["setting"] == CueSearch.name] if len(one.benchmarks) else one.benchmarks
    if len(alone):
        found.append(f"Cue search alone: {_sentence(alone, 'measure', ('raises', 'lowers'), 'from the base')}")
    for cells, other, words in (
        (one.benchmarks, "the base", ("raised by", "lowered by")),
        (one.against, "cue search alone", ("better with", "worse with")),
    ):
        for measure in dict.fromkeys(cells.get("measure", ())):
            rows = cells[cells["measure"] == measure]
            found.append(f"{_capital(measure)}, against {other}: {_sentence(rows, 'setting', words, '')}")
    return [*found, *_cost_lines(one)]


def _sentence(cells: pd.DataFrame, column: str, words: tuple[str, str], other: str) -> str:
    """What is better and worse, with its change, and what is not distinguished."""
    said = []
    for verdict, word in zip((BETTER, WORSE), words, strict=True):
        its = cells[cells["verdict"] == verdict].sort_values("change", ascending=verdict == WORSE, kind="stable")
        if len(its):
            numbers = zip(its[column], its.itertuples(), strict=True)
            said.append(f"{word} {_list([f'{name} ({number_text(row)})' for name, row in numbers])}")
    rest = [str(name) for name in cells.loc[cells["verdict"] == OPEN, column]]
    if rest:
        named = f"the other {len(rest)}" if said and len(rest) > 3 else _list(rest)
        said.append(f"not distinguished{' ' * bool(other)}{other}: {named}")
    return "; ".join(said) + "."


def _cost_lines(one: Comparison) -> Iterator[str]:
    for name in COSTS:
        known = one.costs.dropna(subset=name)
        if len(known):
            least, most = (known.loc[place] for place in (known[name].idxmin(), known[name].idxmax()))
            low, high = f"{least[name]:,.0f}", f"{most[name]:,.0f}"
            told = f"{low} ({least['setting']}) to {high} ({most['setting']})" if low != high else low
            yield f"Cost, {name}: {told} a run."
    early = one.costs.loc[one.costs["early"] > 0, "setting"].tolist()
    if early:
        why = "trainer.stop_at" + ("" if one.budget.seconds is None else " or trainer.steps")
        yield f"Not at the whole budget: runs of {_list(early)}, which ended at {why}."


def _list(names: Sequence[str]) -> str:
    """``a, b and c``; of many the first, and how many more."""
    shown = [*names] if len(names) <= MOST_NAMED else [*names[: MOST_NAMED - 1], f"{len(names) - MOST_NAMED + 1} more"]
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
