"""The rationales of SFT's targets: what a target says in its think block before the true box. Layer 2."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from locus.errors import LocusError
from locus.types import CueExample

log = logging.getLogger("locus")

TARGETS_FILE = "targets.jsonl"
TAGS = ("<think>", "</think>", "<answer>", "</answer>")
REPORT_EVERY = 1000
"""Rationales between two lines in the log."""


class Targets(Protocol):
    """Gives each example its rationale."""

    def check(self, example_ids: Iterable[str]) -> None:
        """Raises LocusError where it is known beforehand that one of these examples will have no rationale."""

    def rationales(self, examples: Sequence[CueExample]) -> Iterator[str]:
        """One rationale an example, in order; raises LocusError for an example that has none."""


class EmptyTargets(Targets):
    """The box alone, after an empty think block."""

    def rationales(self, examples: Sequence[CueExample]) -> Iterator[str]:
        """As many empty texts."""
        return iter([""] * len(examples))


class FileTargets(Targets):
    """Rationales from JSON lines.

    Example of a line: ``{"example_id": "coco-9-51", "rationale": "Image 2 shows ..."}``. The file is read when it is
    first needed; it may hold more examples than are asked for.
    """

    def __init__(self, path: str) -> None:
        self.path = Path(path)

    def check(self, example_ids: Iterable[str]) -> None:
        """Raises LocusError for a file that is missing, empty or broken, and for an example that is not in it."""
        lacking = [name for name in example_ids if name not in self._rationales]
        if lacking:
            raise LocusError(
                f"{self.path}: no rationale for {len(lacking)} of the examples, first {lacking[0]}; give the "
                f"{TARGETS_FILE} that locus.prepare wrote beside this corpus, or add a line for each"
            )

    def rationales(self, examples: Sequence[CueExample]) -> Iterator[str]:
        """As in `Targets`; raises LocusError as `check` does."""
        names = [example.example_id for example in examples]
        self.check(names)
        return (self._rationales[name] for name in names)

    @cached_property
    def _rationales(self) -> dict[str, str]:
        try:
            lines = self.path.read_text(encoding="utf-8").split("\n")
        except (OSError, UnicodeDecodeError) as error:
            raise LocusError(f"{self.path}: cannot be read ({error}); pass targets.path=<JSON lines>") from None
        found: dict[str, str] = {}
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                example_id, rationale = _row(json.loads(line))
                if example_id in found:
                    raise ValueError(f"a second rationale for {example_id}")
            except ValueError as error:
                raise LocusError(
                    f"{self.path}, line {number}: {error}; write one "
                    '{"example_id": "...", "rationale": "..."} a line, one for each example'
                ) from None
            found[example_id] = rationale
        if not found:
            raise LocusError(f"{self.path}: has no rationales; write one line for each training example")
        return found


def _row(row: Any) -> tuple[str, str]:
    """(example id, rationale) of a parsed line; raises ValueError for anything else."""
    if not isinstance(row, dict) or not all(isinstance(row.get(name), str) for name in ("example_id", "rationale")):
        raise ValueError("not an example_id with a rationale")
    return row["example_id"], rationale_of(row["rationale"])


def rationale_of(text: str) -> str:
    """The text on one line; raises ValueError when it is empty, or has tags that would break the target's format."""
    rationale = " ".join(text.split())
    if not rationale:
        raise ValueError("the rationale is empty")
    if tags := [tag for tag in TAGS if tag in rationale]:
        raise ValueError(f"the rationale holds {' '.join(tags)}")
    return rationale


def write_targets(targets: Targets, examples: Sequence[CueExample], folder: str | Path) -> None:
    """Writes ``targets.jsonl`` whole or not at all, a line an example in their order; none for an empty rationale.

    Raises LocusError as ``targets`` does, and when the folder cannot be written.
    """
    path = Path(folder) / TARGETS_FILE
    lines = []
    for index, rationale in enumerate(targets.rationales(examples)):
        if rationale:
            lines.append(json.dumps({"example_id": examples[index].example_id, "rationale": rationale}) + "\n")
            if len(lines) % REPORT_EVERY == 0:
                log.info("%d of %d rationales", len(lines), len(examples))
    if not lines:
        return
    try:
        Path(f"{path}.part").write_text("".join(lines), encoding="utf-8")
        os.replace(f"{path}.part", path)
    except OSError as error:
        raise LocusError(f"{path}: cannot be written ({error}); make room or choose another hydra.run.dir") from error
