"""A run's page, opened in a real headless browser."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from locus.analysis.claim_files import judge_run
from locus.analysis.diagnoses.shared import compare
from locus.analysis.pages.page import Section
from locus.analysis.pages.run import gallery, thought, write_run_report
from locus.analysis.run_metrics import validation_section
from locus.analysis.tables import paired_table
from locus.errors import LocusError
from locus.tasks.cue_search.cues import render_cue
from locus.types import Query

EXAMPLES = 15


@pytest.fixture
def run(tmp_path) -> Path:
    """A run folder with two validations: IoU 0.2 before, 0.2 to 1.0 after; the last example answers no box."""
    rows = []
    for step, ious in ((0, np.full(EXAMPLES, 0.2)), (40, np.linspace(0.2, 1.0, EXAMPLES))):
        for index, iou in enumerate(ious):
            box = None if index == EXAMPLES - 1 and step == 0 else [8.0, 8.0, 40.0, 40.0]
            row = {
                "step": step,
                "example_id": str(index),
                "image_id": str(index // 2),
                "bin": ("tiny", "small")[index % 2],
                "iou": iou,
                "box": box,
                "target": [8.0, 8.0, 40.0, 40.0],
            }
            thought = f"<think>\n{('dotted', 'striped')[index % 2]} <b>star</b></think>" if step else "no tags"
            rows.append(row | {"format": 1.0, "text": f"{thought}<answer>[8, 8, 40, 40]</answer>"})
    pd.DataFrame(rows).to_parquet(tmp_path / "validation.parquet")
    (tmp_path / "figures").mkdir()
    Image.new("RGB", (64, 48), "white").save(tmp_path / "figures" / "curve.png")
    return tmp_path


def shown(example_id: str) -> tuple[Query, Mapping[str, Any]]:
    """The pictures of an example, and what its task says of it."""
    image, box = Image.effect_noise((128, 128), 80).convert("RGB"), (8.0, 8.0, 40.0, 40.0)
    row = {"image_path": "0.png", "bin": "tiny", "area_ratio": 0.0625, "expression": "", "target": list(box)}
    return Query("Where?", (image, render_cue(image, box))), row


@pytest.fixture
def sections(run) -> list[Section]:
    """Cue search, and ten questions that the base fails, and of which the trained policy fails none."""
    shared = {"item": range(10), "kind": ["colour", "shape"] * 5}
    questions = pd.concat(
        [pd.DataFrame(shared | {"policy": p, "score": s}) for p, s in (("before", 0.0), ("after", 1.0))]
    )
    asked = paired_table(questions, {"<b>attributes</b>": "score"}, "kind")
    cues = validation_section(pd.read_parquet(run / "validation.parquet"), "Cue search, held out")
    return [cues, Section("Questions without a cue", "<i>text</i>", asked)]


def test_the_page_in_a_browser(run, sections, browser):
    """A broken picture, a request to the network, or data that becomes markup: the page looks right in code. Claims
    come before all tables; thoughts stand below their pictures."""
    claims = judge_run(run)
    page = write_run_report(run, sections, shown, "locus: a <run>", claims)
    browser.get(page.as_uri())
    assert browser.get_log("browser") == []
    assert browser.title == "locus: a <run>"
    widths = browser.execute_script("return [...document.images].map(image => image.naturalWidth)")
    assert len(widths) == 1 + 12 and min(widths) > 0
    assert browser.execute_script(
        "return performance.getEntriesByType('resource').every(r => r.name.startsWith('data:'))"
    )
    rows = browser.execute_script("return [...document.querySelectorAll('tr')].map(row => row.innerText.split('\\t'))")
    assert ["mean IoU", "all", "0.200", "0.600", "+0.400"] in [row[:5] for row in rows]
    said = browser.execute_script("return [...document.querySelectorAll('li')].map(line => line.innerText)")
    assert len(said) == 6 and said[0].startswith("H1 Cue search doubles: holds. 3.00 times, 95 % [")
    assert said[1] == "H2 Questions in crowded scenes improve: not measured. (no questions.parquet)"
    assert browser.execute_script(
        "return [...document.querySelectorAll('h1 ~ *')].map(e => e.tagName).slice(0, 5)"
    ) == ["P", "H2", "P", "UL", "DIV"]
    below = browser.execute_script("return [...document.querySelectorAll('figcaption')].map(e => e.innerText)")
    assert len(below) == 12 and below[1] == "base: (nothing)\ntrained: striped <b>star</b>"
    assert "<b>attributes</b>" in {row[0] for row in rows}


def test_cue_search_table(run, sections):
    """Before and after swapped, bins mixed, or examples paired by order and not by name."""
    cues = sections[0].table.set_index(["measure", "of"])
    assert cues.loc[("mean IoU", "all"), ["before", "after"]].tolist() == pytest.approx([0.2, 0.6])
    assert cues.loc[("ACC@0.5", "all"), "after"] == pytest.approx(9 / 15)  # from 0.2 + 6 * 0.8 / 14 on
    assert cues.loc[("mean IoU", "tiny"), "items"] == 8 and cues.loc[("mean IoU", "small"), "items"] == 7


def test_a_diagnosis_that_does_not_suit_is_left_out(run, tmp_path):
    """A finished training that ends as failed, without its page, because one diagnosis cannot be made."""

    class Unsuited:
        name = "crowding"

        def measure(self, evaluator: object) -> pd.DataFrame:
            raise LocusError("a canvas of 96x96 is shown as 84x84")

    (section,) = compare({"before": None, "after": None}, {"rot": Unsuited()}, tmp_path)
    assert section.title == "crowding: left out" and "84x84" in section.text
    cues = validation_section(pd.read_parquet(run / "validation.parquet"), "Cue search, held out")
    assert "84x84" in write_run_report(run, [cues, section], shown, "run").read_text()


def test_gallery_takes_an_answer_without_a_box(run):
    """A missing box that is drawn, or that ends the report."""
    pictures, captions = gallery(pd.read_parquet(run / "validation.parquet"), shown)
    assert len(pictures) == len(captions) == 12


@pytest.mark.parametrize(
    ("response", "says"),
    [
        ("<think>red  star</think><answer>red</answer>", "red star"), ("<think>\nred star", "red star"),
        ("<think></think><answer>1</answer>", "(nothing)"), ("<answer>1</answer>", "(nothing)"),
    ],
)  # fmt: skip
def test_thoughts(response, says):
    """An answer shown as a thought; a cut-off thought that is lost."""
    assert thought(response) == says
