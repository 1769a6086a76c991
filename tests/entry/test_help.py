"""``--help`` of every entry point: quick, and useful in its first five lines."""

from __future__ import annotations

import re
import subprocess
import sys
import time

import pytest
from omegaconf import OmegaConf

from tests.support.paths import REPO

ENTRIES = sorted(file.stem for file in (REPO / "conf").glob("*.yaml"))
SECONDS = 3
HEAVY = "torch", "transformers", "lightning", "hydra", "pandas"


def ask(*arguments: str) -> tuple[subprocess.CompletedProcess[str], float]:
    """Python with these arguments in a process of its own, and its seconds."""
    start = time.perf_counter()
    done = subprocess.run([sys.executable, *arguments], cwd=REPO, capture_output=True, text=True, check=True)
    return done, time.perf_counter() - start


def test_every_entry_point_has_a_config():
    """An entry point that is added later and left out of the tests here."""
    assert ENTRIES == ["analyze", "evaluate", "plan", "prepare", "pretrain", "prompts", "report", "score", "train"]


@pytest.mark.parametrize("entry", ENTRIES)
def test_help_is_quick(entry):
    """Help that takes as long as importing torch does. Where a busy machine needs more than half a second to start
    Python, only what comes on top of that counts."""
    _, alone = ask("-c", "pass")
    _, seconds = ask("-m", f"locus.{entry}", "--help")
    assert seconds - max(0.0, alone - 0.5) < SECONDS, f"{seconds:.1f} s, of which Python's start is {alone:.1f} s"
    done, _ = ask("-X", "importtime", "-m", f"locus.{entry}", "-h")
    imported = set(re.findall(r"\| +(\w+)$", done.stderr, re.MULTILINE))
    assert "pathlib" in imported and not imported & set(HEAVY)


@pytest.mark.parametrize("entry", ENTRIES)
def test_first_five_lines(entry, compose_app):
    """Help that begins with a list of groups; an override that the command does not have."""
    done, _ = ask("-m", f"locus.{entry}", "--help")
    what, title, *overrides = done.stdout.splitlines()[:5]
    assert re.fullmatch(r"[A-Z].{20,}\.", what) and title == "The overrides used most:"
    config = compose_app(entry)
    for line in overrides:
        key, value = re.fullmatch(r"  ([\w.]+)=(\S+)  +\w.+", line).groups()
        if (REPO / "conf" / key).is_dir():
            assert (REPO / "conf" / key / f"{value}.yaml").is_file(), line
        else:
            parent, _, name = key.rpartition(".")
            assert name in list(OmegaConf.select(config, parent) if parent else config), line  # ??? is there, too


@pytest.mark.parametrize("entry", ENTRIES)
def test_the_text_is_the_config_s_comment(entry):
    """Help that says otherwise than the file; groups of another command, or one that is left out."""
    done, _ = ask("-m", f"locus.{entry}", "-m", "--help", "seed=1,2")
    file = (REPO / "conf" / f"{entry}.yaml").read_text()
    comment = re.match(r"(# .*\n)+", file)[0]
    assert done.stdout.startswith(re.sub("^# ", "", comment, flags=re.MULTILINE)) and not done.stderr
    defaults = OmegaConf.create(file).get("defaults", [])
    if entry == "plan":  # it takes what train takes
        defaults = [*defaults, *OmegaConf.load(REPO / "conf" / "train.yaml").defaults]
    groups = [key for line in defaults if not isinstance(line, str) for key in line if "@" not in key]
    inner = [f"{file.parent.parent.name}/{file.parent.name}" for file in (REPO / "conf").glob("*/*/*.yaml")]
    for group in [*groups, *(name for name in inner if name.split("/")[0] in groups)]:
        options = ", ".join(sorted(file.stem for file in (REPO / "conf" / group).glob("*.yaml")))
        assert f"\n  {group}: {options}\n" in re.sub(r"\n    (?=\w)", " ", done.stdout)
    assert f"conf/{entry}.yaml" in done.stdout and "--cfg job" in done.stdout
