"""The four forms in which RefCOCO, RefCOCO+ and RefCOCOg are found, as one sentence and one box at a time.

- a folder with ``refs*.json`` (refer's list of references, as JSON) and COCO's ``instances.json``;
- parquet of references with ``sentences`` and ``raw_anns`` (jxu124 on Hugging Face);
- parquet of references with ``answer``, a list of sentences, and ``bbox`` (lmms-lab), its split in the file's name;
- VLMEvalKit's TSV with the boxes of all three benchmarks, as shares of the picture's sides.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from locus.boxes import is_valid
from locus.evaluation.benchmark import Picture
from locus.evaluation.benchmarks.readers import Row, read_rows
from locus.images.refcoco import referred_objects
from locus.types import Box, Frame

_TITLES = {"RefCOCO": "refcoco", "RefCOCO+": "refcoco_plus", "RefCOCOg": "refcocog"}
SLACK = 1.0
"""Pixels that a box may stick out of its picture, from rounding; more is a box of another frame."""


@dataclass(frozen=True, eq=False)
class Reference:
    """One sentence and what it means."""

    reference_id: str
    split: str
    phrase: str
    box: Box
    """File frame."""
    picture: Picture


def references(path: Path, name: str, splits: Sequence[str], images: str = "") -> Iterator[Reference]:
    """All sentences of these splits of the benchmark ``name``. Raises LocusError naming the file, row and remedy."""
    if path.is_dir() and sorted(path.glob("refs*.json")):
        yield from _refer(path, splits, images)
        return
    for row in read_rows(path, (("sentences", "answer"),), images):
        if row.file.suffix == ".tsv":
            found = _vlmevalkit(row, name, splits)
        elif "sentences" in row.cells:
            found = _annotated(row, splits)
        else:
            found = _lmms(row, splits)
        yield from (one for one in found if one.split in splits)


def split_name(name: str, splits: Sequence[str]) -> str:
    """``validation`` is val, ``test-A`` testA; ``test`` is testA where there is one: jxu124's files call it so."""
    name = name.strip().replace("-", "")
    name = {"validation": "val", "testa": "testA", "testb": "testB"}.get(name.lower(), name)
    return "testA" if name == "test" and "testA" in splits else name


def _refer(folder: Path, splits: Sequence[str], images: str) -> Iterator[Reference]:
    """Of JSON; `references` does not take a folder of refer's pickles alone."""
    for one in referred_objects(folder, splits):
        cells = {**one.cells, "image": one.picture}
        row = Row(one.file, one.number, one.number - 1, cells, Path(images or folder))
        yield from _sentences(row, row.text("split"), _box(row, _corners(row, one.xywh), one.size))


def _annotated(row: Row, splits: Sequence[str]) -> Iterator[Reference]:
    """``bbox`` is xyxy in one release and could be xywh in another; the COCO annotation beside it is always xywh."""
    try:
        xywh = _parsed(row.cells["raw_anns"])["bbox"]
    except (KeyError, ValueError, TypeError):
        raise row.error("raw_anns holds no bbox; pass jxu124's parquet") from None
    name = row.text("file_name") if not row.optional("image_path") else row.text("image_path")
    cells = row.cells if row.cells.get("image") is not None else {**row.cells, "image": Path(name).name}
    row = Row(row.file, row.number, row.position, cells, row.folder)
    yield from _sentences(row, split_name(row.text("split"), splits), _box(row, _corners(row, xywh)))


def _lmms(row: Row, splits: Sequence[str]) -> Iterator[Reference]:
    """Its ``val`` is UNC's val and 5,000 more references, and its ``test`` of RefCOCO is those: not known splits."""
    split = split_name(row.file.name.split("-")[0], ())
    if split == "val" or (split == "test" and "test" not in splits):
        split = f"lmms_{split}"
    if split not in splits:
        return
    phrases = [str(one) for one in row.listed("answer")]
    box = _box(row, _corners(row, row.listed("bbox")))
    yield from _each(row, split, phrases, box)


def _vlmevalkit(row: Row, name: str, splits: Sequence[str]) -> Iterator[Reference]:
    """One sentence a row, inside a ready prompt for another family of models."""
    match = re.match(r"(RefCOCO[+g]?)?[\s_]*(.*)", row.text("category"))
    title, split = match.groups() if match else (None, "")
    if title is None:
        raise row.error(f"category {row.text('category')!r} begins with none of {', '.join(_TITLES)}; pass RefCOCO.tsv")
    split = split_name(split, ())
    if _TITLES[title] != name or split not in splits:
        return
    question = row.text("question")
    phrase = re.search(r"<ref>(.*?)</ref>", question, re.DOTALL)
    text = phrase[1] if phrase else question.rpartition("describes:")[2]
    width, height = row.pictures("image", "image_path")[0].size
    shares = row.numbers("the box", row.listed("answer"))
    if max(shares) > 1.01:
        raise row.error(
            f"the answer {shares} is not a box in shares of the picture's sides; pass VLMEvalKit's RefCOCO.tsv"
        )
    x1, y1, x2, y2 = shares
    box = _box(row, (x1 * width, y1 * height, x2 * width, y2 * height), (width, height))
    yield from _each(row, split, [text], box)


def _sentences(row: Row, split: str, box: Box) -> Iterator[Reference]:
    phrases = [
        one.get("sent") or one.get("raw") or "" if isinstance(one, dict) else one for one in row.listed("sentences")
    ]
    yield from _each(row, split, phrases, box)


def _each(row: Row, split: str, phrases: Sequence[str], box: Box) -> Iterator[Reference]:
    number = row.optional("ref_id") or row.optional("index") or row.optional("question_id") or str(row.position)
    picture = row.pictures("image", "image_path")[0]
    for place, phrase in enumerate(phrases):
        if not phrase.strip():
            raise row.error("has an empty sentence; fetch the file again")
        yield Reference(f"{split}_{number}_{place}", split, phrase.strip(), box, picture)


def _parsed(value: Any) -> Any:
    return json.loads(value) if isinstance(value, str) else value


def _corners(row: Row, xywh: Any) -> tuple[float, float, float, float]:
    x, y, width, height = row.numbers("the box", xywh)
    return (x, y, x + width, y + height)


def _box(row: Row, xyxy: tuple[float, float, float, float], size: tuple[float, float] | None = None) -> Box:
    """The gold box, inside its picture; raises LocusError for one that is not: it was read in a wrong frame."""
    width, height = size or row.pictures("image")[0].size
    inside = min(xyxy) >= -SLACK and xyxy[2] <= width + SLACK and xyxy[3] <= height + SLACK
    if not is_valid(xyxy) or not inside:
        raise row.error(f"the box {list(xyxy)} (xyxy) is not in its {width}x{height} picture; fetch the file again")
    return Box(*xyxy, Frame.FILE, width, height)
