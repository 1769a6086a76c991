"""The corpus that the parts of a mixture share: one, the same as each would draw alone, and not kept."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from PIL import Image

import locus.run.runtime  # noqa: F401  its resolvers are conf's
from locus.tasks.cue_search.audits import corpus_of
from locus.tasks.cue_search.sharing import corpora_shared
from locus.types import ImageTable
from tests.support.image_tables import grid_table, strategy
from tests.support.paths import CONF

PARTS = (
    "task=mixture",
    "task@task.parts.main=jigsaw",
    "task@task.parts.other=cue_search",
    "task.shares.main=2",
    "+task.shares.third=1",
)


def test_parts_share_one_corpus(tmp_path):
    """A JSON of COCO's size read once for each part; parts of another seed that get this one; a changed file's old
    corpus."""
    rng, images, boxes = np.random.default_rng(0), [], []
    for number in range(8):
        noise = rng.integers(0, 255, (100, 100, 3), dtype=np.uint8)
        Image.fromarray(noise).save(tmp_path / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "width": 100, "height": 100})
        boxes.append({"id": number, "image_id": number, "category_id": 1, "bbox": [5 + number, 9, 30, 30]})
    file = tmp_path / "a.json"
    file.write_text(json.dumps({"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "a"}]}))
    data = (
        "data=coco",
        f"data.annotations={file}",
        f"data.images={tmp_path}",
        "crop.mixture={tiny:0,small:0,medium:1,large:0}",
    )
    sizes = ("data.train_examples=4", "data.validation_examples=2", "+task@task.parts.third=rotation")
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("train", [*PARTS, *data, *sizes, "task.parts.third.corpus.seed=5"])
    with corpora_shared():
        jigsaw, cues, rotation = instantiate(cfg.task, _convert_="all").tasks
    assert jigsaw.corpus is cues.corpus
    assert rotation.corpus.seed == 5 and rotation.corpus.content_hash != jigsaw.corpus.content_hash
    alone = instantiate(cfg.task.parts.main, _convert_="all")
    assert alone.corpus is not jigsaw.corpus and alone.corpus.summary() == jigsaw.corpus.summary()
    file.write_text(file.read_text().replace("[5, 9,", "[6, 8,"))
    with corpora_shared():
        changed = instantiate(cfg.task.parts.main, _convert_="all")
    assert changed.corpus.content_hash != jigsaw.corpus.content_hash


class Own:
    """A source of a user's own, which holds a function: two such cannot be compared."""

    def __init__(self) -> None:
        self.named = lambda number: f"own-{number}"

    def table(self) -> ImageTable:
        drawn = grid_table()
        return replace(drawn, image_id=tuple(self.named(number) for number in range(len(drawn.image_id))))

    def open(self, path: str) -> Image.Image:
        raise AssertionError("not needed")


def test_what_cannot_be_compared_is_drawn_each_time():
    """A source refused for what it holds."""
    with corpora_shared():
        one, other = (corpus_of(Own(), strategy("object"), 8, 4, seed=0) for _ in range(2))
    assert one is not other and one.content_hash == other.content_hash
