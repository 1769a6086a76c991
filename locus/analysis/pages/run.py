"""A training run's page: what `report.write_report` shows of a run folder and of base against trained policy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd
from PIL import Image

from locus.analysis.comparison import AFTER, BEFORE
from locus.analysis.pages.page import Section, write_report
from locus.analysis.pictures import comparison_picture
from locus.types import Box, CuePixels, Frame

GALLERY = 12
"""Validation images shown."""


def write_run_report(run: Path, sections: Sequence[Section], pixels: Callable[[str], CuePixels], title: str) -> Path:
    """Writes ``report.html`` of a run folder.

    Args:
        run: with ``validation.parquet`` and ``figures/curve.png``.
        sections: cue search first.
        pixels: example id -> its pictures.
        title: of the page.
    """
    validation = pd.read_parquet(run / "validation.parquet")
    with Image.open(run / "figures" / "curve.png") as file:
        curve = file.convert("RGB")
    first = Section("Reward", "Parts of the reward over steps, validation, and KL to the reference.", None, [curve])
    last = Section("Validation images", "Green: true box. Blue: base. Red: trained.", None, gallery(validation, pixels))
    path = run / "report.html"
    write_report(path, title, summary_of(sections[0]), [first, *sections, last])
    return path


def summary_of(section: Section) -> str:
    """The table's headline in one sentence."""
    first = section.table.iloc[0]
    return (
        f"{first['measure']} of held-out cue search: {first[BEFORE]:.3f} before, {first[AFTER]:.3f} after "
        f"(change {first['change']:+.3f}, 95 % [{first['low']:+.3f}, {first['high']:+.3f}], {first['items']} examples)."
    )


def gallery(validation: pd.DataFrame, pixels: Callable[[str], CuePixels]) -> list[Image.Image]:
    """The first validation examples with both policies' boxes."""
    first, last = (
        validation[validation["step"] == step] for step in (validation["step"].min(), validation["step"].max())
    )
    boxes = last.set_index("example_id")["box"]
    pictures = []
    for example_id, before in first.set_index("example_id")["box"].head(GALLERY).items():
        shown = pixels(example_id)
        width, height = shown.image.size
        base, trained = (
            None if box is None else Box(*box, Frame.FILE, width, height) for box in (before, boxes[example_id])
        )
        pictures.append(comparison_picture(shown, base, trained))
    return pictures
