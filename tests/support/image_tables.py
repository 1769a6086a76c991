"""Tables of images with boxes, and the shipped crop strategies that draw from them."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from locus.tasks.cue_search.crops import CropStrategy
from locus.types import ImageTable
from tests.support.paths import CONF


@lru_cache
def strategy(name: str) -> CropStrategy:
    """A shipped crop strategy."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return instantiate(compose("prepare", ["data=coco", f"crop={name}"]).crop, _convert_="all")


def grid_table(images: int = 30, tiny: int = 10, small: int = 5, folder: str = "") -> ImageTable:
    """Each 640x480 image holds this many tiny (20 x 20) and small (80 x 80) objects."""
    boxes = [[30 * i, 10, 30 * i + 20, 30] for i in range(tiny)]
    boxes += [[90 * i, 100, 90 * i + 80, 180] for i in range(small)]
    ids = tuple(f"image-{i}" for i in range(images))
    full = np.full(images, 640), np.full(images, 480)
    box_image = np.repeat(np.arange(images), len(boxes))
    stacked = np.tile(np.array(boxes, dtype=float).reshape(-1, 4), (images, 1))
    paths = tuple(f"{folder}{i}.jpg" for i in ids)
    return ImageTable(ids, paths, *full, box_image, stacked, ("thing",) * len(stacked))
