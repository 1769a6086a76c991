"""A training run's page: what `report.write_report` shows of a run folder and its comparison."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd
from PIL import Image

from locus.analysis.comparison import AFTER, BEFORE, Comparison, attention_table, cue_search_table, question_table
from locus.analysis.pictures import comparison_picture
from locus.analysis.report import Section, write_report
from locus.types import Box, CuePixels, Frame

GALLERY = 12
"""Validation images shown."""


def run_tables(run: Path, comparison: Comparison | None) -> dict[str, pd.DataFrame]:
    """Title -> before/after table of a run; without a comparison, cue search only."""
    tables = {"Cue search, held out": cue_search_table(pd.read_parquet(run / "validation.parquet"))}
    if comparison is not None:
        tables["Questions without a cue"] = question_table(comparison.questions)
        if len(comparison.attention):
            tables["Attention in box"] = attention_table(comparison.attention)
    return tables


TEXTS = {
    "Cue search, held out": "Boxes answered for cues of images that training never saw, at the first and the last "
    "validation; intervals are paired bootstrap over the examples.",
    "Questions without a cue": "Accuracy of greedy answers of the base and of the trained policy to the same "
    "questions (text grounding: IoU of at least 0.5). Accuracy never needs a cue.",
    "Attention in box": "Share of the attention to the image, from the position that predicts the answer's first "
    "token, that lies in the evidence boxes; the box's own area is what evenly spread attention gives.",
}


def write_run_report(
    run: Path, tables: dict[str, pd.DataFrame], pixels: Callable[[str], CuePixels], title: str
) -> Path:
    """Writes ``report.html`` of a run folder.

    Args:
        run: with ``validation.parquet`` and ``figures/curve.png``.
        tables: of `run_tables`.
        pixels: example id -> its pictures.
        title: of the page.
    """
    validation = pd.read_parquet(run / "validation.parquet")
    with Image.open(run / "figures" / "curve.png") as file:
        curve = file.convert("RGB")
    sections = [
        Section("Reward", "Parts of the reward over steps, validation, and KL to the reference.", None, [curve])
    ]
    sections += [Section(name, TEXTS[name], table) for name, table in tables.items()]
    sections.append(
        Section("Validation images", "Green: true box. Blue: base. Red: trained.", None, gallery(validation, pixels))
    )
    path = run / "report.html"
    write_report(path, title, summary_of(tables), sections)
    return path


def summary_of(tables: dict[str, pd.DataFrame]) -> str:
    """The first table's headline in one sentence."""
    first = next(iter(tables.values())).iloc[0]
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
