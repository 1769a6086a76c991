"""A benchmark's predictions on disk: raw responses, one JSON line per item, and what they were made with.

``predictions.jsonl`` grows batch by batch in the order of the items, and a policy's items are batches of their own;
``manifest.json`` beside it holds the settings. An interrupted evaluation is resumed at its last batch.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from locus.boxes import parse_frame
from locus.errors import LocusError
from locus.evaluation.prediction_tables import TABLES, table_lines
from locus.files.run_files import write_json, write_text
from locus.types import Response, View

HASHED = 256 * 2**20
"""Files up to this many bytes are distinguished by their content, larger ones by size and time."""


@dataclass(frozen=True)
class Prediction:
    """A policy's response to an item, whole."""

    id: str
    response: str
    finished: bool = True
    """False when it was cut at the token limit."""
    tokens: int | None = None
    """Of the response."""
    prompt: str | None = None
    """Digest of the prompt's text."""
    frame: str | None = None
    """In which the policy writes boxes."""
    size: tuple[float, float] | None = None
    """Width and height of the first picture as the policy saw it: of the ``processed`` frame."""
    batch: int | None = None

    @property
    def as_response(self) -> Response:
        """What is judged."""
        return Response(self.response, self.finished)

    def view(self, frame: str) -> View:
        """How the policy saw the item; ``frame`` where the prediction does not name the one it writes boxes in."""
        return View(parse_frame(self.frame or frame), self.size)


def prompt_digest(text: str) -> str:
    """Of a prompt's text, as `Prediction.prompt` holds it."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def read_predictions(path: Path) -> dict[str, Prediction]:
    """By item id. ``id`` and ``response`` are enough in a line; names that `Prediction` does not have are ignored.
    A table of VLMEvalKit is read, too: by the rows' index (`prediction_tables`).

    Raises LocusError that names the file, the line and how to fix it; also for a repeated id.
    """
    found: dict[str, Prediction] = {}
    for number, line in _lines_of(path):
        try:
            prediction = _prediction(json.loads(line) if isinstance(line, str) else line)
        except (ValueError, TypeError) as error:
            raise LocusError(
                f"{path}, line {number}: not a prediction ({error}); each line is a JSON object with id and response"
            ) from None
        if prediction.id in found:
            raise LocusError(f"{path}, line {number}: id {prediction.id} is repeated; give one response per item")
        found[prediction.id] = prediction
    if not found:
        raise LocusError(f"{path}: holds no prediction; each line is a JSON object with id and response")
    return found


def _lines_of(path: Path) -> Iterator[tuple[int, Any]]:
    """Number and content of each line of a file, a row of a table as an object."""
    if path.suffix in TABLES:
        yield from enumerate(table_lines(path), 2)  # the first line names the columns
        return
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise LocusError(f"predictions={path}: cannot be read ({error}); give a file of JSON lines") from None
    yield from ((number, line) for number, line in enumerate(lines, 1) if line.strip())


def _prediction(line: Any) -> Prediction:
    if not isinstance(line, dict) or "id" not in line or not isinstance(line.get("response"), str):
        raise ValueError("id or response is missing, or the response is not text")
    if not isinstance(line.get("finished", True), bool):
        raise ValueError("finished is neither true nor false")
    known = {name: line[name] for name in Prediction.__dataclass_fields__ if name in line}
    # A response cut inside an emoji may end in half of one, which no file can hold.
    known["response"] = line["response"].encode("utf-8", "replace").decode()
    if known.get("size") is not None:
        width, height = map(float, known["size"])
        known["size"] = (width, height)
    return Prediction(**{**known, "id": str(line["id"])})


def _line(prediction: Prediction) -> str:
    return json.dumps(asdict(prediction), ensure_ascii=False) + "\n"


class PredictionFile:
    """``predictions.jsonl`` and ``manifest.json`` of one policy on one benchmark.

    Args:
        folder: made when missing; one that holds predictions is resumed.
        settings: all that a response depends on; those of an earlier call must be the same.
        ids: of the benchmark's items, in order.
        record: what else the manifest says, of versions and the like.

    Raises LocusError when what is there was made with other settings, or is of other items.
    """

    def __init__(
        self, folder: Path, settings: Mapping[str, Any], ids: Sequence[str], record: Mapping[str, Any]
    ) -> None:
        self.folder, self.path = folder, folder / "predictions.jsonl"
        self.ids = list(ids)
        self.manifest = {"rows": len(ids), "settings": json.loads(json.dumps(settings)), **record}
        folder.mkdir(parents=True, exist_ok=True)
        self._refuse_others()
        write_json(folder / "manifest.json", self.manifest)
        self.done = self._cut_back()

    @property
    def next_batch(self) -> int:
        """Number of the first batch to be written."""
        return self._batches

    @property
    def finished(self) -> bool:
        """Every item has its prediction."""
        return self.done == len(self.ids)

    def note(self, **facts: Any) -> None:
        """Adds facts to the manifest."""
        self.manifest |= facts
        write_json(self.folder / "manifest.json", self.manifest)

    def write(self, predictions: Iterable[Prediction]) -> None:
        """Adds one batch, and flushes it to the disk."""
        lines = list(map(_line, predictions))
        with self.path.open("a", encoding="utf-8", newline="\n") as file:
            file.write("".join(lines))
            file.flush()
            os.fsync(file.fileno())
        self.done += len(lines)

    def put(self, predictions: Sequence[Prediction]) -> None:
        """Writes the predictions of all items in one move, in the place of what is there."""
        write_text(self.path, "".join(map(_line, predictions)))
        self.done = len(predictions)

    def _refuse_others(self) -> None:
        if self.path.exists():
            check_manifest(self.folder, {"rows": self.manifest["rows"], **self.manifest["settings"]})

    def _cut_back(self) -> int:
        """Drops a line that a kill cut off, and the last batch unless it is the end; returns how many lines stay."""
        self._batches = 0
        if not self.path.exists():
            return 0
        data = self.path.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]
        lines = whole.splitlines(keepends=True)
        try:
            kept = [(one["id"], one["batch"]) for one in map(json.loads, lines)]
        except (ValueError, KeyError, TypeError) as error:
            raise LocusError(f"{self.path}: a line is not a prediction ({error}): give another folder") from None
        if [item_id for item_id, _ in kept] != self.ids[: len(kept)]:
            raise LocusError(f"{self.path}: holds predictions of other items: give another folder")
        if len(kept) < len(self.ids) and kept:  # nobody knows whether the last batch was written whole
            self._batches = kept[-1][1]
            kept = [one for one in kept if one[1] < self._batches]
        size = sum(map(len, lines[: len(kept)]))
        if size < len(data):
            os.truncate(self.path, size)
        return len(kept)


def check_manifest(folder: Path, ours: Mapping[str, Any]) -> None:
    """Raises LocusError unless the folder's predictions were made with these settings, ``rows`` among them."""
    try:
        earlier = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        settings = {"rows": earlier["rows"], **earlier["settings"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise LocusError(
            f"{folder} holds predictions whose manifest.json cannot be read ({error}): give another folder"
        ) from None
    ours = json.loads(json.dumps(ours))
    other = [name for name in {**settings, **ours} if settings.get(name) != ours.get(name)]
    if other:
        said = "; ".join(f"{name} was {settings.get(name)}, is {ours.get(name)}" for name in other)
        raise LocusError(f"{folder} holds predictions made otherwise ({said[:600]}): give another folder")


def fingerprint(folder: str | Path, suffixes: Sequence[str]) -> dict[str, str]:
    """Of a folder's files with these endings: name -> digest, or size and time of a large one."""
    files = sorted(file for file in Path(folder).rglob("*") if file.suffix in suffixes and file.is_file())
    return {str(file.relative_to(folder)): _digest(file) for file in files}


def _digest(file: Path) -> str:
    facts = file.stat()
    if facts.st_size > HASHED:
        return f"size {facts.st_size} time {facts.st_mtime_ns}"
    return f"sha256 {hashlib.sha256(file.read_bytes()).hexdigest()}"
