"""Tasks of one choice over a corpus of noise: no two places of its images are alike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
from PIL import Image

from locus.tasks.answers import completion_text
from locus.tasks.choices import ChoiceTask
from locus.tasks.cue_search.corpus import SCHEMA, Corpus, CueTable
from locus.types import CueExample, Frame, Grade, Response, View

T = TypeVar("T", bound=ChoiceTask)
VIEW = View(Frame.FILE)
SIZE = (65, 49)


class Noise:
    """Opens ``<width>x<height>-<seed>``: noise."""

    def open(self, path: str) -> Image.Image:
        size, seed = path.split("-")
        width, height = map(int, size.split("x"))
        return Image.fromarray(np.random.default_rng(int(seed)).integers(0, 255, (height, width, 3), dtype=np.uint8))


def corpus(train: int, validation: int = 2, sizes: Sequence[tuple[int, int]] = (SIZE,)) -> Corpus:
    """One crop of 8 x 6 px in each image, at a place of its own; images have these sizes by turns."""
    rows, rng = [], np.random.default_rng(3)
    for number in range(train + validation):
        width, height = sizes[number % len(sizes)]
        x, y = float(rng.integers(width - 7)), float(rng.integers(height - 5))
        path, box = f"{width}x{height}-{number}", (x, y, x + 8, y + 6)
        rows.append((f"e{number}", f"i{number}", path, width, height, box, 0.015, "small", "", 1.0))
    tables = [
        pa.Table.from_pylist([dict(zip(SCHEMA.names, row, strict=True)) for row in part], SCHEMA)
        for part in (rows[:train], rows[train:])
    ]
    return Corpus(CueTable(tables[0]), CueTable(tables[1], "validation"), 0, {"train": train, "validation": validation})


def task_of(kind: type[T], train: int = 4, sizes: Sequence[tuple[int, int]] = (SIZE,), **settings: Any) -> T:
    """The task over such a corpus."""
    return kind(corpus(train, sizes=sizes), Noise(), **settings)


def pixels(image: Image.Image) -> np.ndarray:
    """[height, width, 3] levels."""
    return np.array(image)


def shown(task: ChoiceTask, example: CueExample) -> tuple[Image.Image, ...]:
    """The pictures of an example's prompt."""
    return task.prompt(example, Frame.FILE).images


def earned(task: ChoiceTask, example: CueExample, answer: str) -> Grade:
    """What a well-formed response with this answer earns."""
    return task.grade(example, Response(completion_text(answer)), VIEW)


def inside(crop: Image.Image, image: Image.Image) -> list[tuple[int, int]]:
    """(left, upper) of every place of the image that is the crop, pixel by pixel."""
    part, whole = pixels(crop), pixels(image)
    windows = np.lib.stride_tricks.sliding_window_view(whole, part.shape)[:, :, 0]
    return [(int(x), int(y)) for y, x in np.argwhere((windows == part).all(axis=(2, 3, 4)))]


def check_form(task: ChoiceTask, examples: Sequence[CueExample]) -> None:
    """Gold earns 1 in every part, the foil less; prompts are the same at every access, and as the outline says."""
    for example in examples:
        query, again = task.prompt(example, Frame.FILE), task.prompt(example, Frame.FILE)
        assert query.text == again.text and [i.tobytes() for i in query.images] == [i.tobytes() for i in again.images]
        assert task.outline(example, Frame.FILE) == (query.text, [image.size for image in query.images])
        gold = task.grade(example, Response(task.gold(example, VIEW)), VIEW)
        assert gold.total == 1 and set(gold.parts.values()) == {1.0}
        foil = task.grade(example, Response(task.foil(example, VIEW)), VIEW)
        assert foil.total < 1 and foil.parts["format"] == 1 and foil.parts["accuracy"] == 0


def check_chance(task: ChoiceTask) -> None:
    """Any constant answer is right as often as chance says, within three standard errors, and blind ones no oftener."""
    examples = list(task.examples("train"))
    chance, n = task.chance(examples), len(examples)
    said = np.array([[earned(task, one, option).parts["accuracy"] for option in task.options] for one in examples])
    margin = 3 * np.sqrt(chance * (1 - chance) / n)
    assert (said.sum(axis=1) == 1).all()
    assert np.abs(said.mean(axis=0) - chance).max() <= margin
    rng = np.random.default_rng(5)
    blind = [task.grade(one, Response(task.blind(one, VIEW, rng)), VIEW) for one in examples]
    assert np.mean([grade.parts["accuracy"] for grade in blind]) <= chance + margin
    assert all(grade.parts["format"] == 1 for grade in blind)
