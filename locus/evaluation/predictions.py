"""A benchmark's predictions on disk: raw responses, one JSON line per item, and what they were made with.

``predictions.jsonl`` grows in the order of the items, whatever the order in which they are answered; ``manifest.json``
beside it holds the settings. An interrupted evaluation is resumed with the items that are left.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from locus.boxes import parse_frame
from locus.errors import LocusError
from locus.evaluation.prediction_tables import TABLES, table_lines
from locus.files.run_files import write_json, write_text
from locus.types import Response, View

COMPUTING = ("dtype", "token_budget")
"""Settings of how responses are computed, which may be those of a machine: of no account once all are there."""
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
    """Its place: in its file, or among the items that were asked together."""

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
    known["response"] = _writable(line["response"])
    if known.get("size") is not None:
        # Whole numbers stay such, so that a line that is written again is the same.
        width, height = (side if isinstance(side, int) else float(side) for side in known["size"])
        known["size"] = (width, height)
    return Prediction(**{**known, "id": str(line["id"])})


def _line(prediction: Prediction) -> str:
    whole = replace(prediction, response=_writable(prediction.response))
    return json.dumps(asdict(whole), ensure_ascii=False) + "\n"


def _writable(response: str) -> str:
    """Without the half of an emoji, which no file can hold, that a response has where it was cut inside one."""
    return response.encode("utf-8", "replace").decode()


class PredictionFile:
    """``predictions.jsonl`` and ``manifest.json`` of one policy on one benchmark.

    Predictions come in any order. Those of which an earlier item has none yet wait in ``answered.jsonl``, where a
    resumed call finds them; it is gone in the end. A finished file keeps its manifest.

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
        self.folder, self.path, self._aside = folder, folder / "predictions.jsonl", folder / "answered.jsonl"
        self.ids = list(ids)
        self._places = {item_id: place for place, item_id in enumerate(self.ids)}
        self._asked = {"rows": len(ids), "settings": json.loads(json.dumps(settings))}
        self.manifest = {**self._asked, **record}
        folder.mkdir(parents=True, exist_ok=True)
        lines = self._lines()
        whole = len(lines) == len(ids) > 0
        if self.path.exists() or self._aside.exists():
            earlier = check_manifest(folder, {"rows": len(ids), **settings}, whole)
            self.manifest = earlier if whole else self.manifest
        self._check_items(lines)
        write_json(folder / "manifest.json", self.manifest)
        self._written = self._cut_back(lines)
        self._waiting = self._kept_aside()
        """Place -> line."""
        self._settle()

    @property
    def done(self) -> int:
        """How many items have their prediction."""
        return self._written + len(self._waiting)

    @property
    def finished(self) -> bool:
        """Every item has its prediction."""
        return self.done == len(self.ids)

    @property
    def left(self) -> list[int]:
        """Places of the items without a prediction, in order."""
        return [place for place in range(self._written, len(self.ids)) if place not in self._waiting]

    def note(self, **facts: Any) -> None:
        """Adds facts to the manifest."""
        self.manifest |= facts
        write_json(self.folder / "manifest.json", self.manifest)

    def write(self, predictions: Iterable[Prediction]) -> None:
        """Adds predictions of any items that are left; a kill at any later moment does not lose them."""
        added = {self._places[one.id]: self._placed(one) for one in predictions}
        self._waiting |= added
        self._settle()
        waiting = [line for place, line in added.items() if place in self._waiting]
        if waiting:
            _append(self._aside, waiting)

    def put(self, predictions: Sequence[Prediction], **record: Any) -> None:
        """Writes the predictions of all items, and the manifest, in the place of what is there."""
        self.manifest = {**self._asked, **record}
        write_json(self.folder / "manifest.json", self.manifest)
        write_text(self.path, "".join(map(self._placed, predictions)))
        self._aside.unlink(missing_ok=True)
        self._written, self._waiting = len(predictions), {}

    def _placed(self, prediction: Prediction) -> str:
        return _line(replace(prediction, batch=self._places[prediction.id]))

    def _settle(self) -> None:
        """Writes what has waited for the items before it."""
        ready: list[str] = []
        while (line := self._waiting.pop(self._written + len(ready), None)) is not None:
            ready.append(line)
        if ready:
            _append(self.path, ready)
            self._written += len(ready)
        if not self._waiting:
            self._aside.unlink(missing_ok=True)

    def _lines(self) -> list[bytes]:
        """Of the predictions that are there, a cut one left out."""
        data = self.path.read_bytes() if self.path.exists() else b""
        return data[: data.rfind(b"\n") + 1].splitlines(keepends=True)

    def _check_items(self, lines: Sequence[bytes]) -> None:
        try:
            found = [json.loads(line)["id"] for line in lines]
        except (ValueError, KeyError, TypeError) as error:
            raise LocusError(f"{self.path}: a line is not a prediction ({error}): give another folder") from None
        if found != self.ids[: len(found)]:
            raise LocusError(f"{self.path}: holds predictions of other items: give another folder")

    def _cut_back(self, lines: Sequence[bytes]) -> int:
        """Drops a line that a kill cut off, and the one before it unless it is the end; returns how many stay."""
        if not self.path.exists():
            return 0
        # Nobody knows whether the last one was written whole.
        kept = len(lines) if len(lines) == len(self.ids) else max(len(lines) - 1, 0)
        size = sum(map(len, lines[:kept]))
        if size < self.path.stat().st_size:
            os.truncate(self.path, size)
        return kept

    def _kept_aside(self) -> dict[int, str]:
        """The whole lines that an earlier call put aside, by place; the file holds no others afterwards."""
        if not self._aside.exists():
            return {}
        found: dict[int, str] = {}
        for line in self._aside.read_bytes().split(b"\n")[:-1]:
            try:
                found[self._places[json.loads(line)["id"]]] = line.decode() + "\n"
            except (ValueError, KeyError, TypeError):
                continue  # asked again
        found = {place: line for place, line in found.items() if place >= self._written}
        write_text(self._aside, "".join(found.values()))
        return found


def _append(path: Path, lines: Iterable[str]) -> None:
    """Adds lines to a file, and flushes it to the disk."""
    with path.open("a", encoding="utf-8", newline="\n") as file:
        file.write("".join(lines))
        file.flush()
        os.fsync(file.fileno())


def read_manifest(folder: Path) -> dict[str, Any]:
    """Raises LocusError that names the folder where its manifest cannot be read."""
    try:
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        return {**manifest, "rows": manifest["rows"], "settings": dict(manifest["settings"])}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise LocusError(
            f"{folder} holds predictions whose manifest.json cannot be read ({error}): give another folder"
        ) from None


def check_manifest(folder: Path, ours: Mapping[str, Any], whole: bool = False) -> dict[str, Any]:
    """The manifest of the folder's predictions.

    Raises LocusError unless they were made with these settings, ``rows`` among them; ``whole`` ones, to which nothing
    is added, whatever the settings of `COMPUTING`.
    """
    earlier = read_manifest(folder)
    settings = _of_account({"rows": earlier["rows"], **earlier["settings"]})
    ours = _of_account(json.loads(json.dumps(ours)))
    compared = [name for name in {**settings, **ours} if not (whole and name in COMPUTING)]
    other = [name for name in compared if settings.get(name) != ours.get(name)]
    if other:
        said = "; ".join(f"{name} was {settings.get(name)}, is {ours.get(name)}" for name in other)
        raise LocusError(f"{folder} holds predictions made otherwise ({said[:600]}): give another folder")
    return earlier


def _of_account(settings: dict[str, Any]) -> dict[str, Any]:
    """Without the seed of a backbone whose weights are read: only random ones depend on it."""
    backbone = settings.get("backbone") or {}
    if not backbone.get("path") or backbone.get("random_weights"):
        return settings
    return {**settings, "backbone": {name: value for name, value in backbone.items() if name != "seed"}}


def fingerprint(folder: str | Path, suffixes: Sequence[str]) -> dict[str, str]:
    """Of a folder's files with these endings: name -> digest, or size and time of a large one."""
    files = sorted(file for file in Path(folder).rglob("*") if file.suffix in suffixes and file.is_file())
    return {str(file.relative_to(folder)): _digest(file) for file in files}


def _digest(file: Path) -> str:
    facts = file.stat()
    if facts.st_size > HASHED:
        return f"size {facts.st_size} time {facts.st_mtime_ns}"
    return f"sha256 {hashlib.sha256(file.read_bytes()).hexdigest()}"
