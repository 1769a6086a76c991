"""README.md and docs/: the front page stays one page and points at what is there, the reference is that of conf."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from locus.errors import LocusError
from locus.run import config_docs
from locus.run.config_docs import Group, Key
from tests.support.documents import blocks, links, prose

LINES, ALIKE = 120, 9
"""The front page's length at most; words in a row that it may not share with another page."""


@pytest.fixture
def readme(repo: Path) -> str:
    """The front page."""
    return (repo / "README.md").read_text(encoding="utf-8")


# --- The front page -------------------------------------------------------------------------------------------
def test_readme_is_one_page(readme):
    """A front page of 289 lines was read by nobody: at most 120, six links into docs, one picture."""
    assert len(readme.splitlines()) <= LINES
    assert len(re.findall(r"^- \[[^\]]+\]\(docs/\w+\.md\)", readme, re.MULTILINE)) == 6
    assert len(re.findall(r"!\[", readme)) == 1


def test_readme_names_the_reward(readme, repo):
    """The line that computes the reward, as quoted, is in the file that is named for it."""
    quoted, file = re.search(r"computes the reward\*\*: `([^`]+)`,\s+in\s+`([^`]+)`", readme).groups()
    assert quoted in (repo / file).read_text(encoding="utf-8"), f"{file} has no line {quoted}"


def test_readme_names_the_benchmark_to_copy(readme, repo):
    """The two files to copy for a benchmark exist."""
    line = re.search(r"copy for a new benchmark\*\*: (.*?)\n- ", readme, re.DOTALL)[1]
    files = [name for name in re.findall(r"`([^`]+)`", line) if "/" in name]
    assert len(files) == 2 and all((repo / name).is_file() for name in files), files


def test_readme_has_the_command_for_table_7(readme):
    """One line to copy."""
    shell = [line.strip() for block in blocks(readme) if block.language == "bash" for line in block.text.splitlines()]
    assert sum("locus.train -m experiment=table7" in line for line in shell) == 1


def test_files_that_the_readme_names(readme, repo):
    """Every path in the drawing and the tree is there: they were drawn before files move."""
    text = "\n".join(block.text for block in blocks(readme) if block.language == "text")
    named = [name.rstrip("/") for name in re.findall(r"[\w/]+\.py\b|\b\w+/", text)]
    known = [file.relative_to(repo).as_posix() for top in (repo.iterdir(), (repo / "locus").rglob("*")) for file in top]
    missing = [name for name in named if not any(f"/{path}".endswith(f"/{name}") for path in known)]
    assert len(named) > 20 and not missing, missing


def test_tree_names_every_room(readme, repo):
    """A room that is added without a clause."""
    rooms = {file.name for file in (repo / "locus").iterdir() if file.is_dir() and (file / "__init__.py").is_file()}
    assert [name for name in sorted(rooms) if f"\n  {name}/ " not in readme] == []


def test_readme_repeats_nothing(readme, repo):
    """Nothing on the front page is said on another page in the same words: one of the two would grow old."""
    others = [repo / "CONTRIBUTING.md", *sorted((repo / "docs").glob("*.md"))]
    ours = _runs_of_words(readme)
    for page in others:
        shared = ours & _runs_of_words(page.read_text(encoding="utf-8"))
        assert not shared, f"{page.name}: {' / '.join(' '.join(words) for words in sorted(shared)[:3])}"


def _runs_of_words(text: str) -> set[tuple[str, ...]]:
    """All runs of so many words of each paragraph, without code, links' targets and tables' bars."""
    runs = set()
    for paragraph in re.split(r"\n\s*\n", re.sub(r"\]\([^)]*\)", "]", prose(text))):
        words = re.findall(r"[\w@≥.,-]+", paragraph.lower())
        runs |= {tuple(words[start : start + ALIKE]) for start in range(len(words) - ALIKE + 1)}
    return runs


def test_links_are_found(readme):
    """The link checker finds none where the pattern fails."""
    assert {"docs/quickstart.md", "docs/images/sample.png"} <= set(links(readme))


# --- The configuration's reference ----------------------------------------------------------------------------
def test_reference_is_up_to_date():
    """docs/training.md shows each group and option as conf has it: python -m locus.run.config_docs writes it."""
    page = config_docs.PAGE.read_text(encoding="utf-8")
    made = config_docs.with_reference(page, config_docs.reference(config_docs.ROOT / "conf"))
    assert page == made, "run python -m locus.run.config_docs"


def test_reference_has_every_option(repo):
    """No option of a group of train.yaml is missing."""
    made = config_docs.reference(repo / "conf")
    for group in config_docs.groups_of(repo / "conf" / "train.yaml", repo / "conf"):
        files = sorted((repo / "conf" / group.name).glob("*.yaml"))
        assert f"### `{group.name}`" in made and files, group
        assert [file.stem for file in files if f"| `{file.stem}`" not in made] == []


@pytest.fixture
def planted(tmp_path: Path) -> Path:
    """A small conf tree."""
    for name, text in {
        "train.yaml": "# Trains.\ndefaults:\n  - _self_\n  - size: small  # how much\n  - size@other: large\n"
        "  - experiment: null\nseed: 1\nrun:\n  steps: 2  # at least one | more\n",
        "size/small.yaml": "# @package _global_\n# Dr. Small <b>. More.\nwidth: 3\ncopy: ${seed}\n",
        "size/huge.yaml": "# Huge? Yes.\ndefaults:\n  - shape: round\n",
        "size/large.yaml": "# The large one:\n#   python -m locus.train\ncopy: ${seed}\n",
        "size/shape/round.yaml": "# Round.\n_target_: a.B\nby: {_target_: hydra.utils.get_method, path: a.b.c}\n",
        "experiment/table10.yaml": "# Ten. And more.\n# Command: python -m locus.train experiment=table10\n"
        "defaults:\n  - /scale: paper\n",
        "scale/paper.yaml": "# As published.\nscale: paper\n",
        "experiment/table2.yaml": "# Two.\n{}\n",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_groups(planted):
    """Groups in the defaults list's order with those that their options name; not those that are put elsewhere.

    What only an experiment names is nobody's default.
    """
    assert list(config_docs.groups_of(planted / "train.yaml", planted)) == [
        Group("size", "small", "how much"),
        Group("size/shape", "round"),
        Group("experiment", None),
        Group("scale", None),
    ]


def test_keys(planted):
    """Dotted, with the comment behind; of a function its name; targets and defaults are none."""
    assert list(config_docs.keys_of(planted / "train.yaml")) == [
        Key("seed", "1", ""),
        Key("run.steps", "2", "at least one | more"),
    ]
    assert list(config_docs.keys_of(planted / "size" / "shape" / "round.yaml", "x")) == [Key("x.by", "c", "")]


def test_reference(planted):
    """Whole, on a small tree: default first, first sentences, Markdown's signs escaped, table2 before table10, the
    command of each experiment, nothing marked as default that only an experiment takes.
    """
    made = config_docs.reference(planted)
    assert made.startswith(
        "### `size`\n\nHow much.\n\n| option |  |\n| --- | --- |\n| `small` (default) | Dr. Small \\<b>. |"
    )
    assert "| `large` | The large one |" in made and "| `huge` | Huge? Yes. |" in made
    assert "| `width` | `3` |" in made and "copy" not in made
    assert made.index("| `table2` | Two. |  |") < made.index("| `table10` | Ten. | `locus.train` |")
    assert "### `scale`\n\nOnly together with experiment=" in made and "| `paper` | As published. |" in made
    assert made.endswith("| `seed` | `1` |  |\n| `run.steps` | `2` | at least one \\| more |")


def test_markers(planted):
    """A page without the markers would silently keep its old reference."""
    with pytest.raises(LocusError, match="lacks the line"):
        config_docs.with_reference("# Training", "made")
    (planted / "size" / "large.yaml").write_text("{}\n")
    with pytest.raises(LocusError, match="says nothing of itself"):
        config_docs.reference(planted)
