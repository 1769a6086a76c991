"""Every file under conf/, found by glob: it composes, each key of it is read by something, and its parts are built.

Adding a config file needs no test of its own. Only what a test cannot know stands in the tables below.
"""

from __future__ import annotations

import ast
import inspect
import json
import re
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hydra import compose, initialize_config_dir
from hydra.plugins.launcher import Launcher
from hydra.types import RunMode
from hydra.utils import get_object, instantiate
from omegaconf import DictConfig, ListConfig, OmegaConf
from PIL import Image

from tests.support.paths import CONF, EXPERIMENTS, experiments

SOURCE = CONF.parent / "locus"

# Values for keys that are ??? in conf; "group=option key" is looked up before "key". Paths are in the `inputs` folder.
VALUES = {
    "data.annotations": "instances.json",
    "data.images": "images",
    "data=boxes data.path": "boxes.jsonl",
    "data=folder data.path": "images",
    "data=refcoco data.path": "images",
    "task=questions_file task.source.path": "questions.jsonl",
    "cue=text_file cue.path": "boxes.jsonl",
    "predictions": "boxes.jsonl",
    "runs": "images",
    "rationales.path": "boxes.jsonl",
    "rationales.model": "teacher",
    "cue=text_endpoint cue.model": "teacher",
    "backbone.path": "images",
}
# Keys that are ??? and may stay so.
OPTIONAL = {"resume"}
# Arguments that an entry point gives when it builds the target, which its config therefore lacks.
AT_RUN_TIME: dict[str, set[str]] = {}
# Groups that only experiments bring in; their files are tried with these.
OF_EXPERIMENTS = {"scale", "experiment/paper", "experiment/tiny"}
# Groups whose files are only put at places of others: the app and the place where they are tried.
PLACED = {"scenes": ("prepare", "data.source")}
# "group=option" that cannot be built on every machine, with the reason; composed and checked all the same.
NOT_BUILT: dict[str, str] = {}


# --- What is in a conf folder ---------------------------------------------------------------------------------
def apps(conf: Path) -> list[str]:
    """Names of the entry points' configs, train first: a group's files are tried in the first app that has it."""
    return sorted((file.stem for file in conf.glob("*.yaml")), key=lambda name: (name != "train", name))


def options(conf: Path) -> list[tuple[str, str]]:
    """(group, option) of every file in a group; conf/local is one machine's own."""
    files = sorted(file.relative_to(conf) for file in conf.rglob("*.yaml") if file.parent != conf)
    return [(file.parent.as_posix(), file.stem) for file in files if file.parts[0] != "local"]


@cache
def default_groups(file: Path, conf: Path) -> frozenset[str]:
    """Groups that a config's defaults list names; not those that it puts elsewhere (``group@place``)."""
    own = file.parent.relative_to(conf).as_posix()
    names = set()
    for entry in (yaml.safe_load(file.read_text()) or {}).get("defaults", []):
        for key in entry if isinstance(entry, dict) else ():
            name = key.split()[-1]
            if "@" not in name and not key.startswith("override"):
                names.add(name.lstrip("/") if name.startswith("/") or own == "." else f"{own}/{name}")
    return frozenset(names)


@cache
def groups_of(app: str, conf: Path) -> frozenset[str]:
    """Groups that overrides of an app can choose from: those of its defaults list, and of theirs."""
    found: set[str] = set()
    todo = set(default_groups(conf / f"{app}.yaml", conf))
    while todo - found:
        group = (todo - found).pop()
        found.add(group)
        for file in (conf / group).glob("*.yaml"):
            todo |= default_groups(file, conf)
    return frozenset(found)


def app_of(group: str, conf: Path) -> str | None:
    """The first app whose overrides can choose from a group; Hydra's own are in every app."""
    group = EXPERIMENTS[0] if group in EXPERIMENTS else group
    if conf == CONF and group in PLACED:
        return PLACED[group][0]
    return next((app for app in apps(conf) if group.startswith("hydra/") or group in groups_of(app, conf)), None)


def host_of(group: str, conf: Path) -> list[str]:
    """The choice without which a group of another group's options is in no defaults list, such as ``task=mixture``."""
    outer = group.rpartition("/")[0]
    files = (file for file in sorted((conf / outer).glob("*.yaml")) if outer and group in default_groups(file, conf))
    return [f"{outer}={file.stem}" for file in files][:1]


# --- Checkers: each yields what is wrong ----------------------------------------------------------------------
def words(source: Path) -> set[str]:
    """Names by which code can read a key: attributes, arguments, and strings that are dotted names."""
    found: set[str] = set()
    for file in source.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            match node:
                case ast.Attribute(attr=name) | ast.arg(arg=name) | ast.keyword(arg=str(name)):
                    found.add(name)
                case ast.Constant(value=str(text)) if re.fullmatch(r"\w+(\.\w+)*", text):
                    found.update(text.split("."))
    return found


def interpolated(conf: Path) -> set[str]:
    """Last names of the keys that other keys are copied from; options where a group chooses: ``${at.${scale}}``."""
    text = "\n".join(file.read_text() for file in conf.rglob("*.yaml"))
    chosen = {file.stem for group in re.findall(r"\.\$\{(\w+)\}\}", text) for file in (conf / group).glob("*.yaml")}
    return chosen | {name.split(".")[-1] for name in re.findall(r"\$\{(?:oc\.select:)?\.*([\w.]+)\s*[,}]", text)}


@cache
def parameters(target: str) -> tuple[set[str], set[str]] | None:
    """Names that a ``_target_`` takes and those it must be given; None if it takes any name."""
    signature = inspect.signature(get_object(target)).parameters.values()
    if any(one.kind is one.VAR_KEYWORD for one in signature):
        return None
    named = [one for one in signature if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)]
    return {one.name for one in named}, {one.name for one in named if one.default is one.empty}


def faults(node: Any, read: set[str], path: str = "", inside: bool = False) -> Iterator[str]:
    """Keys of a composed config that nothing reads, and targets with an unknown or a missing argument.

    Args:
        node: unresolved plain container.
        read: names that count as read where no ``_target_`` takes them.
        inside: the node is part of an argument of a target; its keys are data, only targets in it are checked.
    """
    if isinstance(node, list):
        for index, item in enumerate(node):
            yield from faults(item, read, f"{path}[{index}]", inside)
    if not isinstance(node, dict):
        return
    keys = {key for key in node if not str(key).startswith("_")}
    target = node.get("_target_")
    if target and (names := parameters(target)):
        yield from (f"{path}.{key}: {target} has no such argument" for key in sorted(keys - names[0]))
        lacks = names[1] - keys - AT_RUN_TIME.get(target, set())
        if lacks and not node.get("_partial_") and "_args_" not in node:
            yield f"{path}: {target} must be given {', '.join(sorted(lacks))}"
    for key in node:
        here = f"{path}.{key}".lstrip(".")
        if key in keys and not target and not inside and not isinstance(node[key], dict) and key not in read:
            yield f"{here}: nothing reads this key"
        yield from faults(node[key], read, here, inside or bool(target))


def missing(node: Any, path: str = "") -> Iterator[str]:
    """Dotted keys that are ??? in an unresolved container."""
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in items:
        here = f"{path}.{key}".lstrip(".")
        if value == "???":
            yield here
        yield from missing(value, here)


def undocumented(file: Path) -> Iterator[str]:
    """Facts that an experiment's leading comments do not give."""
    comments = list(takewhile(lambda line: line.startswith("#"), file.read_text().splitlines()))
    name = file.relative_to(next(folder for folder in file.parents if folder.name == "experiment")).with_suffix("")
    command = rf"Command: python -m locus\.\w+ .*\bexperiment=(\S+,)?{name.as_posix()}(,|\s|$)"
    for fact in (command, r"Expected: \S", r"Cost: \S"):
        if not any(re.match(rf"# {fact}", line) for line in comments):
            yield f"experiment/{name}: no comment at its top says '# {fact}'"


def fill(config: DictConfig, inputs: Path, choice: str = "") -> None:
    """Gives every ??? a value from the table; fails for one that the table lacks."""
    for key in missing(OmegaConf.to_container(config, resolve=False)):
        value = VALUES.get(f"{choice} {key}", VALUES.get(key))
        assert value or key in OPTIONAL, f"{key} is ???: give it a value in VALUES of tests/project/test_configs.py"
        if value:
            OmegaConf.update(config, key, str(inputs / value))


def outermost_targets(node: Any) -> Iterator[DictConfig]:
    """Nodes with a ``_target_`` that lie in no other."""
    if isinstance(node, DictConfig) and "_target_" in node:
        yield node
    elif isinstance(node, DictConfig):
        for key in node:
            yield from outermost_targets(None if OmegaConf.is_missing(node, key) else node[key])
    elif isinstance(node, ListConfig):
        for child in node:
            yield from outermost_targets(child)


def package_of(group: str, option: str, conf: Path = CONF) -> str:
    """Dotted place of a group file's keys in the composed config; ``_global_`` for experiments."""
    header = re.search(r"^# *@package +(\S+)", (conf / group / f"{option}.yaml").read_text(), re.MULTILINE)
    return header[1] if header else group.replace("/", ".")


# --- The project's conf ---------------------------------------------------------------------------------------
@pytest.fixture(scope="session")
def inputs(tmp_path_factory) -> Path:
    """Small inputs for the data sources: two pictures, as COCO instances and as a box list."""
    folder = tmp_path_factory.mktemp("inputs")
    (folder / "images").mkdir()
    for name in ("1.png", "2.png"):
        pixels = np.random.default_rng(0).integers(0, 255, (48, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "images" / name)
    images = [{"id": n, "file_name": f"{n}.png", "width": 64, "height": 48} for n in (1, 2)]
    boxes = [{"id": n, "image_id": n, "category_id": 1, "bbox": [4, 4, 20, 18], "iscrowd": 0} for n in (1, 2)]
    categories = [{"id": 1, "name": "thing"}]
    coco = {"images": images, "annotations": [{**box, "area": 360} for box in boxes], "categories": categories}
    (folder / "instances.json").write_text(json.dumps(coco))
    rows = [json.dumps({"image": f"images/{n}.png", "box": [4, 4, 24, 22], "label": "thing"}) for n in (1, 2)]
    (folder / "boxes.jsonl").write_text("\n".join(rows))
    (folder / "questions.jsonl").write_text('{"image": "images/1.png", "question": "What?", "answer": "noise"}')
    return folder


@pytest.fixture(scope="session")
def read() -> set[str]:
    """Names that count as read."""
    return words(SOURCE) | interpolated(CONF)


def choices() -> list[str]:
    """``group=option`` of every group file that an app's overrides can choose; experiments have a test of their own."""
    return [f"{group}={option}" for group, option in options(CONF) if group not in {*OF_EXPERIMENTS, *EXPERIMENTS}]


def test_nothing_is_forgotten():
    """A group that no entry point has would lie there unchecked; a stale exemption would hide a later file."""
    assert "train" in apps(CONF) and set(NOT_BUILT) <= set(choices())
    assert [f"{group}={option}" for group, option in options(CONF) if app_of(group, CONF) is None] == []


def test_a_command_has_few_groups():
    """A list of options that nobody reads to its end."""
    for app in apps(CONF):
        own = {group for group in default_groups(CONF / f"{app}.yaml", CONF) if "/" not in group}
        assert len(own) <= 15, (app, sorted(own))


@pytest.mark.parametrize("app", apps(CONF))
def test_app(app, compose_app, inputs, read):
    """Defaults that do not compose, interpolations to nowhere, keys that nothing reads."""
    config = compose_app(app)
    fill(config, inputs)
    assert list(faults(OmegaConf.to_container(config, resolve=False), read)) == []
    OmegaConf.to_container(config, resolve=True)


@pytest.mark.parametrize("choice", choices())
def test_option(choice, compose_app, inputs, read):
    """A group file that nobody has tried since it was written: it composes, is read, and builds."""
    group, option = choice.split("=")
    app = app_of(group, CONF)
    assert app, f"no entry point's defaults list names the group {group}"
    place = PLACED[group][1] if group in PLACED else ""
    config = compose_app(app, [*host_of(group, CONF), f"{group}@{place}={option}" if place else choice])
    fill(config, inputs, choice)
    package = place or package_of(group, option)
    found = faults(OmegaConf.to_container(config, resolve=False), read)
    assert [fault for fault in found if package == "_global_" or fault.startswith(package)] == []
    OmegaConf.to_container(config, resolve=True)
    if package == "_global_" or choice in NOT_BUILT:
        return
    for node in outermost_targets(OmegaConf.select(config, package)):
        if not AT_RUN_TIME.get(node._target_):
            assert instantiate(node, _convert_="all") is not None


@pytest.mark.parametrize("option", experiments())
def test_experiment(option, compose_app, inputs, read):
    """An experiment that does not compose with the app of its command, at its own scale or at scale=tiny."""
    text = (CONF / "experiment" / f"{option}.yaml").read_text()
    app = re.search(r"# Command: python -m locus\.(\w+) ", text)[1]
    for scale in ([], ["scale=tiny"]) if "/scale:" in text else ([],):
        config = compose_app(app, [f"experiment={option}", *scale])
        fill(config, inputs)
        assert list(faults(OmegaConf.to_container(config, resolve=False), read)) == []
        OmegaConf.to_container(config, resolve=True)


def test_every_part_is_some_experiments():
    """A file for experiments that none of them names any more; a scale beside these and the paper's on one GPU."""
    text = "\n".join((CONF / "experiment" / f"{option}.yaml").read_text() for option in experiments())
    for scale in ("paper", "tiny"):
        named = set(re.findall(rf"^  - /experiment/{scale}: (\w+)", text, re.MULTILINE)) - {"null"}
        assert named == {option for group, option in options(CONF) if group == f"experiment/{scale}"}
    assert {option.split("_")[0] for group, option in options(CONF) if group == "scale"} == {"paper", "tiny", "one"}


@pytest.mark.parametrize("option", experiments())
def test_experiment_says_what_it_is(option):
    """An experiment without its command, result and cost cannot be repeated or judged."""
    assert list(undocumented(CONF / "experiment" / f"{option}.yaml")) == []


@pytest.mark.parametrize("option", [option for group, option in options(CONF) if group == "sweep"])
def test_sweep_is_one_over_keys_that_exist(option, compose_app):
    """A sweep group that makes a single run, or whose axes no longer exist."""
    hydra = compose_hydra("train", [f"sweep={option}"])
    assert hydra.mode == RunMode.MULTIRUN and hydra.sweeper.params
    config = compose_app("train")
    assert [key for key in hydra.sweeper.params if OmegaConf.select(config, key) is None] == []


@pytest.mark.parametrize("app", apps(CONF))
def test_every_command_tells_of_failed_jobs(app):
    """A sweep of this command would end well although a job of it failed."""
    assert compose_hydra(app).callbacks.failed_jobs._target_ == "locus.run.sweeps.FailedJobs"


@pytest.mark.parametrize("option", [option for group, option in options(CONF) if group == "hydra/launcher"])
def test_launcher(option):
    """A launcher that is built only when a sweep of hours is begun."""
    assert isinstance(instantiate(compose_hydra("train", [f"hydra/launcher={option}"]).launcher), Launcher)


def compose_hydra(app: str, overrides: Sequence[str] = ()) -> DictConfig:
    """The ``hydra`` node."""
    with initialize_config_dir(str(CONF), version_base="1.3", job_name=app):
        return compose(app, list(overrides), return_hydra_config=True).hydra


# --- The checkers can fail ------------------------------------------------------------------------------------
PLANTED = {
    "train.yaml": "defaults: [_self_, {sampling: paper}, {reward: iou}, {experiment: null}]\nseed: 1\nname: ${seed}\n",
    "sampling/paper.yaml": "_target_: locus.types.Sampling\ntemperature: 1.0\nmax_new_tokens: 8\n",
    "reward/iou.yaml": "path: ???\nsource: {_target_: locus.types.Grade, total: 0}\n",
    "experiment/e.yaml": "# @package _global_\n# Command: python -m locus.train experiment=e\n"
    "# Expected: 1\n# Cost: 1 s\nsampling: {temprature: 2.0}\n",
    "orphan/a.yaml": "x: 1\n",
}


@pytest.fixture
def planted(tmp_path) -> Path:
    """A small conf tree with one fault of each kind."""
    for name, text in PLANTED.items():
        (tmp_path / "conf" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "conf" / name).write_text(text)
    return tmp_path / "conf"


def test_planted_faults(planted, compose_app, inputs):
    """Each checker finds its own planted fault, and nothing where there is none."""
    assert [option for option in options(planted) if app_of(option[0], planted) is None] == [("orphan", "a")]
    config = compose_app("train", conf=planted)
    found = list(faults(OmegaConf.to_container(config, resolve=False), interpolated(planted)))
    assert "name: nothing reads this key" in found and "reward.path: nothing reads this key" in found
    assert "reward.source: locus.types.Grade must be given parts, status" in found
    assert len(found) == 3, found  # seed is read by an interpolation, sampling by its target
    with pytest.raises(AssertionError, match=r"reward\.path is \?\?\?"):
        fill(config, inputs)
    config = compose_app("train", ["experiment=e"], planted)
    found = list(faults(OmegaConf.to_container(config, resolve=False), interpolated(planted)))
    assert "sampling.temprature: locus.types.Sampling has no such argument" in found
    assert [node._target_ for node in outermost_targets(config)] == ["locus.types.Sampling", "locus.types.Grade"]


def test_planted_experiments(planted):
    """An experiment that gives no cost, or another experiment's command, is found."""
    file = planted / "experiment" / "e.yaml"
    assert list(undocumented(file)) == []
    file.write_text(PLANTED["experiment/e.yaml"].replace("# Cost: 1 s\n", "").replace("experiment=e", "experiment=f"))
    found = list(undocumented(file))
    assert len(found) == 2 and "Command" in found[0] and "Cost" in found[1]


def test_words(tmp_path):
    """A key that only a comment, a docstring or a local variable mentions is not read."""
    (tmp_path / "a.py").write_text('"""alpha beta"""\n# gamma\ndelta = cfg.epsilon.zeta["eta"] + f(theta=1)\n')
    assert words(tmp_path) == {"epsilon", "zeta", "eta", "theta"}
