"""Data, runs and commands that several tests of entry points share."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.coco_folder import Instances
from tests.support.interrupted import settings
from tests.support.runs import SMALLEST, Ended, command, train


@pytest.fixture
def coco(tmp_path) -> Instances:
    """Twelve images with a box each, to be spoiled."""
    return Instances(tmp_path / "coco")


@pytest.fixture
def attempt(tmp_path) -> Callable[..., Ended]:
    """A training run of one step, and only of what is given beside: the smallest sizes without their data."""
    sizes = [text for text in SMALLEST if not text.startswith(("data", "crop", "trainer.steps"))]

    def run(*overrides: object) -> Ended:
        return command("train", *sizes, "trainer.steps=1", f"hydra.run.dir={tmp_path / 'run'}", *overrides)

    return run


@pytest.fixture
def scenes(attempt) -> Callable[..., Ended]:
    """The same on generated scenes."""
    data = [text for text in SMALLEST if text.startswith(("data", "crop"))]
    return lambda *overrides: attempt(*data, *overrides)


@pytest.fixture(scope="session")
def unbroken(tmp_path_factory) -> Path:
    """The run that all resumed ones must equal: four steps, validations at 0, 2 and 4. Nothing is written into it."""
    folder = tmp_path_factory.mktemp("entry") / "unbroken"
    train(folder, *settings())
    return folder


@pytest.fixture
def run(tmp_path, unbroken) -> Path:
    """A copy of the unbroken run that ends at step 2, with the rows of later steps."""
    folder = Path(shutil.copytree(unbroken, tmp_path / "run"))
    for step in (3, 4):
        (folder / "checkpoints" / f"step-{step:06d}.ckpt").unlink()
    shutil.rmtree(folder / "policy")
    return folder


@pytest.fixture
def folder(tmp_path, unbroken) -> Path:
    """A copy of the unbroken run, to be cut."""
    return Path(shutil.copytree(unbroken, tmp_path / "run"))
