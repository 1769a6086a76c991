"""Policies side by side: what diagnoses measure of each, and a run's validations. Paired, with intervals."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path

import pandas as pd

from locus.analysis.diagnoses.shared import Diagnosis
from locus.analysis.pages.page import Section
from locus.analysis.tables import paired_table
from locus.errors import LocusError
from locus.evaluation.evaluator import Evaluator
from locus.files.progress import within

log = logging.getLogger("locus")
BEFORE, AFTER = "before", "after"


def measure(diagnosis: Diagnosis, evaluator: Evaluator, policy: str) -> pd.DataFrame:
    """A diagnosis of one policy, whose name goes into column ``policy``; both names begin its lines in the log."""
    name = f"{diagnosis.name} of {policy}"
    log.info("%s", name)
    with within(name):
        return diagnosis.measure(evaluator).assign(policy=policy)


def compare(policies: Mapping[str, Evaluator], diagnoses: Iterable[Diagnosis], folder: Path) -> list[Section]:
    """Measures each policy and writes ``<diagnosis>.parquet``, one row per policy (column ``policy``) and item.

    A diagnosis that does not suit the policies is left out, and its section says why: the run is worth more than it.
    """
    sections = []
    for diagnosis in diagnoses:
        try:
            frames = [measure(diagnosis, evaluator, policy) for policy, evaluator in policies.items()]
        except LocusError as error:
            sections.append(Section(f"{diagnosis.name}: left out", str(error)))
            continue
        measured = pd.concat(frames, ignore_index=True)
        measured.to_parquet(folder / f"{diagnosis.name}.parquet", index=False)
        sections.append(diagnosis.section(measured))
    return sections


def validation_section(validation: pd.DataFrame, title: str) -> Section:
    """``validation.parquet`` of a run -> first against last validation, over all examples and by group.

    Examples about one image are drawn together in the bootstrap.
    """
    ends = {int(validation["step"].min()): BEFORE, int(validation["step"].max()): AFTER}
    rows = validation[validation["step"].isin(ends)].assign(policy=validation["step"].map(ends))
    rows = rows.rename(columns={"example_id": "item"})
    rows["unit"] = rows.pop("image_id").fillna(rows["item"])
    measures = {"reward": "reward"}
    if rows["iou"].notna().any():  # answers are boxes
        rows = rows.assign(at_50=rows["iou"] >= 0.5, at_75=rows["iou"] >= 0.75)
        measures = {"mean IoU": "iou", "ACC@0.5": "at_50", "ACC@0.75": "at_75", "format": "format"}
    text = (
        "Answers to examples that training never saw, at the first and the last validation; intervals are paired "
        "bootstrap over the images."
    )
    return Section(title, text, paired_table(rows, measures, "bin"))
