"""The layers of the package, and a few habits, held by an ast walk.

A file imports only from its own or lower layers. Imports inside functions and under TYPE_CHECKING count too.
Every checker is also shown to fail on a planted fault.
"""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOMS = (
    "errors",
    "types",
    "boxes",
    "ranks",
    "files",
    "images",
    "scenes",
    "policy",
    "tasks",
    "training",
    "evaluation",
    "analysis",
    "run",
    "entry points",
)
"""From the ground up: a file imports from its own room and those before it. Files beside the folders that are not named
here are entry points, which import no other entry point."""
ENTRY = ROOMS[-1]

# Beside that: files under the first path never import those under the others.
NEVER = {"evaluation": ("training",), "analysis": ("training",)}

# Libraries that only these files import.
ONLY = {
    "transformers": ("policy/",),
    "peft": ("policy/",),
    "wandb": ("run/",),
    "sympy": ("evaluation/maths/",),
    "hydra": ("run/", ENTRY),
    "omegaconf": ("run/", ENTRY),
}

LONGEST_TEST = 400
"""Lines of a test file: what is longer is split by subject."""

MACHINE_PATH = re.compile(r"(?<![\w.])/(?:home|root|work|Users)/\w")


# --- Checkers: each yields one line per fault -----------------------------------------------------------------
def room(path: str) -> str:
    """The room of a file, by its path in the package: its folder, itself, or the entry points."""
    name = path.split("/")[0].removesuffix(".py")
    return name if name in ROOMS or "/" in path else ENTRY


def sources(package: Path) -> Iterator[tuple[str, ast.Module]]:
    """Path in the package and syntax tree of every Python file."""
    for file in sorted(package.rglob("*.py")):
        yield file.relative_to(package).as_posix(), ast.parse(file.read_text(encoding="utf-8"))


def imports(path: str, tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Line and dotted name of all that a file imports, ``from a import b`` as ``a.b``."""
    parents = ["locus", *path.split("/")[:-1]]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = parents[: len(parents) - node.level + 1] if node.level else []
            origin = ".".join([*above, *([node.module] if node.module else [])])
            yield from ((node.lineno, f"{origin}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("importlib.import_module", "__import__"):
            name = node.args[0] if node.args else None
            yield node.lineno, name.value if isinstance(name, ast.Constant) else "locus.of.unknown.name"


def resolve(package: Path, name: str) -> str | None:
    """File in the package that ``locus.a.b`` (or a name in it) is; None if there is none."""
    parts = name.split(".")[1:]
    for stop in (len(parts), max(len(parts) - 1, 0)):
        stem = package.joinpath(*parts[:stop])
        for file in (stem.with_suffix(".py"), stem / "__init__.py"):
            if stop and file.is_file():
                return file.relative_to(package).as_posix()
    return "__init__.py" if len(parts) <= 1 and (package / "__init__.py").is_file() else None


def layer_faults(package: Path) -> Iterator[str]:
    """Imports upwards, and folders without a place."""
    for path, tree in sources(package):
        own = room(path)
        if path == "__init__.py":
            continue
        if own not in ROOMS:
            yield f"locus/{path} has no room: place {own} in ROOMS of tests/project/test_architecture.py"
            continue
        for line, name in imports(path, tree):
            where = f"locus/{path}:{line} ({own})"
            library = name.split(".")[0]
            if library != "locus":
                if library in ONLY and not f"{path if own != ENTRY else ENTRY}".startswith(ONLY[library]):
                    yield f"{where} imports {library}: only {', '.join(ONLY[library])} do"
                continue
            target = resolve(package, name)
            if target is None:
                yield f"{where} imports {name}, which is no file of the package"
                continue
            other = room(target)
            if target == "__init__.py":
                continue
            if ROOMS.index(other) > ROOMS.index(own) or (own == other == ENTRY):
                yield f"{where} imports locus/{target} ({other})"
            elif other in NEVER.get(own, ()):
                yield f"{where} imports locus/{target}: those two never meet"


def habit_faults(package: Path) -> Iterator[str]:
    """Prints in library code, bare excepts, public names without a docstring."""
    for path, tree in sources(package):
        for node in ast.walk(tree):
            where = f"locus/{path}:{getattr(node, 'lineno', 1)}"
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "print" and room(path) not in ("run", ENTRY):
                yield f"{where} prints: return or log it"
            if isinstance(node, ast.ExceptHandler) and node.type is None:
                yield f"{where} has a bare except: name the error"
        for node in (tree, *tree.body) if tree.body else ():
            documented = isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
            name = getattr(node, "name", "the module")
            hidden = name.startswith("_") or (
                name == "main" and room(path) == ENTRY
            )  # a main is its module's docstring
            if documented and not hidden and not ast.get_docstring(node):
                yield f"locus/{path}: {name} has no docstring"


def machine_paths(root: Path, files: list[str]) -> Iterator[str]:
    """Absolute paths of somebody's machine in text files."""
    for name in files:
        content = (root / name).read_bytes()
        if b"\0" in content[:8192]:
            continue
        for number, line in enumerate(content.decode("utf-8", errors="replace").splitlines(), 1):
            if MACHINE_PATH.search(line):
                yield f"{name}:{number} {line.strip()[:120]}"


def faults_of_tests(tests: Path) -> Iterator[str]:
    """Test files that are too long, tests that do not say what they assert, imports of one test module by another."""
    for path in sorted(tests.rglob("*.py")):
        name, text = path.relative_to(tests).as_posix(), path.read_text(encoding="utf-8")
        lines = text.count("\n")
        if lines > LONGEST_TEST:
            yield f"tests/{name} has {lines} lines, at most {LONGEST_TEST}: split it by subject"
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_") and not ast.get_docstring(node):
                yield f"tests/{name}:{node.lineno} {node.name} has no docstring: say what it asserts"
            if not isinstance(node, ast.Import | ast.ImportFrom):
                continue
            origin = "." * getattr(node, "level", 0) + (getattr(node, "module", None) or "")
            parts = [part for alias in node.names for part in f"{origin}.{alias.name}".split(".")]
            if any(part.startswith("test_") for part in parts):
                yield f"tests/{name}:{node.lineno} imports a test module: move what is shared to tests/support"


# --- The package ----------------------------------------------------------------------------------------------
def test_layers(repo):
    """The maths would slowly grow imports of models, trainers and hydra, and stop being testable alone."""
    assert len(list(sources(repo / "locus"))) > 5, "the package was not found, so nothing was checked"
    faults = list(layer_faults(repo / "locus"))
    assert not faults, "\n".join(faults)


def test_habits(repo):
    """Stray prints in the progress bar, swallowed errors, and public functions nobody can use without reading them."""
    faults = list(habit_faults(repo / "locus"))
    assert not faults, "\n".join(faults)


def test_no_file_names_the_headline_of_one_task(repo):
    """``val/mean_iou`` stands in no file of the package: a run of another task would have no curve, stop or sweep."""
    texts = {file: file.read_bytes() for file in (repo / "locus").rglob("*") if file.suffix in (".py", ".html")}
    assert len(texts) > 50, "the package was not found, so nothing was checked"
    assert [file.name for file, text in texts.items() if b"val/mean_iou" in text] == []


def test_no_machine_paths(repo):
    """A path of one machine in a config or notebook breaks every other machine."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=repo, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if listed.returncode:
        pytest.skip("not a git checkout")
    files = [name for name in listed.stdout.split("\0") if name and (repo / name).is_file()]
    assert "setup.cfg" in files
    faults = list(machine_paths(repo, files))
    assert not faults, "\n".join(faults)


def test_tests_are_short_and_say_what_they_assert(repo):
    """Test files that nobody reads to the end, tests without a reason, and tests that break when another is edited."""
    assert len(list((repo / "tests").rglob("test_*.py"))) > 50, "the tests were not found, so nothing was checked"
    faults = list(faults_of_tests(repo / "tests"))
    assert not faults, "\n".join(faults)


# --- The checkers can fail ------------------------------------------------------------------------------------
FILES = (
    *("__init__.py", "types.py", "errors.py", "boxes.py", "run/runtime.py", "train.py"),
    *("tasks/__init__.py", "tasks/order.py", "policy/__init__.py", "policy/vlm.py", "policy/rollouts.py"),
    *("training/__init__.py", "training/loss.py", "training/grpo.py", "evaluate.py"),
    *("evaluation/__init__.py", "evaluation/statistics.py", "evaluation/evaluator.py", "analysis/runs.py"),
)


@pytest.fixture
def planted(tmp_path):
    """``planted(path, source)``: a clean package with this source in one file."""

    def plant(path: str = "types.py", source: str = "") -> Path:
        for name in (*FILES, path):
            file = tmp_path / "locus" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text('"""Doc."""\n' + (source if name == path else ""))
        return tmp_path / "locus"

    return plant


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("boxes.py", "from locus.types import Box"),
        ("boxes.py", "from locus import types, errors"),
        ("tasks/order.py", "from ..policy import vlm"),
        ("policy/vlm.py", "import transformers"),
        ("train.py", "import hydra, locus\nfrom locus.training.grpo import GRPOModule\nprint(1)"),
        ("training/log_records.py", "from locus.training.loss import loss"),
        ("evaluation/evaluator.py", "from locus.evaluation import statistics"),
    ],
)
def test_allowed(planted, path, source):
    """A checker that forbids what the design allows would be switched off."""
    package = planted(path, source)
    assert [*layer_faults(package), *habit_faults(package)] == []


@pytest.mark.parametrize(
    ("path", "source", "fault"),
    [
        ("types.py", "from locus.boxes import iou", "(types) imports locus/boxes.py (boxes)"),
        ("boxes.py", "import locus.training.grpo", "imports locus/training/grpo.py (training)"),
        ("boxes.py", "def f():\n    from locus.policy import vlm", "imports locus/policy/vlm.py"),
        ("boxes.py", "if TYPE_CHECKING:\n    from .tasks.order import D", "imports locus/tasks/order.py"),
        ("boxes.py", "importlib.import_module('locus.policy.vlm')", "imports locus/policy/vlm.py"),
        ("boxes.py", "importlib.import_module(name)", "no file of the package"),
        ("policy/vlm.py", "from locus.tasks import order", "imports locus/tasks/order.py"),
        ("policy/vlm.py", "from ..tasks import order", "imports locus/tasks/order.py"),
        ("tasks/order.py", "from locus.training.loss import loss", "imports locus/training/loss.py"),
        ("evaluation/evaluator.py", "from locus.training.grpo import G", "never meet"),
        ("analysis/runs.py", "from locus.training import grpo", "never meet"),
        ("train.py", "from locus.evaluate import run", "imports locus/evaluate.py (entry points)"),
        ("tasks/order.py", "from transformers import AutoProcessor", "imports transformers"),
        ("training/grpo.py", "def f():\n    import wandb", "imports wandb"),
        ("train.py", "import wandb", "imports wandb"),
        ("policy/vlm.py", "from omegaconf import DictConfig", "imports omegaconf"),
        ("tasks/order.py", "from locus.nothing import x", "no file of the package"),
        ("helpers/text.py", "", "locus/helpers/text.py has no room: place helpers"),
    ],
)
def test_planted_import(planted, path, source, fault):
    """The guard must be able to fail: one that misses lazy or relative imports guards nothing."""
    found = list(layer_faults(planted(path, source)))
    assert len(found) == 1 and fault in found[0], found


@pytest.mark.parametrize(
    ("source", "fault"),
    [
        ("def _f():\n    print(1)", "prints"),
        ("try:\n    pass\nexcept:\n    pass", "bare except"),
        ("def f():\n    return 1", "f has no docstring"),
        ("class C:\n    x = 1", "C has no docstring"),
    ],
)
def test_planted_habit(planted, source, fault):
    """As above, for the habits."""
    found = list(habit_faults(planted("tasks/order.py", source)))
    assert len(found) == 1 and fault in found[0], found


def test_planted_machine_path(tmp_path):
    """As above, for paths; a relative path, a web address and a binary file are none."""
    (tmp_path / "bad.yaml").write_text("images: " + "/" + "home/me/images\n")
    (tmp_path / "good.yaml").write_text("a: ../shared/work/x\nb: see example.org" + "/" + "home/page\n")
    (tmp_path / "weights.bin").write_bytes(b"\0" + b"/" + b"root/x")
    found = list(machine_paths(tmp_path, ["bad.yaml", "good.yaml", "weights.bin"]))
    assert len(found) == 1 and found[0].startswith("bad.yaml:1"), found


@pytest.mark.parametrize(
    ("source", "fault"),
    [
        ("x = 1\n" * (LONGEST_TEST + 1), "has 401 lines"),
        ("from tests.policy.test_lora import x", "imports a test module"),
        ("def f():\n    from tests.policy import test_lora", "imports a test module"),
        ("from . import test_lora", "imports a test module"),
        ("import test_lora as lora", "imports a test module"),
        ("def test_it():\n    assert True", "test_it has no docstring"),
    ],
)
def test_planted_fault_of_a_test(tmp_path, source, fault):
    """As above, for the tests themselves; a helper and a file of the most lines are none."""
    (tmp_path / "test_good.py").write_text("from tests.support.runs import train\n" * LONGEST_TEST)
    (tmp_path / "test_bad.py").write_text(source)
    found = list(faults_of_tests(tmp_path))
    assert len(found) == 1 and found[0].startswith("tests/test_bad.py") and fault in found[0], found
