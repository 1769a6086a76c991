"""Where scalars go: ``metrics.csv`` of a resumed run, cut back whatever a kill left; W&B that is turned off."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import pandas as pd
import pytest
from fsspec.implementations.local import LocalFileSystem

from locus.run.loggers import close_loggers, csv_logger, wandb_logger
from locus.run.runtime import RunFolder
from tests.support.interrupted import Killed


@pytest.fixture
def logged(tmp_path) -> Iterator[Callable[[], None]]:
    """``metrics.csv`` of three steps, and a function that resumes at step 2 and checks that its rows are all there."""
    logger = csv_logger(RunFolder(tmp_path))
    for step in (1, 2, 13):
        logger.log_metrics({"train/a": step / 3, "val/b": 0.1} if step == 2 else {"train/a": step / 3}, step)

    def check() -> None:
        logger = csv_logger(RunFolder(tmp_path, tmp_path / "checkpoint", 2))
        logger.log_metrics({"train/a": 3.0}, 3)
        table = pd.read_csv(tmp_path / "metrics.csv")
        assert table["step"].tolist() == [1, 2, 3] and table["train/a"].tolist() == [1 / 3, 2 / 3, 3.0]
        assert table["val/b"].dropna().tolist() == [0.1]
        assert [path.name for path in tmp_path.iterdir()] == ["metrics.csv"]

    yield check


def test_metrics_are_cut_back(logged):
    """Rows after the checkpoint stay in the file, and the resumed run logs their steps a second time."""
    logged()


def test_a_row_of_metrics_that_was_half_written(tmp_path, logged):
    """A full disk in the last row, at any byte: a step 13 that reads as step 1, or none, which stops the resume."""
    whole = (tmp_path / "metrics.csv").read_bytes()
    last = len(whole) - len(whole.splitlines(keepends=True)[-1])
    for end in range(last, len(whole)):
        (tmp_path / "metrics.csv").write_bytes(whole[:end])
        logged()


@pytest.mark.parametrize("when", range(8))
def test_metrics_survive_a_kill_while_they_are_rewritten(tmp_path, logged, when):
    """Killed at any of the changes to files that a resume makes: rows that are lost, or there twice."""
    left = iter(range(when, -1, -1))
    open_file = LocalFileSystem.open

    def counted(original: Callable) -> Callable:
        def call(*args: Any, **kwargs: Any) -> Any:
            if next(left, -1) == 0:
                raise Killed
            return original(*args, **kwargs)

        return call

    def opened(self: Any, path: str, mode: str = "rb", **kwargs: Any) -> Any:
        file = open_file(self, path, mode, **kwargs)
        if "r" not in mode and next(left, -1) == 0:  # what is opened to be written anew is empty by now
            file.close()
            raise Killed
        return file

    patches = {(os, "replace"): counted(os.replace), (os, "unlink"): counted(os.unlink),
               (os, "remove"): counted(os.remove), (LocalFileSystem, "open"): opened}  # fmt: skip
    with contextlib.ExitStack() as stack, contextlib.suppress(Killed):
        for (target, name), function in patches.items():
            stack.enter_context(mock.patch.object(target, name, function))
        csv_logger(RunFolder(tmp_path, tmp_path / "checkpoint", 2)).log_metrics({"train/a": 3.0}, 3)
    logged()


def test_weights_and_biases_that_are_turned_off_write_nothing(tmp_path, monkeypatch):
    """``WANDB_MODE=disabled`` that is taken for offline: files that nobody asked for."""
    monkeypatch.setenv("WANDB_MODE", "disabled")
    wandb_logger(RunFolder(tmp_path), "locus").log_metrics({"train/a": 1.0}, 1)
    close_loggers()
    assert not (tmp_path / "wandb").exists()
