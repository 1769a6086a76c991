"""A COCO data set of twelve noise images in a folder, to be spoiled, and what ``locus.prepare`` makes of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tests.support.runs import command, succeeded

SIZE = (64, 48)
BOX = [10, 8, 36, 30]
"""xywh, 35 % of the image."""
ASKED = ["data.train_examples=4", "data.validation_examples=2"]


def picture(path: Path, size: tuple[int, int] = SIZE) -> Path:
    """Noise: every crop of it is another."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(len(path.name)).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


class Instances:
    """COCO instances in a folder: twelve images with a box each, to be spoiled before `write`."""

    def __init__(self, folder: Path):
        self.folder, self.json = folder, folder / "instances.json"
        self.images = [picture(folder / "images" / f"{number}.png") for number in range(12)]
        names = [path.name for path in self.images]
        self.content: dict[str, list[dict[str, Any]]] = {
            "images": [dict(id=n, file_name=name, width=SIZE[0], height=SIZE[1]) for n, name in enumerate(names)],
            "annotations": [dict(id=n, image_id=n, category_id=1, iscrowd=0, bbox=BOX) for n in range(len(names))],
            "categories": [dict(id=1, name="thing")],
        }

    def write(self) -> list[str]:
        """Writes the JSON; returns the overrides that use it."""
        self.json.write_text(json.dumps(self.content))
        return self.overrides

    @property
    def overrides(self) -> list[str]:
        return [
            "data=coco",
            "crop=large",
            f"data.annotations={self.json}",
            f"data.images={self.folder / 'images'}",
            *ASKED,
        ]


def prepared(tmp_path: Path, overrides: list[str]) -> dict[str, Any]:
    """What ``locus.prepare`` writes of a data set that is good enough."""
    succeeded(command("prepare", *overrides, f"hydra.run.dir={tmp_path / 'corpus'}"))
    return json.loads((tmp_path / "corpus" / "corpus.json").read_text())
