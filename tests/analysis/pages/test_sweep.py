"""The page of runs: kinds of failure, the frame check, and the rollout browser, clicked through in a real browser."""

from __future__ import annotations

import json
import re
import time
from unittest import mock

import numpy as np
import pandas as pd
import pytest
from omegaconf import OmegaConf
from PIL import Image

from locus.analysis import runs
from locus.analysis.ablations import cells
from locus.analysis.pages.page import Section, write_report
from locus.analysis.pages.rollouts import FOUND, LOOSE, PARSE, TRUNCATED, WRONG, browser_html, failure, groups_of
from locus.analysis.pages.sweep import attention_by_layer, corner_fit, dynamics, iou_histograms, rollouts_of
from locus.report import rollout_sections
from tests.support import claim_tables, task_tables
from tests.support.runs import command, refused, succeeded, warm_run


def rollouts(steps: int = 10, prompts: int = 8, group: int = 8) -> pd.DataFrame:
    """Rollouts on pictures of 64x64; those of the first half of the steps miss."""
    rng = np.random.default_rng(0)
    rows = []
    for step in range(1, steps + 1):
        for prompt in range(prompts):
            x, y = rng.integers(0, 40, 2)
            target = [float(x), float(y), float(x + 16), float(y + 16)]
            for index in range(group):
                away = 0 if step > steps / 2 else 30 - x
                box = None if index == 0 else [target[0] + away, target[1], target[2] + away, target[3]]
                iou = 0.0 if box is None else max(0.0, (16 - abs(away)) / (16 + abs(away)))
                row = {"step": step, "prompt_id": str(prompt), "image_path": f"{step}-{prompt}.png", "bin": "tiny"}
                row |= {"status": "no_box" if box is None else "ok", "target": target, "box": box, "iou": iou}
                rows.append(row | {"reward": 0.9 * iou, "advantage": 0.5, "text": "</script><b>[1, 2]</b>"})
    return pd.DataFrame(rows)


def open_image(path: str) -> Image.Image:
    return Image.effect_noise((64, 64), 60).convert("RGB")


def test_kinds_of_failure():
    """A loose box called a wrong object, or a cut answer called a parse error."""
    target = (10.0, 10.0, 20.0, 20.0)
    assert failure("ok", target, (10.0, 10.0, 20.0, 19.0), 0.9) == FOUND
    assert failure("ok", target, (0.0, 0.0, 40.0, 40.0), 0.06) == LOOSE
    assert failure("ok", target, (14.0, 14.0, 15.0, 15.0), 0.01) == LOOSE
    assert failure("ok", target, (19.0, 10.0, 29.0, 20.0), 0.05) == WRONG
    assert failure("no_box", target, None, 0.0) == PARSE and failure("truncated", target, None, 0.0) == TRUNCATED


@pytest.mark.parametrize(
    ("scale", "offset", "noise", "says"),
    [(1, 0, 4, "no sign of another frame"), (0.5, 0, 4, "read in another frame"), (2.1, 0, 30, "read in another frame"),
     (1, 20, 4, "px beside"), (1, 0, 900, "nothing to say")],
)  # fmt: skip
def test_frame_check(scale, offset, noise, says):
    """A frame bug unseen, or noise that flattens a regression taken for one."""
    rng = np.random.default_rng(0)
    true = rng.uniform(0, 600, (300, 4))
    said = true * scale + offset + rng.normal(0, noise, true.shape)
    table = corner_fit(pd.DataFrame({"target": list(true), "box": list(said)}))
    assert all(says in text for text in table["meaning"])
    if noise < 100:
        assert table["scale"].tolist() == pytest.approx([scale] * 2, abs=0.05)
    assert "too few" in corner_fit(pd.DataFrame({"target": [[0, 0, 1, 1]], "box": [None]}))["meaning"].iloc[0]


def test_a_setting_that_a_run_lacks(tmp_path):
    """A page of runs whose parts take different settings ends in an error, or prints "nan"."""
    table = cells(pd.DataFrame({"a": ["x", None], "b": [1, "z"], "c": [None, 0.5]}))
    assert table.values.tolist() == [["x", "1", ""], ["", "z", "0.500"]]
    write_report(tmp_path / "report.html", "runs", "", [Section("Runs", "", table)])


def test_groups_are_whole_and_spread():
    """Groups cut apart, or those of the first steps only."""
    shown = groups_of(rollouts(), open_image, 160)
    assert len(shown["groups"]) == 20 and {len(group["rollouts"]) for group in shown["groups"]} == {8}
    assert {group["step"] for group in shown["groups"]} == set(range(1, 11))


def test_a_task_without_bins_can_be_browsed():
    """NaN for a missing text, which is no JSON: a browser of rollouts that stays empty."""
    table = rollouts(steps=2, prompts=1).assign(bin=pd.Series([None] * 16, dtype="str"), expression=None)
    markup = browser_html(groups_of(table, open_image, 160))

    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    (data,) = re.findall(r'id="rollout-data">(.*?)</script>', markup, re.DOTALL)
    shown = json.loads(data, parse_constant=refuse)
    assert [(group["bin"], group["expression"]) for group in shown["groups"]] == [("", "")] * 2


def test_browser_is_clicked_through(tmp_path, browser):
    """5,000 rollouts open soon; filters, pages and hovering do what they say; a response is text, never markup."""
    table = rollouts(steps=25, prompts=25)
    page = tmp_path / "report.html"
    write_report(page, "runs", "", [Section("Rollouts", "", markup=browser_html(groups_of(table, open_image, 5000)))])
    opened = []
    for _ in range(3):  # the quickest: the machine may be busy meanwhile
        begun = time.perf_counter()
        browser.get(page.as_uri())
        opened.append(time.perf_counter() - begun)
    run = browser.execute_script
    place = "return document.getElementById('place').textContent"
    assert min(opened) < 10 and run(place) == "625 groups, page 1 of 79"
    choose = (
        "const e = document.getElementById(arguments[0]); e.value = arguments[1]; e.dispatchEvent(new Event('input'))"
    )
    run(choose, "step", "20")
    assert run(place) == "25 groups, page 1 of 4"
    run("document.getElementById('on').click()")
    assert run(place) == "25 groups, page 2 of 4"
    run(choose, "kind", WRONG)
    assert run(place) == "0 groups, page 1 of 1", "after half of the steps no box misses"
    run(choose, "step", "3")
    third = table[table["step"] == 3]
    wrong = [failure(row.status, row.target, row.box, row.iou) == WRONG for row in third.itertuples()]
    expected = third[wrong]["prompt_id"].nunique()
    assert 0 < expected < 25 and run(place).startswith(f"{expected} groups")
    run(choose, "least", "1")
    assert run(place) == "0 groups, page 1 of 1"
    run(choose, "least", "0")
    run("document.querySelector('.group tr:nth-child(3)').dispatchEvent(new Event('mouseenter'))")
    deadline = time.perf_counter() + 5
    while not run("return [...document.querySelectorAll('canvas')].every(c => c.dataset.drawn)"):
        assert time.perf_counter() < deadline
    green = (
        "const c = document.querySelector('canvas'), d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;"
    )
    green += "let n = 0; for (let i = 0; i < d.length; i += 4) n += d[i] == 0 && d[i + 1] == 158; return n"
    assert run(green) > 50 and run("return document.querySelectorAll('.group b').length") == 0
    assert browser.get_log("browser") == []
    browser.set_window_size(390, 800)
    assert run("return document.documentElement.scrollWidth <= window.innerWidth + 1")


def test_a_run_that_has_written_no_row_yet(tmp_path):
    """Killed in its first validation, or still in it: the page of all runs of a sweep was a traceback."""
    for name in ("validation.parquet", "rollouts.parquet"):
        (tmp_path / name).mkdir()
    assert iou_histograms([("a", tmp_path)]) is None and rollouts_of(tmp_path).empty


def test_more_area_bins_than_colours():
    """A page that ends in an error for seven bins."""
    bins = {f"val/b{number}/mean_iou": 0.5 for number in range(7)}
    assert dynamics(pd.DataFrame({"run": "a", "step": [1, 2], "val/mean_iou": 0.5, **bins})) is not None


def test_seeds_of_a_setting_share_a_colour_and_a_legend():
    """Six runs of two settings as six colours, in a legend that hides the curves."""
    metrics = pd.DataFrame({"run": list("aabbcc"), "step": [1, 2] * 3, "train/reward": 0.5, "val/mean_iou": 0.5})
    with mock.patch("locus.analysis.pages.sweep.as_picture") as drawn:
        dynamics(metrics, {"a": "x", "b": "x", "c": "y"})
    _, validation = drawn.call_args[0][0].axes
    assert [text.get_text() for text in validation.get_legend().get_texts()] == ["x", "y"]
    assert len(validation.lines) == 3 and len({line.get_color() for line in validation.lines}) == 2


@pytest.mark.slow
def test_command(tmp_path):
    """One run and several, from what a real training leaves."""
    from tests.support.runs import SMALLEST

    for seed in (1, 2):
        folder = f"hydra.run.dir={tmp_path / 'sweep' / str(seed)}"
        succeeded(command("train", *SMALLEST, f"seed={seed}", folder))
    out = f"hydra.run.dir={tmp_path / 'page'}"
    ended = succeeded(command("report", f"runs={tmp_path / 'sweep'}", out))
    page = (tmp_path / "page" / "report.html").read_text()
    assert "Means over seeds" in page and "rollout-data" in page and "report:" in ended.stdout
    assert (tmp_path / "page" / "tables" / "runs.csv").exists() and (
        tmp_path / "page" / "figures" / "training.png"
    ).exists()
    refused(command("report", f"runs={tmp_path / 'none'}", out), "no run below it")
    assert "Gallery: 1" in page
    refused(command("report", f"runs={tmp_path / 'sweep'}", "browse=3", out), "give one of 1, 2")
    refused(command("report", f"runs={tmp_path / 'sweep'}", "table=table7", out), "table=table7: give one whose config")


def test_why_images_are_left_out_is_text(tmp_path, monkeypatch):
    """A file's name, in the reason that the browser is left out, as markup of the page."""
    (tmp_path / "rollouts.parquet").touch()
    (tmp_path / "config.yaml").write_text("data: {source: {}}")
    monkeypatch.setattr("locus.report.rollouts_of", lambda run: rollouts(steps=1, prompts=1))
    monkeypatch.setattr("locus.report.instantiate", mock.Mock(side_effect=OSError("<b>a</b>.png & b.png: not there")))
    markup = rollout_sections(OmegaConf.create({"rollouts": 8}), tmp_path)[1].markup
    assert "&lt;b&gt;a&lt;/b&gt;.png &amp; b.png: not there" in markup and "<b>" not in markup


def test_a_supervised_run_has_a_page(tmp_path):
    """A method without rollouts: a crash in curves that it does not log, an empty browser on the page."""
    succeeded(command("report", f"runs={warm_run()}", f"hydra.run.dir={tmp_path}"))
    page = (tmp_path / "report.html").read_text()
    assert "finished" in page and "Rollouts:" not in page and "Frame of the boxes" not in page


def test_a_run_that_begins_while_the_page_is_made(tmp_path, monkeypatch):
    """A page of a sweep that goes on: a traceback of zip, or curves of a run that no table has."""

    def begin(number, gain):
        tables = {"questions": task_tables.questions(gain, 10, 1)}
        task_tables.run(tmp_path / "runs" / str(number), {"cue_search": 1.0}, 1, tables, crop={"gain": gain})

    def load(*given, **named):
        frame = runs.load(*given, **named)
        begin(0, 0.3)  # it is the first by name
        return frame

    begin(1, 0.1)
    begin(2, 0.2)
    monkeypatch.setattr("locus.report.load", load)
    with mock.patch("locus.report.dynamics", wraps=dynamics) as drawn:
        succeeded(command("report", f"runs={tmp_path / 'runs'}", f"hydra.run.dir={tmp_path / 'page'}"))
    assert "<p>2 below" in (tmp_path / "page" / "report.html").read_text()
    assert set(drawn.call_args[0][0]["run"]) == {"1", "2"}


def test_attention_of_an_item_counts_once(tmp_path):
    """Sixty runs of one base that make its interval eight times too narrow; values that are all alike, whose interval
    by rounding begins above their mean."""
    table = claim_tables.attention(0.1, items=6)
    for name in "ab":
        (tmp_path / name).mkdir()
        table.to_parquet(tmp_path / name / "attention.parquet")
    with mock.patch("locus.analysis.pages.sweep.layer_curves") as drawn:
        attention_by_layer([("locus", tmp_path / "a"), ("locus", tmp_path / "b")])
    shown = drawn.call_args[0][0]
    assert len(shown) == 12 and set(shown["policy"]) == {"base", "locus"}
    assert attention_by_layer([("locus", tmp_path / "a")]) is not None
