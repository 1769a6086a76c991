"""A training run's page: what `page.write_report` shows of a run folder and of base against trained policy."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from PIL import Image

from locus.analysis.pages.page import Section, write_report
from locus.analysis.pictures import comparison_picture
from locus.analysis.run_metrics import AFTER, BEFORE
from locus.types import Query

GALLERY = 12
"""Validation images shown."""


Shown = Callable[[str], tuple[Query, Mapping[str, Any]]]
"""Example id -> what was asked, and what the task says of it."""


def write_run_report(run: Path, sections: Sequence[Section], shown: Shown, title: str) -> Path:
    """Writes ``report.html`` of a run folder.

    Args:
        run: with ``validation.parquet`` and ``figures/curve.png``.
        sections: the task's own first.
        shown: of the validation examples.
        title: of the page.
    """
    validation = pd.read_parquet(run / "validation.parquet")
    with Image.open(run / "figures" / "curve.png") as file:
        curve = file.convert("RGB")
    first = Section("Reward", "Parts of the reward over steps, validation, and KL to the reference.", None, [curve])
    last = []
    if validation["target"].notna().any():
        text = "Green: true box. Blue: base. Red: trained."
        last = [Section("Validation images", text, None, gallery(validation, shown))]
    path = run / "report.html"
    write_report(path, title, summary_of(sections[0]), [first, *sections, *last])
    return path


def summary_of(section: Section) -> str:
    """The table's headline in one sentence; empty without a table."""
    if section.table is None:
        return ""
    first = section.table.iloc[0]
    return (
        f"{first['measure']} of {section.title[0].lower()}{section.title[1:]}: {first[BEFORE]:.3f} before, "
        f"{first[AFTER]:.3f} after "
        f"(change {first['change']:+.3f}, 95 % [{first['low']:+.3f}, {first['high']:+.3f}], {first['items']} examples)."
    )


def gallery(validation: pd.DataFrame, shown: Shown) -> list[Image.Image]:
    """The first validation examples with both policies' boxes."""
    first, last = (
        validation[validation["step"] == step] for step in (validation["step"].min(), validation["step"].max())
    )
    trained = last.set_index("example_id")["box"]
    before = first.set_index("example_id")["box"].head(GALLERY)
    return [comparison_picture(*shown(name), box, trained[name]) for name, box in before.items()]
