"""docs/extending.md: its code, extracted from the page, does what the page says; slow: its commands run.

The page's files are written into a temporary folder, and its configuration is added as ``--config-dir`` adds it.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hydra.utils import instantiate
from PIL import Image

from locus.evaluation.predictions import Prediction
from locus.evaluation.scores import judged, scores
from locus.tasks.cue_search.audits import audited_corpus
from locus.types import Box, Frame, Response, View
from tests.support.documents import blocks, commands, write_files
from tests.support.runs import command, succeeded

LINES = 36
"""Of an example's code and configuration together, without imports, blank lines and docstrings."""
SHORT = {
    "train": (
        *("trainer.steps=1", "trainer.prompts_per_step=2", "trainer.accelerator=cpu", "trainer.precision=32-true"),
        *("trainer.workers=0", "data.train_examples=16", "data.validation_examples=4", "logger=csv", "diagnoses=none"),
    ),
    "evaluate": ("benchmark.rows=2",),
}
"""Overrides that make a documented command short, by entry point."""


@pytest.fixture(scope="module")
def page() -> str:
    """The page's text."""
    return (Path(__file__).resolve().parents[2] / "docs" / "extending.md").read_text(encoding="utf-8")


@pytest.fixture
def folder(page, tmp_path, monkeypatch) -> Iterator[Path]:
    """Where a reader would have put the page's files and started the command."""
    assert write_files(page, tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    for name in [name for name in sys.modules if name.split(".")[0] == "ideas"]:
        del sys.modules[name]


@pytest.fixture
def built(folder, compose_app):
    """``built(app, overrides, key)``: that part of a configuration with the page's options, built."""

    def build(app: str, overrides: list[str], key: str) -> Any:
        config = compose_app(app, [*overrides, f"hydra.searchpath=[file://{folder}/ideas/conf]"])
        return instantiate(config[key], _convert_="all")

    return build


def birds(folder: Path) -> Path:
    """The benchmark's file, two questions, in the form that its class documents."""
    (folder / "birds").mkdir()
    rows = []
    for number, (answer, kind) in enumerate((("A", "owl"), ("B", "wader"))):
        pixels = np.random.default_rng(number).integers(0, 255, (32, 48, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "birds" / f"{number}.png")
        options = ["owl", "heron"]
        rows.append(
            {"image": f"{number}.png", "question": "Which?", "options": options, "answer": answer, "kind": kind}
        )
    (folder / "birds" / "birds.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


def counted(text: str) -> list[str]:
    """Lines of a block that somebody has to think of."""
    return [line for line in text.splitlines() if line.strip() and not re.match(r'\s*(from |import |"""|#)', line)]


def test_every_example_is_short(page):
    """An extension is one small file and its option; an example that grows says that the house has not kept that."""
    sections = re.split(r"^## ", page, flags=re.MULTILINE)[1:]
    lengths = {
        section.splitlines()[0]: sum(len(counted(block.text)) for block in blocks(section) if block.file)
        for section in sections
    }
    assert {"A task", "A reward", "A benchmark", "A crop strategy", "A backbone"} <= set(lengths)
    assert all(0 < length <= LINES for length in lengths.values()), lengths


def test_task(built):
    """The quarter of a crop's centre, by hand; gold earns 1, the foil 0, and text that is no answer 0."""
    task = built("train", ["task=quarter", "data.source.count=8", "data.train_examples=6"], "task")
    assert len(task.examples("train")) == 6 and len(task.examples("validation")) == 256
    assert not {one.scene for one in task.examples("train")} & {one.scene for one in task.examples("validation")}
    view = View(Frame.FILE)
    for example in task.examples("train"):
        x1, y1, x2, y2 = task.source.scene(example.scene).objects[0].box.xyxy
        column, row = int((x1 + x2) / 2 > 64), int((y1 + y2) / 2 > 64)
        assert example.quarter == (("1", "2"), ("3", "4"))[row][column]
        texts = task.gold(example, view), task.foil(example, view), "2"
        assert [task.grade(example, Response(text), view).total for text in texts] == [1, 0, 0]
        first, second = task.prompt(example, Frame.FILE).images
        assert first.size == (128, 128) and max(second.size) < 64


def test_reward(built):
    """1 for the target's centre whatever the size, half at half the diagonal, 0 far away."""
    reward = built("train", ["reward=nearness"], "reward")
    target = Box(10, 10, 40, 50, Frame.FILE, 200, 200)  # the diagonal is 50

    def earned(*xyxy: float) -> float:
        return reward.localisation(Box(*xyxy, Frame.FILE, 200, 200), target)

    assert earned(*target.xyxy) == earned(20, 20, 30, 40) == 1
    assert earned(25, 30, 55, 70) == pytest.approx(0.5)  # moved by (15, 20)
    assert earned(100, 100, 130, 140) == 0
    assert reward.alpha == 0.1


def test_benchmark(built, folder):
    """Two questions, one answered right, by hand; the count of rows is held to."""
    path = f"benchmarks={birds(folder)}"
    bench = built("evaluate", ["benchmark=birds", path, "benchmark.rows=2"], "benchmark")
    items = list(bench.items())
    assert [item.answer for item in items] == ["A", "B"] and "A. owl\nB. heron" in items[0].prompt
    given = {"0": Prediction("0", "The answer is A."), "1": Prediction("1", "(A)")}
    made = scores(bench, judged(bench, items, given), resamples=10)
    assert made["headline"]["value"] == 50 and made["scores"]["locus"]["waders"]["value"] == 0
    with pytest.raises(Exception, match="birds has 300 items, found 2"):
        list(built("evaluate", ["benchmark=birds", path], "benchmark").items())


def test_crop_strategy(built):
    """Every crop is an object near the border; the default strategy also takes others."""
    source = built("train", ["data.source.count=64"], "data")["source"]

    def gaps(overrides: list[str]) -> np.ndarray:
        corpus = audited_corpus(source, built("train", overrides, "crop"), 40, 8, 1)
        boxes = np.array([example.box for example in corpus.train])
        return np.minimum(boxes[:, :2], 128 - boxes[:, 2:]).min(axis=1)

    assert gaps(["crop=border"]).max() <= 0.1 * 128 < gaps(["crop=object"]).max()


def test_backbone(built, folder):
    """It declares its frame and its own weights, and has the rest from its family."""
    backbone = built("train", ["backbone=qwen3_vl_2b_instruct"], "backbone")
    family = built("train", ["backbone=qwen3_vl_4b_instruct"], "backbone")
    assert (backbone.path, backbone.frame) == ("Qwen/Qwen3-VL-2B-Instruct", "unit1000")
    assert backbone.gradient_checkpointing == family.gradient_checkpointing


def test_no_example_is_one_of_confs_own(page, repo):
    """A file that Hydra passes over for an option of the same name in conf: nothing of it would be used."""
    options = [Path(block.file).relative_to("ideas") for block in blocks(page) if block.file.endswith(".yaml")]
    assert len(options) >= 5 and not [option for option in options if (repo / option).exists()]


@pytest.mark.slow
def test_commands_run(page, folder, repo, monkeypatch):
    """Each documented command, shortened, from a folder that is not the repository: pre-flight, training, scores."""
    monkeypatch.chdir(birds(folder))
    lines = [words for block in blocks(page) if block.language == "bash" for words in commands(block.text)]
    assert len(lines) >= 4
    for words in lines:
        app = words[2].removeprefix("locus.")
        extra = [*SHORT[app], *(["benchmarks=."] if app == "evaluate" else [])]
        if "data=coco" in words:  # no network: the weights of the bundled backbone, scenes
            words = [word for word in words if not word.startswith(("data", "trainer="))]
            extra += [f"backbone.path={repo}/locus/assets/tiny", "pixels.min_pixels=null", "pixels.max_pixels=null"]
            extra += ["rollout.sampling.max_new_tokens=24"]
        succeeded(command(app, *words[3:], *extra))
