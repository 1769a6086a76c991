"""What diagnoses share: the protocol, policies side by side, answers judged in one pass, attention at the answer."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import numpy as np
import pandas as pd
import torch

from locus.analysis.attention import attention_maps
from locus.analysis.pages.page import Section
from locus.analysis.run_metrics import AFTER, BEFORE
from locus.analysis.tables import as_text
from locus.errors import LocusError
from locus.evaluation.benchmark import Benchmark, Item, Verdict
from locus.evaluation.evaluator import Evaluator
from locus.evaluation.predictions import Prediction
from locus.evaluation.reading.extractors import LOCUS
from locus.evaluation.scores import verdict_of
from locus.files.progress import tracked, within
from locus.policy.inference import inference_policy
from locus.types import Prompt

log = logging.getLogger("locus")
BEFORE_ANSWER = ("<answer>", "</think>")
"""What a response writes before its answer: the first of these in it; without any, the answer begins at once."""
OF_THE_RUN = ("rollouts", "validation")
"""Tables that a training writes itself."""


class Diagnosis(Protocol):
    """One question about what policies do. Built by Hydra from ``conf/analysis/<name>.yaml``."""

    name: str

    def measure(self, evaluator: Evaluator) -> pd.DataFrame:
        """What one policy does: one row per item, named by column ``item``. Raises LocusError for a benchmark that does
        not say what is needed."""

    def section(self, measured: pd.DataFrame) -> Section:
        """Table and pictures of several policies' rows, distinguished by column ``policy``."""


def located(benchmark: Benchmark, limit: int | None) -> list[Item]:
    """Items that say where their answer is visible: all, or ``limit`` of them, evenly over the benchmark.

    Raises LocusError where there is none, or ``limit`` is not a number of items.
    """
    if limit is not None and limit < 1:
        raise LocusError(f"analysis.limit={limit}: give a whole number from 1 on, or null for all items")

    def found() -> Iterator[Item]:
        return (item for item in benchmark.items() if item.evidence and item.pictures)

    items = list(found()) if limit is None else []
    number = len(items) or sum(1 for _ in found())  # read twice, so that only the chosen items' pictures are held
    if not number:
        raise LocusError(
            f"{benchmark.name} has no item that says where its answer is visible: give the official folder of V*Bench, "
            "or scenes"
        )
    if items:
        return items
    chosen = set(np.linspace(0, number - 1, min(limit or number, number)).round().astype(int).tolist())
    return [item for place, item in enumerate(found()) if place in chosen]


def answered(
    evaluator: Evaluator, benchmark: Benchmark, items: Iterable[Item]
) -> Iterator[tuple[Item, Prediction, Verdict]]:
    """Every item with the policy's response and its verdict, in order."""
    items = list(items)
    for item, prediction in zip(items, predicted(evaluator, items, benchmark.name), strict=True):
        yield item, prediction, verdict_of(benchmark, item, prediction, LOCUS)


def predicted(evaluator: Evaluator, items: Sequence[Item], what: str) -> Iterator[Prediction]:
    """The policy's response to each item, in order; progress is logged under the name ``what``."""
    made = tracked(evaluator.predict(items), what, len(items))
    yield from sorted(made, key=lambda one: one.batch or 0)  # its place among the items


def kind_of(item: Item) -> str:
    """What an item's scores are split by first: its kind, or its category."""
    return next(iter(item.groups.values()), "all")


def unit_of(benchmark: Benchmark, verdict: Verdict) -> str:
    """What is drawn together with this item in a bootstrap: the items of one picture, say."""
    return "/".join(str(verdict.columns[name]) for name in benchmark.unit()) or verdict.item_id


def before_answer(evaluator: Evaluator, prompt: Prompt, response: str) -> Prompt:
    """The prompt and what the response wrote before its answer, so that the answer's first token comes next.

    A response begins with what the chat template opened, which the prompt has already.
    """
    ends = (response.rfind(tag) + len(tag) for tag in BEFORE_ANSWER if tag in response)
    written = response[: next(ends, 0)].removeprefix(prompt.opened)
    if not written:
        return prompt
    ids = torch.tensor(evaluator.builder.encode(written))
    types = torch.cat([prompt.mm_token_type_ids, torch.zeros_like(ids)])
    return replace(prompt, input_ids=torch.cat([prompt.input_ids, ids]), mm_token_type_ids=types)


def looked(evaluator: Evaluator, items: Sequence[Item]) -> Iterator[tuple[Prediction, np.ndarray]]:
    """Every item's response, with [L, rows, columns] where the policy looks when it writes its answer's first token."""
    return tracked(_looked(evaluator, items), "attention maps", len(items))


def _looked(evaluator: Evaluator, items: Iterable[Item]) -> Iterator[tuple[Prediction, np.ndarray]]:
    policy = inference_policy(evaluator.policy)
    for batch in evaluator.batches(items):
        predictions = evaluator.complete(batch, policy)
        features = [evaluator.vision(asked) for asked in batch]
        prompts = [
            before_answer(evaluator, asked.prompt, prediction.response)
            for asked, prediction in zip(batch, predictions, strict=True)
        ]
        yield from zip(predictions, attention_maps(evaluator.policy, prompts, features), strict=True)


def measure(diagnosis: Diagnosis, evaluator: Evaluator, policy: str) -> pd.DataFrame:
    """A diagnosis of one policy, whose name goes into column ``policy``; both names begin its lines in the log."""
    name = f"{diagnosis.name} of {policy}"
    log.info("%s", name)
    with within(name):
        return diagnosis.measure(evaluator).assign(policy=policy)


def log_section(section: Section) -> None:
    """Title and table, or the text where there is no table, as lines of the log."""
    log.info("%s:\n%s", section.title, section.text if section.table is None else as_text(section.table))


def distinct(diagnoses: Mapping[str, Diagnosis]) -> Mapping[str, Diagnosis]:
    """The diagnoses, by their keys of the configuration, if each writes a table of its own.

    Raises LocusError where two have one name, or one has the name of another table of the run.
    """
    keys: dict[str, str] = {}
    for key, diagnosis in diagnoses.items():
        name = diagnosis.name
        hint = f"set diagnoses.{key}.name to another one, such as {key if key not in (name, *keys) else f'{name}_2'}"
        if name in keys:
            raise LocusError(f"diagnoses.{keys[name]} and diagnoses.{key} would both write {name}.parquet: {hint}")
        if name in OF_THE_RUN:
            raise LocusError(f"diagnoses.{key} would write {name}.parquet, which the run has already: {hint}")
        keys[name] = key
    return diagnoses


def forget(folder: Path) -> None:
    """Removes what `compare` has written of a run's policies: one that goes on has another in the end."""
    for table in folder.glob("*.parquet"):
        if table.stem in OF_THE_RUN or not table.is_file():
            continue
        try:
            policies = {*pd.read_parquet(table, columns=["policy"])["policy"]}
        except (OSError, ValueError):  # somebody else's
            continue
        if policies <= {BEFORE, AFTER}:
            log.info("%s is of the run before it went on: removed", table)
            table.unlink()


def compare(policies: Mapping[str, Evaluator], diagnoses: Mapping[str, Diagnosis], folder: Path) -> list[Section]:
    """Measures each policy and writes ``<diagnosis>.parquet``, one row per policy (column ``policy``) and item; each
    section is logged once it is there.

    A diagnosis that does not suit the policies is left out, and its section says why: the run is worth more than it.
    Raises LocusError, before anything is measured, as `distinct` does.
    """
    sections: list[Section] = []
    for diagnosis in distinct(diagnoses).values():
        try:
            frames = [measure(diagnosis, evaluator, policy) for policy, evaluator in policies.items()]
        except LocusError as error:
            section = Section(f"{diagnosis.name}: left out", str(error))
        else:
            measured = pd.concat(frames, ignore_index=True)
            partial = folder / f".{diagnosis.name}.parquet.partial"
            measured.to_parquet(partial, index=False)
            os.replace(partial, folder / f"{diagnosis.name}.parquet")
            section = diagnosis.section(measured)
        if section.title in (earlier.title for earlier in sections):
            section = replace(section, title=f"{section.title} ({diagnosis.name})")
        log_section(section)
        sections.append(section)
    return sections
