"""What the documents tell a user to type. Fast: it exists and composes. Slow: the marked blocks run.

Checked in every ``bash`` block of the documents, and in the ``# Command:`` lines of conf: ``make <target>``,
``python -m locus.<app> <overrides>`` (sweeps too) and other ``python -m <module>``. A quoted override in the text,
`'a.b={c: 1}'`, is one of some entry point. Comments right above a block say what the slow test does with it; the
blocks of a document run in order:

    <!-- run -->                            a bash block: its ``python -m`` commands, each into a temporary run folder
    <!-- run: needs ../shared/coco128 -->   the same, left out where that path is not there
    <!-- run after: outputs/... -->         a python block: runs with this text replaced by the last run folder

Links lead to files and headings that exist.
"""

from __future__ import annotations

import ast
import itertools
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.utils import create_config_search_path
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from tests.support.documents import SHELL, Block, anchors, blocks, broken_links, commands, module_of, write_files
from tests.support.paths import CONF, REPO, experiments
from tests.support.runs import command, succeeded

DOCUMENTS = [
    *(REPO / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "notebooks/README.md")),
    *sorted((REPO / "docs").rglob("*.md")),
]
QUOTED = re.compile(r"`'([\w.@/+]+=[^`]*)'`")
"""An override in the text, quoted for the shell."""
MARK = re.compile(r"run|run: needs (?P<needs>\S+)|run after: (?P<folder>\S+)")


def jobs(arguments: list[str], conf: Path) -> Iterator[list[str]]:
    """Overrides of the jobs that an entry point's arguments start: one, or with -m as many as can differ in faults.

    These are all combinations of a sweep's groups, which may not fit each other, and the values of its keys, in turn;
    of numbers and words only the first, for a key takes all of them or none.
    """
    multirun = bool({"-m", "--multirun"} & set(arguments))
    loader = ConfigLoaderImpl(create_config_search_path(str(conf)))  # lists a group's glob
    overrides = OverridesParser.create(loader).parse_overrides([one for one in arguments if not one.startswith("-")])
    groups = [loader.repository.group_exists(one.key_or_group) for one in overrides]
    axes = []
    for one, group in zip(overrides, groups, strict=True):
        sweep = list(one.sweep_string_iterator()) if multirun and one.is_sweep_override() else []
        chosen = sweep if group else [value for value in sweep if value == sweep[0] or {"{", "$"} & set(value)]
        axes.append([f"{one.get_key_element()}={value}" for value in chosen] or [one.input_line])
    combined = list(itertools.product(*(axis if group else [""] for axis, group in zip(axes, groups, strict=True))))
    for number in range(max([len(combined), *map(len, axes)])):
        job = combined[number % len(combined)]
        yield [choice or axis[number % len(axis)] for choice, axis in zip(job, axes, strict=True)]


def command_faults(
    words: list[str], compose_app: Callable, root: Path = REPO, files: Path | None = None
) -> Iterator[str]:
    """What is wrong with a documented command; nothing for those that are not ours.

    ``files`` is the folder with the files that the document shows: ``--config-dir`` is one below it.
    """
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
    elif (root / "conf" / f"{module.removeprefix('locus.')}.yaml").is_file():
        arguments, searched = list(words[3:]), []
        if "--config-dir" in arguments:
            at = arguments.index("--config-dir")
            searched = [f"hydra.searchpath=[file://{(files or root) / arguments[at + 1]}]"]
            del arguments[at : at + 2]
        try:
            for job in jobs(arguments, root / "conf"):
                compose_app(module.removeprefix("locus."), job + searched, root / "conf")
        except (HydraException, OmegaConfBaseException) as error:
            yield f"{shlex.join(words)}: {error}"


def document_faults(
    text: str, compose_app: Callable, root: Path = REPO, place: Path | None = None, files: Path | None = None
) -> Iterator[str]:
    """Faults of a document's blocks and of its links; it lies in the folder ``place``, by default the root."""
    for block in blocks(text):
        if block.mark and not MARK.fullmatch(block.mark):
            yield f"unknown mark: {block.mark}"
        if block.language in SHELL:
            for words in commands(block.text):
                yield from command_faults(words, compose_app, root, files)
        if block.language == "python":
            try:
                ast.parse(block.text)
            except SyntaxError as error:
                yield f"python block: {error}"
    for override in QUOTED.findall(text):
        apps = [file.stem for file in (root / "conf").glob("*.yaml")]
        faults = [list(command_faults(["python", "-m", f"locus.{app}", override], compose_app, root)) for app in apps]
        if all(faults):
            yield f"{override}: no entry point takes it"
    yield from broken_links(text, place or root)


# --- The documents --------------------------------------------------------------------------------------------
@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_document(document, compose_app, tmp_path):
    """Commands that drifted from the code are the first thing a new user meets; links to nowhere the second."""
    text = document.read_text()
    write_files(text, tmp_path)
    faults = list(document_faults(text, compose_app, place=document.parent, files=tmp_path))
    assert not faults, "\n".join(faults)


def test_every_page_is_in_the_index():
    """A page that no other one leads to is not found."""
    index = (REPO / "docs" / "index.md").read_text()
    assert [page.name for page in (REPO / "docs").glob("*.md") if f"({page.name})" not in index] == ["index.md"]


def test_readme_shows_the_main_job():
    """A README whose blocks are not found would pass every other test here."""
    shell = [block for block in blocks((REPO / "README.md").read_text()) if block.language in SHELL]
    found = [words for block in shell for words in commands(block.text)]
    assert ["make", "train"] in found and ["make", "test"] in found
    assert any(module_of(words) == "locus.train" for words in found)


@pytest.mark.parametrize("name", experiments())
def test_experiment_command(name, compose_app):
    """The command on top of an experiment is what people copy."""
    given = re.findall(r"^# Command: (.*)$", (CONF / "experiment" / f"{name}.yaml").read_text(), re.MULTILINE)
    faults = [fault for line in given for words in commands(line) for fault in command_faults(words, compose_app)]
    assert given and not faults, "\n".join(faults)


@pytest.mark.parametrize("file", sorted((REPO / "conf").glob("*.yaml")), ids=lambda path: path.stem)
def test_examples_of_help(file, compose_app):
    """So are those of ``--help``; what is said of one stands behind two blanks, and dots for what was typed before."""
    comment = re.match(r"(#.*\n)+", file.read_text())[0]
    given = re.findall(r"^#   (python -m .*?)(?:  .*)?$", re.sub(r"\\\n#  +", "", comment), re.MULTILINE)
    words = [[word for word in one if word != "..."] for line in given for one in commands(line)]
    faults = [fault for one in words for fault in command_faults(one, compose_app)]
    assert given and not faults, "\n".join(faults)


@pytest.mark.slow
@pytest.mark.parametrize(
    "document",
    [path for path in DOCUMENTS if any(block.mark for block in blocks(path.read_text()))],
    ids=lambda path: path.name,
)
def test_marked_blocks_run(document, tmp_path, monkeypatch):
    """The documents' own promise: their marked blocks, run in order, all end well."""
    marked = [block for block in blocks(document.read_text()) if block.mark]
    assert any(block.language in SHELL for block in marked), f"no bash block of {document.name} is marked <!-- run -->"
    monkeypatch.chdir(REPO)
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
                app = words[2].removeprefix("locus.")
                if (REPO / "conf" / f"{app}.yaml").is_file():
                    succeeded(command(app, *words[3:], f"hydra.{kind}.dir={ran[-1]}"))
                else:
                    run(words[1:])
    assert ran


def test_marks_are_there():
    """The slow test would run nothing, and pass, if the marks were no longer found."""
    marked = {path.name for path in DOCUMENTS if any(block.mark for block in blocks(path.read_text()))}
    assert {"quickstart.md", "evaluation.md"} <= marked


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
        "conf/train.yaml": "defaults: [_self_, {size: small}]\nseed: 1\nsteps: 2\nmore: null\nnone: {}\n",
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
        ("[code](locus/train.py), [elsewhere](https://example.org#part)", None),
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
        ("Pass `'more={a: 1}'`, or `'steps'`.", None),
        ("Pass `'none={a: 1}'`.", "none={a: 1}: no entry point takes it"),
        ("<!-- run: sometimes -->\n```bash\nmake train\n```", "unknown mark"),
        ("[code](locus/nothing.py)", "link to locus/nothing.py"),
        ("# A *B*, c\n[there](#a-b-c), `[x](nothing.md)`", None),
        ("# A\n```text\n# B\n```\n[there](#b)", "link to #b: no such heading"),
        ("[there](Makefile#words)", "link to Makefile#words: no such heading"),
    ],
)
def test_planted_document(planted, compose_app, text, fault):
    """The guard must be able to fail: on each fault a document can have, and on nothing else."""
    found = list(document_faults(text + "\n", compose_app, planted))
    assert (len(found) == 1 and fault in found[0]) if fault else found == [], found


def test_blocks():
    """Marks belong to the block right below them, and only to it."""
    text = (
        "<!-- run -->\n```bash\na\n```\n\n```bash\nb\n```\n<!-- run after: outputs/x -->\n```python\nc\n```\n"
        "`a/b.py`\n\n```python\nd\n```\n"
    )
    assert blocks(text) == [
        Block("run", "bash", "a\n"),
        Block("", "bash", "b\n"),
        Block("run after: outputs/x", "python", "c\n"),
        Block("", "python", "d\n", "a/b.py"),
    ]


def test_anchors():
    """Headings as GitHub names them; the second of two alike gets a number."""
    assert anchors("# Tables 4 to 7\n## `crop`: a, b\n## A\n## A\n") == {"tables-4-to-7", "crop-a-b", "a", "a-1"}
