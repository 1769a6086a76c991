"""A training run's page: what `page.write_report` shows of a run folder and of base against trained policy."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from PIL import Image

from locus.analysis.claim_files import lines, shown_claims
from locus.analysis.claims import Claim
from locus.analysis.pages.page import Section, write_report
from locus.analysis.pictures import comparison_picture
from locus.analysis.run_metrics import AFTER, BEFORE
from locus.types import Query

GALLERY = 12
"""Validation images shown."""


Shown = Callable[[str], tuple[Query, Mapping[str, Any]]]
"""Example id -> what was asked, and what the task says of it."""


def write_run_report(
    run: Path, sections: Sequence[Section], shown: Shown, title: str, claims: Sequence[Claim] = ()
) -> Path:
    """Writes ``report.html`` of a run folder.

    Args:
        run: with ``validation.parquet`` and ``figures/curve.png``.
        sections: the task's own first.
        shown: of the validation examples.
        title: of the page.
        claims: what opens it.
    """
    validation = pd.read_parquet(run / "validation.parquet")
    with Image.open(run / "figures" / "curve.png") as file:
        curve = file.convert("RGB")
    first = Section("Reward", "Parts of the reward over steps, validation, and KL to the reference.", None, [curve])
    opening = [claims_section(claims)] if claims else []
    last = []
    pictures, captions = gallery(validation[validation["target"].notna()], shown)
    if pictures:
        text = "Green: true box. Blue: base. Orange: trained. Below: what each wrote in its think block."
        last = [Section("Validation images", text, None, pictures, captions=captions)]
    path = run / "report.html"
    write_report(path, title, summary_of(sections[0]), [*opening, first, *sections, *last])
    return path


def claims_section(claims: Sequence[Claim]) -> Section:
    """One line per claim, then all numbers."""
    text = (
        "What training was to do, and whether it did: base against trained policy on the same items, 95 % paired "
        "bootstrap over scenes. Lines that begin with … are numbers beside a claim; they do not decide it."
    )
    return Section("Claims", text, shown_claims(claims), lines=lines(claims))


def summary_of(section: Section) -> str:
    """The table's headline in one sentence; empty without a table of both policies."""
    if section.table is None or BEFORE not in section.table:
        return ""
    first = section.table.iloc[0]
    return (
        f"{first['measure']} of {section.title[0].lower()}{section.title[1:]}: {first[BEFORE]:.3f} before, "
        f"{first[AFTER]:.3f} after "
        f"(change {first['change']:+.3f}, 95 % [{first['low']:+.3f}, {first['high']:+.3f}], {first['items']} examples)."
    )


def gallery(validation: pd.DataFrame, shown: Shown) -> tuple[list[Image.Image], list[str]]:
    """The first validation examples with both policies' boxes, and what both thought."""
    first, last = (
        validation[validation["step"] == step].set_index("example_id") for step in (0, validation["step"].max())
    )
    names = list(first.index[:GALLERY])
    pictures = [comparison_picture(*shown(name), first["box"][name], last["box"][name]) for name in names]
    captions = [f"base: {thought(first['text'][name])}\ntrained: {thought(last['text'][name])}" for name in names]
    return pictures, captions


def thought(response: str) -> str:
    """What a response says in its think block, in one line; an unclosed block ends with the response."""
    written = response.rpartition("<think>")[2].split("</think>")[0] if "<think>" in response else ""
    return " ".join(written.split()) or "(nothing)"
