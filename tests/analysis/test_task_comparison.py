"""Tasks side by side: settings, budgets, cells by hand and against the claims, verdicts, and the page."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from locus.analysis import runs
from locus.analysis.claim_files import tables_of
from locus.analysis.claims import judge
from locus.analysis.pages.sweep import iou_histograms
from locus.analysis.pages.tasks import lines, task_sections
from locus.analysis.task_comparison import Comparison, compared, holm
from locus.analysis.task_rows import rows_of
from locus.analysis.task_runs import Budget, task_runs
from locus.errors import LocusError
from tests.support import claim_tables, task_tables
from tests.support.runs import command, succeeded

SETTINGS = {
    "rotation": ({"rotation": 1.0}, 0.0, {"rotation": 0.4}),
    "cue_search": ({"cue_search": 1.0}, 0.25, {"cue_search": 0.4}),
    "cue_search + jigsaw": ({"cue_search": 0.5, "jigsaw": 0.5}, -0.25, {"jigsaw": 0.4, "cue_search": 0.4}),
}
"""Setting -> tasks, gain of questions in crowded scenes, gains of proxy tasks: rotation does nothing for questions, cue
search raises them, jigsaw with it lowers them."""


def write(folder: Path, budgets: Mapping[float | None, Sequence[int]], settings=SETTINGS, scenes: int = 40) -> Path:
    """Runs of each setting at each budget, of its seeds."""
    number = 0
    for seconds, seeds in budgets.items():
        for tasks, gain, gains in settings.values():
            for seed in seeds:
                tables = {"proxy_tasks": task_tables.proxies(gains, scenes, seed)}
                tables["questions"] = task_tables.questions(gain, scenes, seed)
                task_tables.run(folder / f"{number:03}", tasks, seed, tables, seconds)
                number += 1
    return folder


@pytest.fixture(scope="module")
def sweep(tmp_path_factory) -> Path:
    """Three seeds, and one at another budget; a run that failed, one that is there twice, one that has not ended."""
    folder = write(tmp_path_factory.mktemp("tasks") / "sweep", {None: (1, 2, 3), 120.0: (1,)})
    tables = {"questions": task_tables.questions(0.5, 40, 9)}
    task_tables.run(folder / "900", {"cue_search": 1.0}, 9, tables, status="failed")
    task_tables.run(folder / "901", {"cue_search": 1.0}, 1, tables)
    (folder / "002" / "summary.json").unlink()
    return folder


@pytest.fixture(scope="module")
def both(sweep) -> list[Comparison]:
    """Of the sweep."""
    return compared(sweep)


def cell(table: pd.DataFrame, setting: str, measure: str) -> pd.Series:
    """One row of a comparison's table."""
    return table.set_index(["setting", "measure"]).loc[(setting, measure)]


def test_settings_and_budgets(both):
    """Runs that failed or are there twice counted; settings in the order of folders; budgets in one table."""
    first, second = both
    assert first.budget == Budget(None, 80) and first.budget.name == "equal completions (80)"
    assert second.budget == Budget(120.0, None) and second.budget.name == "equal seconds (120 s)"
    assert first.settings == second.settings == ("cue_search", "rotation", "cue_search + jigsaw")
    assert first.costs["seeds"].tolist() == [3, 2, 3] and len(first.folders) == 8
    # 10 steps of 8 completions with 12 tokens.
    assert first.costs.iloc[0].tolist() == ["cue_search", 3, 10, 80, 30, 960, 0]
    assert runs.tasks_named({"jigsaw": 0.75, "cue_search": 0.25, "rotation": 0}) == "0.25 cue_search + 0.75 jigsaw"


def test_effects_are_found_and_named(both):
    """An effect that is there missed, one that is not found, or a missing seed that takes others with it."""
    for one in both:
        better, none, worse = (cell(one.benchmarks, name, "crowded mean") for name in one.settings)
        assert (better["verdict"], none["verdict"], worse["verdict"]) == ("better", "not distinguished", "worse")
        assert better["holm"] == "better" and better["low"] > 10 and better["items"] == 200
        assert set(one.benchmarks.query("measure == 'sparse mean'")["holm"]) == {"not distinguished"}
        own = one.transfer[one.transfer["holm"] == "better"]
        pairs = set(zip(own["setting"], own["measure"], strict=True))
        mixed = {("cue_search + jigsaw", "jigsaw"), ("cue_search + jigsaw", "cue_search")}
        assert pairs == {("cue_search", "cue_search"), ("rotation", "rotation"), *mixed}
    less = cell(both[0].against, "rotation", "crowded mean")
    assert less["verdict"] == "worse" and less["seeds"] == 2 and "cue_search" not in set(both[0].against["setting"])
    said = "\n".join(lines(both[0]))
    assert "Crowded mean, against the base: raised by cue_search (+" in said
    assert "Cue search alone: raises " in said and "Cost, completions: 80 a run." in said
    assert "Large mean, against the base: not distinguished: cue_search, rotation and cue_search + jigsaw." in said
    shown = {section.title: section for _, section, _ in task_sections(both, ["7"])}
    table = shown["Against cue search alone, equal completions (80)"].table
    assert table["setting"].tolist() == ["cue_search less base", "rotation", "cue_search + jigsaw"]
    assert table["crowded mean"].iloc[1].endswith("]") and "*" in table["crowded mean"].iloc[1]
    assert "one seed" in shown["Tasks and benchmarks, equal seconds (120 s)"].text
    assert "not finished: 7." in shown["What the tasks teach, equal completions (80)"].text


def test_the_same_numbers_as_the_claims(sweep, both):
    """A second way to the change of questions and its interval that gives another number than the page's claims."""
    folders = [sweep / "003", sweep / "004", sweep / "005"]
    tables = [pd.read_parquet(one / "questions.parquet").assign(seed=str(seed)) for seed, one in enumerate(folders)]
    claims = {claim.name: claim for claim in judge({"questions": pd.concat(tables)})}
    kinds = ("counting", "relative position")
    names = {"crowded mean": "H2 Questions in crowded scenes improve"} | {
        f"crowded {one}": f"H2 {one}" for one in kinds
    }
    columns = set(both[0].benchmarks["measure"])
    assert columns >= {f"{family} {one}" for family in ("crowded", "sparse") for one in (*kinds, "text grounding")}
    for measure, name in names.items():
        found, claim = cell(both[0].benchmarks, "cue_search", measure), claims[name]
        numbers = claim.estimate, claim.low, claim.high
        assert (found["change"], found["low"], found["high"]) == pytest.approx(numbers, abs=1e-9)


def by_hand(folder: Path, setting: str, seed: int, after: list[float], before: list[float]) -> None:
    """A run with three proxy examples of two images, and crowding at two levels."""
    units = ["a", "a", "b"]
    proxies, crowding = [], []
    for policy, values in (("before", before), ("after", after)):
        for place, score in enumerate(values[:3]):
            row = {"policy": policy, "task": "rotation", "item": f"r{place}", "unit": units[place], "response": ""}
            proxies.append(row | {"score": score, "chance": 0.25})
        for level, correct in enumerate(values[3:]):
            row = {"policy": policy, "unit": "a", "question": "q", "level": level, "image": "full"}
            crowding += [row | {"correct": correct}, row | {"correct": 1.0, "image": "suppressed"}]
    tables = {"proxy_tasks": pd.DataFrame(proxies), "crowding": pd.DataFrame(crowding)}
    task_tables.run(folder, {setting: 1.0}, seed, tables)


def test_cells_by_hand(tmp_path):
    """After less before turned round, levels the wrong way, points and shares confused; a reference that is not paired
    by item."""
    by_hand(tmp_path / "0", "cue_search", 1, [1.0, 0.5, 0.0, 1.0, 0.0], [0.0, 0.5, 0.0, 1.0, 0.0])
    by_hand(tmp_path / "1", "rotation", 1, [1.0, 0.5, 1.0, 1.0, 1.0], [0.0, 0.5, 0.0, 1.0, 0.0])
    (one,) = compared(tmp_path)
    own = cell(one.transfer, "rotation", "rotation")
    assert (own["base"], own["change"], own["chance"]) == pytest.approx((50 / 3, 200 / 3, 25))
    # Images a (mean change 0.5 of two) and b (1 of one): 50 with a twice, 100 with b twice.
    assert (own["low"], own["high"], own["scenes"], own["items"]) == pytest.approx((50, 100, 2, 3))
    rot = cell(one.benchmarks, "rotation", "context rot")
    assert (rot["base"], rot["change"]) == pytest.approx((-100, 100))
    assert cell(one.against, "rotation", "context rot")["change"] == pytest.approx(100)
    assert holm(np.array([0.04, 0.01, np.nan, 0.03])) == pytest.approx([0.06, 0.03, np.nan, 0.06], nan_ok=True)


def test_a_task_of_another_difficulty_is_another_setting(tmp_path):
    """Two grids of one task taken for the same run twice."""
    tables = {"proxy_tasks": task_tables.proxies({}, 4)}
    for number, grid in enumerate((2, 3)):
        task_tables.run(tmp_path / str(number), {"jigsaw": 1.0}, 1, tables, sampling={"grid": grid})
    found = task_runs(runs.load(tmp_path), runs.find(tmp_path))
    assert [run.setting for run in found] == ["jigsaw, grid=2", "jigsaw, grid=3"]
    (one,) = compared(tmp_path)
    texts = [section.text for _, section, _ in task_sections([one])]
    assert one.against.empty and any("No run of cue search alone" in text for text in texts)


def test_a_setting_that_a_run_lacks_is_a_setting(tmp_path):
    """No grid and one of three taken for the same run twice, of which one is dropped."""
    tables = {"proxy_tasks": task_tables.proxies({}, 4)}
    for number, grid in enumerate((None, 3)):
        task_tables.run(tmp_path / str(number), {"jigsaw": 1.0}, 1, tables, sampling={"grid": grid})
    found = task_runs(runs.load(tmp_path), runs.find(tmp_path))
    assert [run.setting for run in found] == ["jigsaw, grid=null", "jigsaw, grid=3"]


def test_a_run_alone(tmp_path, monkeypatch):
    """A traceback with pandas below 3.1, where rows of a frame without columns are none."""
    rows = lambda self, **_: zip(*(self.iloc[:, place] for place in range(self.shape[1])), strict=True)  # noqa: E731
    monkeypatch.setattr(pd.DataFrame, "itertuples", rows)
    task_tables.run(tmp_path / "1", {"jigsaw": 1.0}, 1, {"proxy_tasks": task_tables.proxies({}, 4)})
    assert [run.setting for run in task_runs(runs.load(tmp_path), runs.find(tmp_path))] == ["jigsaw"]


def test_wrong_tables(tmp_path):
    """A table with an item twice counted double; one that lacks a column, or a broken one, without its name."""
    table = task_tables.proxies({}, 4)
    folder = task_tables.run(tmp_path / "0", {"jigsaw": 1.0}, 1, {"proxy_tasks": pd.concat([table, table])})
    with pytest.raises(LocusError, match=r"0: proxy tasks has an item twice"):
        rows_of(folder)
    table.drop(columns="unit").to_parquet(folder / "proxy_tasks.parquet")
    assert rows_of(folder)[0] == {}
    (folder / "proxy_tasks.parquet").write_text("no table")
    with pytest.raises(LocusError, match=r"proxy_tasks\.parquet: cannot be read"):
        rows_of(folder)


def test_another_tasks_boxes_are_no_cue_search(tmp_path):
    """H1 judged from the main task of a mixture; of a run that was not trained on cue search at all."""
    rows = claim_tables.validation(0.2, 0.8).assign(task="cue_search")
    others = claim_tables.validation(0.1, 0.1).assign(task="text_cue")
    pd.concat([others, rows]).to_parquet(tmp_path / "validation.parquet")
    assert tables_of(tmp_path)["validation"]["iou"].tolist() == rows["iou"].tolist()
    drawn = iou_histograms([("a", tmp_path)])
    others.to_parquet(tmp_path / "validation.parquet")
    assert iou_histograms([("a", tmp_path)]).tobytes() == drawn.tobytes()  # of the main task alone
    assert tables_of(tmp_path) == {}
    alone = task_tables.run(
        tmp_path / "difference", {"difference": 1.0}, 1, {"validation": others.drop(columns="task")}
    )
    assert tables_of(alone) == {}
    searched = task_tables.run(tmp_path / "cue", {"cue_search": 1.0}, 1, {"validation": rows.drop(columns="task")})
    assert tables_of(searched)["validation"]["iou"].tolist() == rows["iou"].tolist()


def test_a_run_that_ended_early_is_named(tmp_path):
    """A table called one of equal seconds, or completions, of runs that had ended before; all have taken 30 s."""
    tables = {"proxy_tasks": task_tables.proxies({}, 4)}
    ends = {(500, 60): 1, (10, 60): 1, (500, 30): 0, (10, 30): 0, (10, None): 0, (500, None): 1}
    for number, (steps, seconds) in enumerate(ends):
        trainer = {"steps": steps, "max_seconds": seconds}
        task_tables.run(tmp_path / f"{number}", {f"task_{number}": 1.0}, 1, tables, trainer=trainer)
    found = compared(tmp_path)
    costs = pd.concat([one.costs for one in found]).set_index("setting")["early"]
    assert costs.sort_index().tolist() == list(ends.values())
    (last,) = (lines(one)[-1] for one in found if one.budget.seconds == 60)
    said = "Not at the whole budget: runs of task_0 and task_1, which ended at trainer.stop_at or trainer.steps."
    assert last == said


def test_another_base_is_named(tmp_path):
    """What a base, or a learning rate, has done told as a task's doing, where each task has another."""
    tables = {"proxy_tasks": task_tables.proxies({}, 4)}
    for number, (task, base, rate) in enumerate([("jigsaw", "a", 1), ("cue_search", "b", 1), ("cue_search", "b", 2)]):
        given = {"backbone": {"path": base}, "optimizer": {"lr": rate}}
        task_tables.run(tmp_path / str(number), {task: 1.0}, 1, tables, **given)
    (one,) = compared(tmp_path)
    assert one.settings == ("cue_search, lr=1", "cue_search, lr=2", "jigsaw")
    texts = [section.text for _, section, _ in task_sections([one])]
    assert any("Tasks differ in more than themselves: in backbone.path and optimizer.lr, too" in one for one in texts)


def test_runs_of_one_task_are_not_compared(tmp_path):
    """Every ordinary page opened by a table of one row; a sweep of another setting that loses LOCUS against it."""
    for number, (seed, gain) in enumerate([(1, 0.2), (2, 0.2), (1, 0.0), (2, 0.0)]):
        tables = {"questions": task_tables.questions(gain, 10, seed)}
        task_tables.run(tmp_path / "runs" / str(number), {"cue_search": 1.0}, seed, tables, crop={"gain": gain})
    assert compared(tmp_path / "runs") == []
    succeeded(command("report", f"runs={tmp_path / 'runs'}", f"hydra.run.dir={tmp_path / 'page'}"))
    page = (tmp_path / "page" / "report.html").read_text()
    assert "<h2>LOCUS minus control</h2>" in page and "<h2>Settings</h2>" in page


def test_a_sweep_with_another_task_keeps_its_controls(tmp_path):
    """LOCUS against the upper bound of transfer/questions, for which its page exists, left out of it."""
    for number, (task, name) in enumerate([("questions", "transfer/questions"), ("cue_search", "transfer/locus")]):
        tables = {"questions": task_tables.questions(0.2, 10, 1)}
        folder = task_tables.run(tmp_path / "runs" / str(number), {task: 1.0}, 1, tables, crop={"kind": name})
        (folder / ".hydra").mkdir()
        choices = {"experiment": name, "task": task}
        (folder / ".hydra" / "hydra.yaml").write_text(yaml.safe_dump({"hydra": {"runtime": {"choices": choices}}}))
    succeeded(command("report", f"runs={tmp_path / 'runs'}", f"hydra.run.dir={tmp_path / 'page'}"))
    page = (tmp_path / "page" / "report.html").read_text()
    assert "<h2>LOCUS minus control</h2>" in page and "LOCUS: transfer/locus." in page


@pytest.mark.slow
def test_the_page_opens_with_the_matrix(sweep, tmp_path):
    """The picture below the claims, a table or figure that is not saved, repeated runs as further seeds of a claim."""
    succeeded(command("report", f"runs={sweep}", f"hydra.run.dir={tmp_path / 'page'}"))
    page = (tmp_path / "page" / "report.html").read_text()
    titles = ["Transfer matrix, equal completions (80)", "Transfer matrix, equal seconds (120 s)"]
    titles += [f"{name}, equal completions (80)" for name in ("Tasks and benchmarks", "Against cue search alone")]
    titles += ["What the tasks teach, equal completions (80)", "Cost of the tasks", "Claims over seeds", "Runs"]
    places = [page.index(f"<h2>{title}</h2>") for title in titles]
    assert places == sorted(places) and page.index("<h2>") == places[0] and page.index("<img") < places[1]
    assert "Left out, for they have not finished: 002 and 900." in page and "LOCUS minus control" not in page
    files = {file.name for file in (tmp_path / "page").glob("*/*")}
    kinds = ("benchmarks", "against_cue_search", "transfer")
    budgets = ("equal_completions_80", "equal_seconds_120")
    tables = {f"{kind}_{one}.{end}" for kind in kinds for one in budgets for end in ("md", "tex", "csv")}
    assert tables | {f"transfer_{one}.png" for one in budgets} | {"task_costs.csv"} <= files
    saved = pd.read_csv(tmp_path / "page" / "tables" / "transfer_equal_seconds_120.csv")
    assert len(saved) == 3 * 4 and saved["chance"].isna().sum() == 3
    means = pd.read_csv(tmp_path / "page" / "tables" / "means_over_seeds.csv")
    assert means.query("tasks == 'cue_search'")["runs"].tolist() == [3, 1]
    claims = pd.read_csv(tmp_path / "page" / "tables" / "claims_by_seed.csv").groupby("setting").size()
    assert claims.to_dict() == {
        "cue_search": 4, "rotation": 3, "cue_search + jigsaw": 4,
        "cue_search, 120 s": 2, "rotation, 120 s": 2, "cue_search + jigsaw, 120 s": 2,
    }  # fmt: skip


@pytest.mark.slow
def test_speed(tmp_path):
    """A bootstrap for each cell: minutes for a sweep of usual size, 60 runs with 1300 rows of each policy."""
    names = {f"task {number}": ({f"task_{number}": 1.0}, 0.0, {}) for number in range(9)}
    write(tmp_path, {None: (1, 2, 3), 120.0: (1, 2, 3)}, names | {"cue_search": SETTINGS["cue_search"]}, scenes=55)
    begun = time.process_time()
    assert [len(one.settings) for one in compared(tmp_path)] == [10, 10]
    assert time.process_time() - begun < 20
