"""What is installed: every requirement has a lowest version, and the checks take exact ones."""

from __future__ import annotations

import configparser
import re
import shlex
from pathlib import Path

from packaging.requirements import Requirement

from locus.run.settings import DEEPSPEED


def supported(repo: Path) -> dict[str, Requirement]:
    """Name -> range of setup.cfg, the extras' among them."""
    setup = configparser.ConfigParser(interpolation=None)
    setup.read(repo / "setup.cfg")
    listed = [setup["options"]["install_requires"], *setup["options.extras_require"].values()]
    found = [Requirement(line) for text in listed for line in text.split("\n") if line]
    assert len(found) > 20
    return {one.name: one for one in found}


def lines(path: Path) -> list[str]:
    """Of a requirements file, without comments."""
    return [text for line in path.read_text().splitlines() if (text := line.partition("#")[0].strip())]


def test_every_requirement_has_a_lowest_version(repo):
    """An old numpy that pip leaves in place: no module named so much as its missing function."""
    wanted = supported(repo).values()
    assert [str(one) for one in wanted if not any(part.operator in (">=", "==") for part in one.specifier)] == []


def test_pinned_versions_are_supported(repo):
    """Versions that were checked together outside the ranges that are promised, or a library that none is given for."""
    ranges = supported(repo)
    pinned = [Requirement(line) for line in lines(repo / "requirements.txt")]
    assert [str(one) for one in pinned if [part.operator for part in one.specifier] != ["=="]] == []
    versions = {one.name: next(iter(one.specifier)).version for one in pinned}
    assert [name for name in versions if name in ranges and versions[name] not in ranges[name].specifier] == []
    assert set(ranges) - set(versions) == {"deepspeed", "pre-commit", "trl"}


def test_checks_install_exact_versions(repo):
    """A release of tomorrow that fails, or passes, a check of today's code."""
    ranges, text = supported(repo), (repo / ".ci" / "run").read_text().replace("\\\n", " ")
    words = [word for line in re.findall(r"pip install ([^|&;\n]*)", text) for word in shlex.split(line)]
    given = [word for word in words if not word.startswith("-") and not word.endswith(".txt")]
    assert given and [one for one in given if "==" not in one] == []
    assert [one for one in given if one.split("==")[1] not in ranges[Requirement(one).name].specifier] == []


def test_deepspeed_is_the_same_range_everywhere(repo):
    """An error that tells to install what the run then refuses."""
    assert supported(repo)["deepspeed"] == Requirement(DEEPSPEED)
    pages = [*(repo / "docs").rglob("*.md"), *(repo / "conf").rglob("*.yaml")]
    told = {name for page in pages for name in re.findall(r"'(deepspeed[<>=][^']*)'", page.read_text())}
    assert {name.replace("\\<", "<") for name in told} == {DEEPSPEED}  # a sign of Markdown's
