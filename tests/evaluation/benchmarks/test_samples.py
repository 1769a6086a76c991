"""Every benchmark that is read from files has a sample in one of its true forms, and is run on it."""

from __future__ import annotations

from pathlib import Path

import pytest
from hydra.utils import instantiate
from omegaconf import DictConfig

from locus.errors import LocusError
from locus.evaluation.scores import read_rows
from tests.support.documents import blocks, commands, module_of
from tests.support.paths import CONF, REPO
from tests.support.runs import command, refused, succeeded
from tests.support.sample_benchmarks import write_samples

CONFIGS = sorted((CONF / "benchmark").glob("*.yaml"))
READ = [file.stem for file in CONFIGS if "\npath: " in file.read_text(encoding="utf-8")]
"""Names of the benchmarks that are read from files."""


@pytest.fixture(scope="module")
def samples(tmp_path_factory) -> Path:
    write_samples(folder := tmp_path_factory.mktemp("samples"))
    return folder


def test_every_benchmark_has_a_sample(samples):
    """A benchmark that is added without a file to try it on; a sample that nothing reads."""
    assert sorted(folder.name for folder in samples.iterdir()) == READ
    files = {file: file.read_bytes() for file in samples.rglob("*") if file.is_file()}
    write_samples(samples)
    assert files == {file: file.read_bytes() for file in samples.rglob("*") if file.is_file()}, "a second call differs"


@pytest.mark.parametrize("name", READ)
def test_a_sample_is_read_from_its_folder(name, samples, compose_app, tmp_path):
    """A benchmark that needs more than its folder; a missing folder that does not say where files are looked for."""
    asked = [f"benchmark={name}", f"benchmarks={samples}", "benchmark.rows=null"]
    config: DictConfig = compose_app("evaluate", asked)
    items = list(instantiate(config.benchmark, _convert_="all").items())
    assert 1 <= len(items) <= 8 and all(item.prompt and item.answer for item in items)
    assert all(picture.open().size >= (40, 30) for item in items for picture in item.pictures) and items[0].pictures
    missing = instantiate(config.benchmark, path=str(tmp_path / name), _convert_="all")
    with pytest.raises(LocusError, match=rf"{tmp_path / name}: no such file, or a folder without .*benchmark\.path="):
        list(missing.items())


@pytest.mark.slow
def test_all_benchmarks_run_from_one_command(samples, tmp_path):
    """The documents' command: one row of scores.csv for each benchmark, with a score."""
    page = (REPO / "docs" / "evaluation.md").read_text(encoding="utf-8")
    asked = "benchmark=glob(*)", "benchmarks=outputs/samples"
    (words,) = (words for block in blocks(page) for words in commands(block.text) if set(asked) <= set(words))
    given = [f"benchmarks={samples}" if word == asked[1] else word for word in words[3:]]
    succeeded(command(module_of(words).removeprefix("locus."), *given, f"folder={tmp_path}"))
    rows = read_rows(tmp_path / "scores.csv")
    assert [row["benchmark"] for row in rows] == [file.stem for file in CONFIGS]
    assert all(row["policy"] == "tiny" and 0 <= float(row["value"]) <= 100 and int(row["n"]) for row in rows)


def test_a_missing_folder_is_one_line(tmp_path):
    """A traceback, or a message that does not say where files are looked for."""
    (tmp_path / "predictions.jsonl").write_text('{"id": "0", "response": "A", "frame": "file"}\n')
    given = f"benchmarks={tmp_path}", f"predictions={tmp_path}/predictions.jsonl", f"hydra.run.dir={tmp_path}/out"
    says = f"{tmp_path / 'ai2d'}: no such file, or a folder without", "benchmark.path=", "benchmarks="
    refused(command("score", "benchmark=ai2d", *given), *says)
