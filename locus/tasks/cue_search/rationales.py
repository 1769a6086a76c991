"""Rationales: what SFT's targets say in their think block before the true box."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from locus.errors import LocusError
from locus.files.progress import tracked
from locus.files.run_files import write_lines
from locus.tasks.answers import TAGS
from locus.tasks.cue_search.corpus import CueTable
from locus.types import Box, CueExample

TARGETS_FILE = "targets.jsonl"


class Rationales(Protocol):
    """Gives each example its rationale."""

    def check(self, examples: CueTable) -> None:
        """Raises LocusError where it is known beforehand that one of these examples will have no rationale."""

    def rationales(self, examples: Sequence[CueExample]) -> Iterator[str]:
        """One rationale an example, in order; raises LocusError for an example that has none."""


class NoRationales(Rationales):
    """The box alone, after an empty think block."""

    def check(self, examples: CueTable) -> None:
        """Every example has one."""

    def rationales(self, examples: Sequence[CueExample]) -> Iterator[str]:
        """As many empty texts."""
        return iter([""] * len(examples))


NO_RATIONALES = NoRationales()


class LabelRationales(Rationales):
    """The example's label, as a policy that answers at once would think. Example: ``dotted red star``."""

    def check(self, examples: CueTable) -> None:
        """Raises LocusError for a label that is empty, or has tags."""
        for name, label in zip(*(examples.columns[key].to_pylist() for key in ("example_id", "label")), strict=True):
            _label(name, label)

    def rationales(self, examples: Sequence[CueExample]) -> Iterator[str]:
        """As in `Rationales`; raises LocusError as `check` does."""
        return (_label(example.example_id, example.label) for example in examples)


def _label(example_id: str, label: str) -> str:
    """The label as a rationale."""
    try:
        return rationale_of(label)
    except ValueError:
        raise LocusError(
            f"rationales=labels: example {example_id} has the label {label!r}: use data with labels (generated scenes, "
            "coco, refcoco, or boxes with a column label) and a crop= of its objects, or rationales=templates"
        ) from None


class FileRationales(Rationales):
    """Rationales from JSON lines.

    Example of a line: ``{"example_id": "coco-9-51", "rationale": "Image 2 shows ..."}``. The file is read when it is
    first needed; it may hold more examples than are asked for.
    """

    def __init__(self, path: str) -> None:
        self.path = Path(path)

    def check(self, examples: CueTable) -> None:
        """Raises LocusError for a file that is missing, empty or broken, and for an example that is not in it."""
        self._require(examples.columns["example_id"].to_pylist())

    def rationales(self, examples: Sequence[CueExample]) -> Iterator[str]:
        """As in `Rationales`; raises LocusError as `check` does."""
        names = [example.example_id for example in examples]
        self._require(names)
        return (self._rationales[name] for name in names)

    def _require(self, example_ids: Sequence[str]) -> None:
        lacking = [name for name in example_ids if name not in self._rationales]
        if lacking:
            raise LocusError(
                f"{self.path}: no rationale for {len(lacking)} of the examples, first {lacking[0]}; give the "
                f"{TARGETS_FILE} that locus.prepare wrote beside this corpus, or add a line for each"
            )

    @cached_property
    def _rationales(self) -> dict[str, str]:
        try:
            lines = self.path.read_text(encoding="utf-8").split("\n")
        except (OSError, UnicodeDecodeError) as error:
            raise LocusError(f"{self.path}: cannot be read ({error}); pass rationales.path=<JSON lines>") from None
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


def write_rationales(rationales: Rationales, examples: Sequence[CueExample], folder: str | Path) -> None:
    """Writes ``targets.jsonl`` whole or not at all, a line per example in their order; none for an empty rationale.

    Raises LocusError as ``rationales`` does, and when the folder cannot be written.
    """
    texts = tracked(rationales.rationales(examples), "rationales", len(examples), "examples")
    pairs = zip(examples, texts, strict=True)
    rows = [{"example_id": example.example_id, "rationale": text} for example, text in pairs if text]
    if rows:
        write_lines(Path(folder) / TARGETS_FILE, rows)


# --- Templates: all words, and those of scenes' labels, are single tokens of the tiny tokenizer (tested) -----------
TEMPLATES = (
    "The cue is cropped from a {size} region with one {label}. The {label} that matches it is {place} of the image.",
    "There is one {label} in the cue. The image has the same {label} {place}, and it is {size}.",
    "First look at the cue, it is one {label}. The same {label} is {place}. There the {size} region matches.",
    "To find the cue, look for a {size} {label}. There is one {place} of the image, and the pixels match.",
)
UNNAMED = "part of the scene"
"""Stands for a label that is empty, as a random crop's."""
PLACES = (
    ("at the top left", "at the top", "at the top right"),
    ("on the left", "in the middle", "on the right"),
    ("at the bottom left", "at the bottom", "at the bottom right"),
)
"""Of a box whose centre lies in this row and column of thirds of the image."""
SIZES = ((0.01, "tiny"), (0.05, "small"))
"""(Share of the image below which a box is so called, word); from the last share on it is large."""


class TemplateRationales(Rationales):
    """Two or three sentences that say the label, the part of the image that the target box lies in, and its size.

    An example has the same rationale in every run; which template it gets goes by its id.
    """

    def rationales(self, examples: Sequence[CueExample]) -> Iterator[str]:
        """As in `Rationales`; every example has one."""
        return map(rationale, examples)


def rationale(example: CueExample) -> str:
    """Example -> its sentences. Example: ``The cue is cropped from a tiny region with one dotted red star. ...``."""
    number = int.from_bytes(hashlib.sha256(example.example_id.encode()).digest()[:8])
    words = {"label": example.label or UNNAMED, "place": place(example.target), "size": size(example.target)}
    return TEMPLATES[number % len(TEMPLATES)].format(**words)


def place(box: Box) -> str:
    """The part of the image that the box's centre lies in, such as ``at the top left``."""
    column = int(3 * (box.x1 + box.x2) / 2 / box.width)
    row = int(3 * (box.y1 + box.y2) / 2 / box.height)
    return PLACES[min(row, 2)][min(column, 2)]


def size(box: Box) -> str:
    """The box's size relative to the image, in a word."""
    return next((word for share, word in SIZES if box.area_ratio < share), "large")
