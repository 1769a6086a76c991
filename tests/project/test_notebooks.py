"""The notebooks: every cell runs on logged runs, they hold no outputs, and nothing but calls of `locus.analysis`."""

from __future__ import annotations

import ast
import json
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tests.support.paths import REPO
from tests.support.runs import train

NOTEBOOKS = sorted((REPO / "notebooks").glob("*.ipynb"))


def code(notebook: Path) -> list[str]:
    """Its code cells."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


@pytest.fixture(scope="module")
def sweep(tmp_path_factory) -> Path:
    """Four runs, of two settings and seeds, with what an analysis leaves."""
    folder = tmp_path_factory.mktemp("sweep")
    for number, (reward, seed) in enumerate([(0.1, 1), (0.1, 2), (0.2, 1), (0.2, 2)]):
        train(folder / str(number), f"seed={seed}", f"reward.alpha={reward}", "trainer.steps=1")
    rows = [
        {"policy": policy, "item": str(n), "kind": "colour", "correct": float(n % 2), "attention_in_box": share,
         "peak_in_box": True, "area": 0.1, "layer 0": share, "peak, layer 0": True}
        for policy, share in (("before", 0.1), ("after", 0.3)) for n in range(4)
    ]  # fmt: skip
    pd.DataFrame(rows).to_parquet(folder / "attention.parquet")
    return folder


def executed(notebook: Path, runs: Path) -> dict[str, Any]:
    """What its code cells leave, of the runs in a folder."""
    names: dict[str, Any] = {}
    for cell in code(notebook):
        text = cell.replace('"outputs/train/TIME"', repr(str(runs))).replace('"outputs/train"', repr(str(runs)))
        exec(compile(text, notebook.name, "exec"), names)  # the project's own text
    return names


@pytest.mark.slow
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_runs(notebook, sweep, capsys):
    """A column or a function that was renamed: a notebook is read by nobody until a user opens it."""
    executed(notebook, sweep)
    assert "outputs/train" in "".join(code(notebook))


def test_a_second_setting_is_no_seed(tmp_path, capsys):
    """Means and intervals over seeds in which each other setting of a sweep counts as a seed, too."""
    for number, (lr, clip, seed) in enumerate(product((1e-4, 2e-4), (1, 2), (1, 2))):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "config.yaml").write_text(f"{{seed: {seed}, optimizer: {{lr: {lr}}}, loss: {{clip: {clip}}}}}")
        scalars = {"val/mean_iou": 0.5, "val/acc@0.5": 0.5, "val/format": 1.0}
        (folder / "summary.json").write_text(json.dumps({"status": "finished", **scalars}))
    left = executed(REPO / "notebooks" / "02_ablation_tables.ipynb", tmp_path)
    assert left["BY"] == ["optimizer.lr", "loss.clip"] and left["table"]["runs"].tolist() == [2] * 4
    labels = [text.get_text() for text in left["axes"].get_xticklabels()]
    assert labels == ["0.0001, 1", "0.0001, 2", "0.0002, 1", "0.0002, 2"]
    assert "| 0.0001 | 1 | 2 | 0.500 ± 0.000 |" in capsys.readouterr().out


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_is_bare(notebook):
    """Outputs of one machine in git; a function or loop that belongs into the package, where it is tested."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    assert all(not cell.get("outputs") and cell.get("execution_count") is None for cell in cells)
    tree = ast.parse("\n".join(code(notebook)))
    assert not [
        node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.For, ast.While))
    ]
    assert len(NOTEBOOKS) == 4


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_its_imports_are_there(notebook):
    """A module that was moved: in the fast tests, as the cells themselves are run by the slow one only."""
    tree = ast.parse("\n".join(code(notebook)))
    imports = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    assert any("locus" in ast.unparse(node) for node in imports)
    exec(compile(ast.Module(imports, []), notebook.name, "exec"), {})
