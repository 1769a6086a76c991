"""``python -m locus.samples``: what is shipped is what the tests' generator makes, and nobody's files are lost."""

from __future__ import annotations

import sys
from pathlib import Path
from unittest import mock

import pyarrow.parquet as pq
import pytest

from locus.errors import LocusError
from locus.samples import SAMPLES, copy_samples, main
from tests.support.runs import finish, spawn
from tests.support.sample_benchmarks import write_samples


def contents(folder: Path) -> dict[str, object]:
    """Name -> content of every file below a folder; of Parquet the table, for its bytes differ between versions."""
    files = {file.relative_to(folder).as_posix(): file for file in folder.rglob("*") if file.is_file()}
    tables = {name: pq.read_table(file) for name, file in files.items() if file.suffix == ".parquet"}
    return {name: file.read_bytes() for name, file in files.items() if name not in tables} | tables


def test_shipped_samples_are_what_the_generator_writes(tmp_path):
    """Samples that nobody renewed after the generator changed, or a benchmark that came after them."""
    write_samples(tmp_path)
    made, shipped = contents(tmp_path), contents(SAMPLES)
    different = sorted(name for name in made | shipped if made.get(name) != shipped.get(name))
    assert not different, f"python -m tests.support.sample_benchmarks {SAMPLES} renews {', '.join(different)}"
    assert sum(file.stat().st_size for file in SAMPLES.rglob("*") if file.is_file()) < 500_000


def test_the_command(tmp_path):
    """A copy that is not whole; a second call, or one into an empty folder, that is refused."""
    folder = tmp_path / "new" / "samples"
    for _ in range(2):
        ended = finish(spawn("-m", "locus.samples", folder))
        assert ended.status == 0 and not ended.stderr
        assert ended.stdout.startswith(f"{folder}: ") and ended.stdout.count("\n") == 1 and "vstar" in ended.stdout
        assert contents(folder) == contents(SAMPLES)
    (tmp_path / "empty").mkdir()
    assert copy_samples(tmp_path / "empty") == sorted(path.name for path in SAMPLES.iterdir())


@pytest.mark.parametrize("name", ["notes.txt", "vstar/test_questions.jsonl", "mine/a.png"])
def test_other_files_are_not_overwritten(tmp_path, name):
    """The real V*Bench in benchmarks/vstar, replaced by two questions; samples among somebody's files."""
    file = tmp_path / name
    file.parent.mkdir(exist_ok=True)
    file.write_text("mine")
    with pytest.raises(LocusError, match=f"{tmp_path} holds {name}, which is not one of the samples"):
        copy_samples(tmp_path)
    assert contents(tmp_path) == {name: b"mine"}


@pytest.mark.parametrize(
    ("arguments", "says"), [((), "give one folder"), (("a", "b"), "give one folder"), (("file",), "file: cannot be")]
)
def test_wrong_input_is_one_line(tmp_path, monkeypatch, capsys, arguments, says):
    """A traceback for a folder that was forgotten, or that is a file."""
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("mine")
    with mock.patch.object(sys, "argv", ["samples", *arguments]), pytest.raises(SystemExit) as ended:
        main()
    said = capsys.readouterr()
    assert ended.value.code == 2 and not said.out
    assert said.err.startswith("locus: ") and said.err.count("\n") == 1 and says in said.err
    assert Path("file").read_text() == "mine"


def test_help(capsys):
    """Help that copies into a folder named --help."""
    with mock.patch.object(sys, "argv", ["samples", "--help"]):
        main()
    first, *others = capsys.readouterr().out.splitlines()
    assert first.startswith("Copies small sample files")
    assert any("python -m locus.samples" in line for line in others[:4])
