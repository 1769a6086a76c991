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

TRAINING = ("policy_module.py", "grpo/module.py", "sft/module.py", "pretraining/")

# The longest path that begins a file's path decides. A file of no line here must be placed before it is used.
LAYERS = {
    5: ("train.py", "pretrain.py", "evaluate.py", "score.py", "analyze.py", "prepare.py", "report.py"),
    4: ("runtime.py", "loggers.py", "sweeps.py", "callbacks.py"),
    3: (
        *(*TRAINING, "analysis/"),
        *(f"evaluation/{name}.py" for name in ("evaluator", "questions", "scene_benchmarks", "scene_suite", "scores")),
    ),
    2: (
        *("run_files.py", "chat_endpoint.py", "data/", "models/", "grpo/", "sft/"),
        *("evaluation/benchmarks/", "evaluation/equality.py", "evaluation/judge.py", "evaluation/predictions.py"),
    ),
    1: (
        *("boxes.py", "parsing.py", "prompts.py"),
        *("grpo/advantages.py", "grpo/loss.py"),
        *(f"evaluation/{name}.py" for name in ("items", "statistics", "bootstrap", "expressions", "paper")),
        *(f"evaluation/{name}.py" for name in ("extraction", "vlmevalkit", "responses")),
        *("evaluation/extraction_", "evaluation/equality_"),
    ),
    0: ("types.py", "errors.py"),
}

# Beside the layers: files under the first path never import those under the others.
NEVER = {
    "data/": ("models/", "grpo/", "sft/", "evaluation/", "analysis/"),
    "models/": ("data/", "grpo/", "sft/", "evaluation/", "analysis/"),
    "evaluation/": TRAINING,
    "analysis/": TRAINING,
}

# Libraries that only these files import.
ONLY = {
    "transformers": ("models/", "data/collate.py"),
    "peft": ("models/",),
    "wandb": LAYERS[4],
    "sympy": ("evaluation/equality_rules.py", "evaluation/expressions.py"),
    "hydra": (*LAYERS[5], "runtime.py", "sweeps.py"),
    "omegaconf": (*LAYERS[5], "runtime.py", "sweeps.py"),
}

MACHINE_PATH = re.compile(r"(?<![\w.])/(?:home|root|work|Users)/\w")


# --- Checkers: each yields one line per fault -----------------------------------------------------------------
def layer(path: str) -> int | None:
    """Layer of a file, by its path in the package; None if it has no place."""
    if path.endswith("__init__.py"):
        return 0  # runs whenever anything of its package is imported, so it imports nothing of higher layers
    places = [(len(place), number) for number, group in LAYERS.items() for place in group if path.startswith(place)]
    return max(places)[1] if places else None


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
    """Imports upwards or across, and files without a place."""
    for path, tree in sources(package):
        own = layer(path)
        if own is None:
            yield f"locus/{path} has no layer: place it in LAYERS of tests/test_architecture.py"
            continue
        for line, name in imports(path, tree):
            where = f"locus/{path}:{line} (layer {own})"
            library = name.split(".")[0]
            if library != "locus":
                if library in ONLY and not path.startswith(ONLY[library]):
                    yield f"{where} imports {library}: only {', '.join(ONLY[library])} do"
                continue
            target = resolve(package, name)
            if target is None:
                yield f"{where} imports {name}, which is no file of the package"
            elif (layer(target) or 0) > own:
                yield f"{where} imports locus/{target} (layer {layer(target)})"
            elif any(path.startswith(one) and target.startswith(others) for one, others in NEVER.items()):
                yield f"{where} imports locus/{target}: those two never meet"


def habit_faults(package: Path) -> Iterator[str]:
    """Prints in library code, bare excepts, public names without a docstring."""
    may_print = (*LAYERS[5], *LAYERS[4])
    for path, tree in sources(package):
        for node in ast.walk(tree):
            where = f"locus/{path}:{getattr(node, 'lineno', 1)}"
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "print" and path not in may_print:
                yield f"{where} prints: return or log it"
            if isinstance(node, ast.ExceptHandler) and node.type is None:
                yield f"{where} has a bare except: name the error"
        for node in (tree, *tree.body) if tree.body else ():
            documented = isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
            name = getattr(node, "name", "the module")
            hidden = name.startswith("_") or (name == "main" and path in LAYERS[5])  # a main is its module's docstring
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


# --- The checkers can fail ------------------------------------------------------------------------------------
FILES = (
    *("__init__.py", "types.py", "errors.py", "boxes.py", "runtime.py", "train.py"),
    *("data/__init__.py", "data/dataset.py", "data/collate.py", "models/__init__.py", "models/vlm.py"),
    *("grpo/__init__.py", "grpo/loss.py", "grpo/rollouts.py", "grpo/module.py", "sft/module.py"),
    *("evaluation/statistics.py", "evaluation/evaluator.py", "analysis/runs.py"),
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
        ("grpo/rollouts.py", "from ..models import vlm"),
        ("models/vlm.py", "import transformers"),
        ("data/collate.py", "from transformers import AutoProcessor"),
        ("train.py", "import hydra, locus\nfrom locus.grpo.module import GRPOModule\nprint(1)"),
        ("grpo/log_records.py", "from locus.grpo.loss import loss"),
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
        ("types.py", "from locus.boxes import iou", "(layer 0) imports locus/boxes.py (layer 1)"),
        ("boxes.py", "import locus.grpo.module", "imports locus/grpo/module.py (layer 3)"),
        ("boxes.py", "def f():\n    from locus.models import vlm", "imports locus/models/vlm.py"),
        ("boxes.py", "if TYPE_CHECKING:\n    from .data.dataset import D", "imports locus/data/dataset.py"),
        ("boxes.py", "importlib.import_module('locus.models.vlm')", "imports locus/models/vlm.py"),
        ("boxes.py", "importlib.import_module(name)", "no file of the package"),
        ("grpo/loss.py", "from .rollouts import r", "imports locus/grpo/rollouts.py"),
        ("grpo/rollouts.py", "from locus.grpo import module", "imports locus/grpo/module.py"),
        ("grpo/__init__.py", "from locus.grpo.loss import loss", "(layer 0) imports"),
        ("data/dataset.py", "from locus.models.vlm import VLM", "never meet"),
        ("data/dataset.py", "from locus.grpo.rollouts import r", "never meet"),
        ("models/vlm.py", "from ..data import dataset", "never meet"),
        ("evaluation/evaluator.py", "from locus.grpo.module import G", "never meet"),
        ("analysis/runs.py", "from locus.sft import module", "never meet"),
        ("data/dataset.py", "from transformers import AutoProcessor", "imports transformers"),
        ("grpo/rollouts.py", "from transformers.cache_utils import DynamicCache", "imports transformers"),
        ("grpo/module.py", "def f():\n    import wandb", "imports wandb"),
        ("train.py", "import wandb", "imports wandb"),
        ("models/vlm.py", "from omegaconf import DictConfig", "imports omegaconf"),
        ("data/dataset.py", "from locus.nothing import x", "no file of the package"),
        ("utils.py", "", "locus/utils.py has no layer: place it"),
        ("evaluation/extra.py", "", "has no layer: place it"),
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
    found = list(habit_faults(planted("data/dataset.py", source)))
    assert len(found) == 1 and fault in found[0], found


def test_planted_machine_path(tmp_path):
    """As above, for paths; a relative path, a web address and a binary file are none."""
    (tmp_path / "bad.yaml").write_text("images: " + "/" + "home/me/images\n")
    (tmp_path / "good.yaml").write_text("a: ../shared/work/x\nb: see example.org" + "/" + "home/page\n")
    (tmp_path / "weights.bin").write_bytes(b"\0" + b"/" + b"root/x")
    found = list(machine_paths(tmp_path, ["bad.yaml", "good.yaml", "weights.bin"]))
    assert len(found) == 1 and found[0].startswith("bad.yaml:1"), found
