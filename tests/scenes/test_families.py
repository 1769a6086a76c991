"""conf/scenes: each family of generated scenes says its use and seeds; families of different use share no scene.

A family that is added needs no test of its own: its first line must say what it is for.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import pytest
import yaml
from hydra.utils import instantiate

from locus.scenes.source import SceneSource
from tests.support.paths import CONF

USES = "Training|Validation|Pretraining|Evaluation"
FIRST_LINE = re.compile(rf"# ({USES})( and validation)?, seeds? (\d+)(?: to (\d+) \(the run's\))?: \S")
COMPARED = 300
"""Scenes of each family that are looked at, and at each end of a range of seeds."""


@dataclass(frozen=True)
class Family:
    """A file of conf/scenes. ``use``: what it is drawn for; its validation is split from it by image."""

    use: str
    seeds: range
    sources: tuple[SceneSource, ...]
    """Of the first and of the last seed."""


def families(names: Mapping[str, str], compose_app) -> dict[str, Family]:
    """Name -> family, of files given as name -> text; fails for a first line that does not say use and seeds."""
    found = {}
    for name, text in names.items():
        first = FIRST_LINE.match(text)
        assert first, f"conf/scenes/{name}.yaml: its first line must be '# <{USES}>, seed <number>: ...'"
        seeds = range(int(first[3]), int(first[4] or first[3]) + 1)
        ends = sorted({seeds[0], seeds[-1]})
        made = [
            instantiate(compose_app("prepare", [f"scenes@data.source={name}", f"seed={seed}"]).data.source)
            for seed in ends
        ]
        assert [source.seed for source in made] == ends, f"conf/scenes/{name}.yaml: has other seeds than it says"
        found[name] = Family(first[1], seeds, tuple(made))
    return found


def shared(found: Mapping[str, Family]) -> Iterator[str]:
    """What families of different use have in common: seeds, digests, or scenes that look the same."""
    looks = {
        name: {
            replace(source.scene(index), background_seed=0) for source in family.sources for index in range(COMPARED)
        }
        for name, family in found.items()
    }
    for one, other in ((a, b) for a in found for b in found if a < b and found[a].use != found[b].use):
        a, b = found[one], found[other]
        if range(max(a.seeds[0], b.seeds[0]), min(a.seeds[-1], b.seeds[-1]) + 1):
            yield f"{one} and {other} have a seed in common: scene i of both is drawn by the same random numbers"
        if {source.family for source in a.sources} & {source.family for source in b.sources}:
            yield f"{one} and {other} are one family"
        if same := len(looks[one] & looks[other]):
            yield f"{one} and {other} share {same} scenes"


@pytest.fixture
def shipped(compose_app) -> dict[str, Family]:
    return families({file.stem: file.read_text() for file in (CONF / "scenes").glob("*.yaml")}, compose_app)


def test_families_of_different_use_share_no_scene(shipped):
    """A benchmark on scenes that the policy was trained on, or a backbone pretrained on them."""
    assert {family.use for family in shipped.values()} == set(USES.split("|"))
    assert list(shared(shipped)) == []


def test_every_family_is_in_the_group_and_used():
    """A copied block elsewhere, whose seed nobody compares; a family that nothing draws from."""
    others = [file for file in CONF.rglob("*.yaml") if file.parent.name != "scenes"]
    assert [file for file in others if "SceneSource" in file.read_text()] == []
    lists = [(yaml.safe_load(file.read_text()) or {}).get("defaults", []) for file in others]
    entries = [item for entries in lists for item in entries if isinstance(item, dict)]
    used = {value for entry in entries for key, value in entry.items() if "scenes@" in key}
    assert used == {file.stem for file in (CONF / "scenes").glob("*.yaml")}


def test_planted_families(shipped):
    """The guard must be able to fail: one seed for two uses, one family, scenes that only differ in their number."""
    training, evaluation = shipped["small"], shipped["held_out"]
    seed = Family("Evaluation", range(7, 8), evaluation.sources)
    (fault,) = shared({"a": training, "b": seed})
    assert "a seed in common" in fault
    faults = list(shared({"a": training, "b": replace(evaluation, sources=training.sources)}))
    assert ["one family" in fault for fault in faults] == [True, False] and f"share {2 * COMPARED} scenes" in faults[1]


@pytest.mark.parametrize("line", ["# Scenes", "# Training: small objects", "# Evaluation, seeds 1 to 2: objects"])
def test_planted_first_line(line, compose_app):
    """A family that does not say its use or its seeds; only a run's own seed is a range."""
    with pytest.raises(AssertionError, match="its first line must be"):
        families({"small": line}, compose_app)


def test_planted_seed(compose_app):
    """A first line that says another seed than the file has."""
    with pytest.raises(AssertionError, match="other seeds than it says"):
        families({"held_out": "# Evaluation, seed 5: objects"}, compose_app)
