"""The configuration reference of docs/training.md, written from conf: ``python -m locus.run.config_docs``.

What an option is stands once, in the comment at the top of its file; what a key is, in the comment behind the key.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import yaml

from locus.errors import LocusError

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "training.md"
BEGIN, END = "<!-- written by: python -m locus.run.config_docs -->", "<!-- end of what is written -->"
HIDDEN = ("_target_", "_partial_", "_convert_", "defaults", "hydra")
"""Keys that no user sets."""
LONGEST = 120
"""Characters of a list that is shown."""
LATER = ("experiment", "experiment/table8", "experiment/transfer", "sweep", "hydra/launcher")
"""Groups whose options are described by their first line alone: the rest are commands and costs, or Hydra's keys."""
NESTED = {
    "experiment/paper": "what an experiment takes with scale=paper; not chosen by itself",
    "experiment/tiny": "what an experiment takes at tiny scale; not chosen by itself",
    "experiment/table8": "the readings of Table 8's batch, chosen as experiment=table8/paper_128 and so on",
    "experiment/transfer": "settings of one experiment, chosen as experiment=transfer/locus and so on",
    "scale": "only together with experiment=, whose tables and figures take paper unless told otherwise",
}
"""What groups are that only experiments name."""


@dataclass(frozen=True)
class Group:
    """A config group as a defaults list names it."""

    name: str
    default: str | None
    """The option taken when none is named; None where the defaults list says null."""
    comment: str = ""
    """Behind its entry in the defaults list."""
    place: str = ""
    """Where its keys stand; empty for under its name."""


SCENES = Group("scenes", "small", "families of generated scenes, here those of data=scenes", "data.source")
"""Data, benchmarks and diagnoses put them where they are drawn, as ``scenes@data.source=mixed`` does."""

APART = (SCENES, Group("experiment/table8", None), Group("experiment/transfer", None), Group("hydra/launcher", None))
"""What no defaults list of train.yaml names."""


@dataclass(frozen=True)
class Key:
    """A key that a user may set."""

    name: str
    """Dotted."""
    value: str
    comment: str


def groups_of(file: Path, conf: Path) -> Iterator[Group]:
    """Groups of a config's defaults list in its order, each followed by those that its options name.

    A nested group's default is that of the first option that names it; none where the outer group has no default.
    """
    node = yaml.compose(file.read_text(encoding="utf-8"))
    lines = file.read_text(encoding="utf-8").splitlines()
    inside = "" if file.parent == conf else f"{file.parent.relative_to(conf).as_posix()}/"
    for entry in _child(node, "defaults"):
        if not isinstance(entry, yaml.MappingNode):
            continue
        key, value = entry.value[0]
        name = key.value.split()[-1]
        if "@" in name or key.value.startswith("override"):
            continue
        default = None if value.tag.endswith("null") else value.value
        group = Group(name.lstrip("/") if name[0] == "/" else inside + name, default, _comment(lines, key))
        yield group
        nested: dict[str, Group] = {}
        for one in (one for option in options_of(group, conf) for one in groups_of(option, conf)):
            nested.setdefault(one.name, one if default else replace(one, default=None))
        yield from nested.values()


def keys_of(file: Path, package: str = "") -> Iterator[Key]:
    """Keys of a config file, in its order; a mapping written in one line is one value."""
    text = file.read_text(encoding="utf-8")
    node = yaml.compose(text)
    yield from _keys(node, package, text.splitlines()) if isinstance(node, yaml.MappingNode) else ()


def _keys(node: yaml.MappingNode, package: str, lines: list[str]) -> Iterator[Key]:
    for key, value in node.value:
        if key.value in HIDDEN:
            continue
        name = f"{package}.{key.value}".lstrip(".")
        if isinstance(value, yaml.MappingNode) and not value.flow_style:
            yield from _keys(value, name, lines)
        else:
            yield Key(name, _written(value), _comment(lines, key))


def _child(node: yaml.Node | None, name: str) -> list[yaml.Node]:
    pairs = node.value if isinstance(node, yaml.MappingNode) else ()
    return next((value.value for key, value in pairs if key.value == name), [])


def _comment(lines: list[str], node: yaml.Node) -> str:
    """Behind a node's line; a value cannot hold `` # ``."""
    return lines[node.start_mark.line].partition(" # ")[2].strip()


def _written(value: yaml.Node) -> str:
    """A value as an override would give it; of a function, its name."""
    if isinstance(value, yaml.ScalarNode):
        return value.value if value.value or value.style is None else '""'
    if isinstance(value, yaml.SequenceNode):
        text = f"[{', '.join(map(_written, value.value))}]"
        return text if len(text) <= LONGEST else "[…]"
    parts = {key.value: _written(part) for key, part in value.value}
    if parts.get("_target_") == "hydra.utils.get_method":
        return parts["path"].rpartition(".")[2]
    return "{" + ", ".join(f"{key}: {part}" for key, part in parts.items()) + "}"


def summary(file: Path, whole: bool = True) -> str:
    """The first sentence of the comment at a config file's top, or of that comment's first line."""
    comments = []
    for line in file.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#") or line.startswith("#   "):  # indented: a command
            break
        comments.append(line.lstrip("#").strip())
    comments = [line for line in comments if line and not line.startswith("@package")]
    if not comments:
        raise LocusError(f"{file}: says nothing of itself; begin it with a comment, which docs/training.md shows")
    return re.split(r"(?<!Dr\.)(?<=\.)\s+(?=[A-Z])", " ".join(comments) if whole else comments[0])[0].rstrip(":")


def command_of(file: Path) -> str:
    """The program that an experiment's ``# Command:`` line starts; empty without one."""
    found = re.search(r"^# Command: python -m (locus\.\w+)", file.read_text(encoding="utf-8"), re.MULTILINE)
    return f"`{found[1]}`" if found else ""


def options_of(group: Group, conf: Path) -> list[Path]:
    """The group's files, the default first."""
    return sorted((conf / group.name).glob("*.yaml"), key=lambda file: (file.stem != group.default, _place(file)))


def _place(file: Path) -> tuple[str | int, ...]:
    """Names in order, table2 before table10."""
    return tuple(int(part) if part.isdigit() else part for part in re.split(r"(\d+)", file.stem))


def package_of(file: Path, group: Group) -> str:
    """Where a file's keys stand in the whole configuration."""
    header = re.search(r"^# *@package +(\S+)", file.read_text(encoding="utf-8"), re.MULTILINE)
    return group.place or (header[1] if header else group.name.replace("/", ".")).replace("_global_", "")


def reference(conf: Path) -> str:
    """Markdown: every group with its options and its default's keys, then the keys outside the groups."""
    parts = []
    groups = [*groups_of(conf / "train.yaml", conf), *APART]
    for group in groups:
        files = options_of(group, conf)
        if not files:
            continue
        comment = group.comment or NESTED.get(group.name, "")
        said = [f"{comment[0].upper()}{comment[1:]}.", ""] if comment else []
        rows = [[_marked(file.stem, group), _text(summary(file, group.name not in LATER))] for file in files]
        titles = ["option", ""]
        if any(map(command_of, files)):
            titles = [*titles, "command"]
            rows = [[*row, command_of(file)] for row, file in zip(rows, files, strict=True)]
        parts += [f"### `{group.name}`", "", *said, *_table(titles, rows), ""]
        if files[0].stem == group.default and group.name not in LATER:
            parts += _key_table(list(keys_of(files[0], package_of(files[0], group))))
    parts += ["### Keys outside the groups", "", *_key_table(list(keys_of(conf / "train.yaml")))]
    return "\n".join(parts).rstrip()


def _marked(option: str, group: Group) -> str:
    return f"`{option}` (default)" if option == group.default else f"`{option}`"


def _key_table(keys: list[Key]) -> list[str]:
    shown = [key for key in keys if key.comment or not re.fullmatch(r"\$\{[\w.]+\}", key.value)]  # not mere copies
    rows = [[f"`{key.name}`", f"`{_cell(key.value)}`" if key.value else "", _text(key.comment)] for key in shown]
    return [*_table(["key", "value", ""], rows), ""] if rows else []


def _table(titles: list[str], rows: list[list[str]]) -> list[str]:
    return [f"| {' | '.join(cells)} |" for cells in (titles, ["---"] * len(titles), *rows)]


def _cell(text: str) -> str:
    return text.replace("|", r"\|")


def _text(text: str) -> str:
    """Words as Markdown shows them."""
    return _cell(text).replace("<", r"\<").replace("*", r"\*")


def with_reference(page: str, made: str) -> str:
    """The page with the reference between its markers; raises LocusError when it lacks them."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise LocusError(f"{PAGE.name} lacks the line {BEGIN if not begin else END}")
    return f"{before}{BEGIN}\n\n{made}\n\n{END}{after}"


if __name__ == "__main__":
    PAGE.write_text(with_reference(PAGE.read_text(encoding="utf-8"), reference(ROOT / "conf")), encoding="utf-8")
    print(PAGE.relative_to(ROOT))
