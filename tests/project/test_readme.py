"""What the documents tell a user to type. Fast: it exists and composes. Slow: the README's marked blocks run.

Checked in every ``bash`` block of the documents, and in the ``# Command:`` lines of conf: ``make <target>``,
``python -m locus.<app> <overrides>`` (sweeps too) and other ``python -m <module>``. Comments right above a block of
the README say what the slow test does with it; the blocks run in order:

    <!-- run -->                            a bash block: its ``python -m`` commands, each into a temporary run folder
    <!-- run: needs ../shared/coco128 -->   the same, left out where that path is not there
    <!-- run after: outputs/... -->         a python block: runs with this text replaced by the last run folder
"""

from __future__ import annotations

import ast
import itertools
import os
import re
import shlex
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.utils import create_config_search_path
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from tests.support.paths import REPO

DOCUMENTS = [REPO / "README.md", REPO / "CONTRIBUTING.md", *sorted((REPO / "docs").rglob("*.md"))]
SHELL = ("bash", "sh", "shell", "console")
BLOCK = re.compile(r"^(?:<!-- *(run\b.*?) *-->\n)?( *)```(\w+)\n(.*?)^ *```", re.MULTILINE | re.DOTALL)
MARK = re.compile(r"run|run: needs (?P<needs>\S+)|run after: (?P<folder>\S+)")


@dataclass(frozen=True)
class Block:
    """A fenced block with the mark above it."""

    mark: str
    language: str
    text: str


def blocks(text: str) -> list[Block]:
    """Fenced blocks with a language, in order."""
    return [Block(m[1] or "", m[3], textwrap.dedent(m[2] + m[4])) for m in BLOCK.finditer(text)]


def commands(text: str) -> Iterator[list[str]]:
    """Words of each command of a shell text, without comments, a prompt sign and assignments before it."""
    for line in text.replace("\\\n", " ").splitlines():
        for command in re.split(r"&&|;", line.removeprefix("$ ")):
            words = shlex.split(command, comments=True)
            yield list(itertools.dropwhile(lambda word: re.match(r"[A-Z_]+=", word), words))


def module_of(words: list[str]) -> str | None:
    """The module that a command runs by ``python -m``."""
    return words[2] if len(words) > 2 and re.match(r"(.*/)?python[\d.]*$", words[0]) and words[1] == "-m" else None


def has_config(module: str, root: Path = REPO) -> bool:
    """The module is an entry point that takes overrides."""
    return module.startswith("locus.") and (root / "conf" / f"{module.removeprefix('locus.')}.yaml").is_file()


def jobs(arguments: list[str], conf: Path) -> Iterator[list[str]]:
    """Overrides of each job that an entry point's arguments start: one, or with -m all of the sweep."""
    multirun = bool({"-m", "--multirun"} & set(arguments))
    parser = OverridesParser.create(ConfigLoaderImpl(create_config_search_path(str(conf))))  # it lists a group's glob
    overrides = parser.parse_overrides([one for one in arguments if not one.startswith("-")])
    axes = [
        [f"{one.get_key_element()}={value}" for value in one.sweep_string_iterator()]
        if multirun and one.is_sweep_override()
        else [one.input_line]
        for one in overrides
    ]
    yield from (list(job) for job in itertools.product(*axes))


def command_faults(words: list[str], compose_app: Callable, root: Path = REPO) -> Iterator[str]:
    """What is wrong with a documented command; nothing for those that are not ours."""
    if words[:1] == ["make"]:
        targets = set(re.findall(r"^([\w-]+):", (root / "Makefile").read_text(), re.MULTILINE))
        yield from (f"make {one}: no such target" for one in words[1:] if "=" not in one and one not in targets)
        given = [one.removeprefix("ARGS=") for one in words if one.startswith("ARGS=")]
        if "train" in words and given:
            yield from command_faults(["python", "-m", "locus.train", *shlex.split(given[0])], compose_app, root)
    module = module_of(words)
    if module is None or module in ("pytest", "pip", "venv", "ruff"):
        return
    if not (root / f"{module.replace('.', '/')}.py").is_file():
        yield f"python -m {module}: no such module"
    elif has_config(module, root):
        try:
            for job in jobs(words[3:], root / "conf"):
                compose_app(module.removeprefix("locus."), job, root / "conf")
        except (HydraException, OmegaConfBaseException) as error:
            yield f"{shlex.join(words)}: {error}"


def document_faults(text: str, compose_app: Callable, root: Path = REPO) -> Iterator[str]:
    """Faults of a document's blocks and of its links to files."""
    for block in blocks(text):
        if block.mark and not MARK.fullmatch(block.mark):
            yield f"unknown mark: {block.mark}"
        if block.language in SHELL:
            for words in commands(block.text):
                yield from command_faults(words, compose_app, root)
        if block.language == "python":
            try:
                ast.parse(block.text)
            except SyntaxError as error:
                yield f"python block: {error}"
    for link in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text):
        if "://" not in link and not (root / link).exists():
            yield f"link to {link}: no such file"


# --- The documents --------------------------------------------------------------------------------------------
@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_document(document, compose_app):
    """Commands that drifted from the code are the first thing a new user meets."""
    faults = list(document_faults(document.read_text(), compose_app))
    assert not faults, "\n".join(faults)


def test_readme_shows_the_main_job():
    """A README whose blocks are not found would pass every other test here."""
    found = [words for block in blocks((REPO / "README.md").read_text()) for words in commands(block.text)]
    assert ["make", "train"] in found and ["make", "test"] in found
    assert any(module_of(words) == "locus.train" for words in found)


@pytest.mark.parametrize("file", sorted((REPO / "conf" / "experiment").glob("*.yaml")), ids=lambda path: path.stem)
def test_experiment_command(file, compose_app):
    """The command on top of an experiment is what people copy."""
    given = re.findall(r"^# Command: (.*)$", file.read_text(), re.MULTILINE)
    faults = [fault for line in given for words in commands(line) for fault in command_faults(words, compose_app)]
    assert given and not faults, "\n".join(faults)


@pytest.mark.slow
def test_readme_runs(tmp_path):
    """The README's own promise: its marked blocks, run in order, all end well."""
    marked = [block for block in blocks((REPO / "README.md").read_text()) if block.mark]
    assert any(block.language in SHELL for block in marked), "no bash block of README.md is marked <!-- run -->"
    ran: list[Path] = []
    for block in marked:
        needs, folder = MARK.fullmatch(block.mark).group("needs", "folder")
        if needs and not (REPO / needs).exists():
            print(f"left out, {needs} is not there:\n{block.text}")
        elif folder:
            assert folder in block.text and ran, f"the block after {folder} must use it, after a run"
            run(["-c", block.text.replace(folder, str(ran[-1]))])
        else:
            for words in filter(None, commands(block.text)):
                assert module_of(words), f"only python -m commands can be marked: {shlex.join(words)}"
                ran.append(tmp_path / str(len(ran)))
                kind = "sweep" if {"-m", "--multirun"} & set(words[3:]) else "run"
                into = [f"hydra.{kind}.dir={ran[-1]}"] if has_config(words[2]) else []
                run([*words[1:], *into])
    assert ran


def run(arguments: list[str]) -> None:
    """Python with these arguments from the repository's root; fails with the end of its output."""
    done = subprocess.run(
        [sys.executable, *arguments], cwd=REPO, stdin=subprocess.DEVNULL, capture_output=True, text=True,
        env=os.environ | {"WANDB_MODE": "offline"}, timeout=900, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{shlex.join(arguments)}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"


# --- The checkers can fail ------------------------------------------------------------------------------------
@pytest.fixture
def planted(tmp_path) -> Path:
    """A small project with one entry point."""
    for name, text in {
        "conf/train.yaml": "defaults: [_self_, {size: small}]\nseed: 1\nsteps: 2\n",
        "conf/size/small.yaml": "{}\n",
        "conf/size/large.yaml": "{}\n",
        "locus/train.py": "",
        "perf/step_time.py": "",
        "Makefile": "train: setup ## run\nsetup:\n",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("```bash\nmake train  # all\n$ WANDB_MODE=offline python -m locus.train \\\n  seed=2\n```", None),
        ("```bash\n.venv/bin/python -m locus.train -m seed=1,2 steps=3\npip install x\n```", None),
        ('```bash\nmake setup && make train ARGS="seed=2"\npython -m perf.step_time --json\n```', None),
        ("```bash\npython -m locus.train -m 'size=glob(*)' seed=2\n```", None),
        ("[code](locus/train.py), [elsewhere](https://example.org), [part](#words)", None),
        ("```bash\nmake nothing\n```", "make nothing: no such target"),
        ('```bash\nmake train ARGS="sead=2"\n```', "sead"),
        ("```bash\npython -m locus.nothing\n```", "no such module"),
        ("```bash\npython -m perf.nothing\n```", "no such module"),
        ("```bash\npython -m locus.train \\\n  sead=2\n```", "sead"),
        ("```bash\npython -m locus.train seed=1,2\n```", "seed"),
        ("```bash\npython -m locus.train -m seed=1,2 sead=3\n```", "sead"),
        ("```bash\npython -m locus.train -m 'size=glob(*)' sead=3\n```", "sead"),
        ("1. A list:\n   ```bash\n   make nothing\n   ```", "no such target"),
        ("```python\nx = (\n```", "python block"),
        ("<!-- run: sometimes -->\n```bash\nmake train\n```", "unknown mark"),
        ("[code](locus/nothing.py)", "link to locus/nothing.py"),
    ],
)
def test_planted_document(planted, compose_app, text, fault):
    """The guard must be able to fail: on each fault a document can have, and on nothing else."""
    found = list(document_faults(text + "\n", compose_app, planted))
    assert (len(found) == 1 and fault in found[0]) if fault else found == [], found


def test_blocks():
    """Marks belong to the block right below them, and only to it."""
    text = "<!-- run -->\n```bash\na\n```\n\n```bash\nb\n```\n<!-- run after: outputs/x -->\n```python\nc\n```\n"
    assert blocks(text) == [Block("run", "bash", "a\n"), Block("", "bash", "b\n"),
                            Block("run after: outputs/x", "python", "c\n")]  # fmt: skip
