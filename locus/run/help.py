"""``python -m locus.<entry point> --help``, and overrides that have moved: answered before imports that take seconds.

The text begins with the comment at the top of ``conf/<entry point>.yaml``: what the command does, the three overrides
used most, examples.
"""

from __future__ import annotations

import re
import sys
import textwrap
from collections.abc import Iterable, Iterator
from itertools import takewhile
from pathlib import Path

from locus.run.moved_keys import refuse_moved_keys

CONF = Path(__file__).resolve().parents[2] / "conf"
MORE = """\
The whole configuration, with the overrides given: python -m locus.{entry} ... --cfg job
What each key means: conf/{entry}.yaml and the files of its groups; docs/training.md lists every group and option.
-m runs a sweep over values separated by commas. Flags of Hydra: --hydra-help."""


def answer_early() -> None:
    """Prints the running entry point's help and exits, if its arguments ask for that; refuses keys that have moved."""
    if {"-h", "--help"} & set(sys.argv[1:]):
        print(help_text(Path(sys.argv[0]).stem))
        sys.exit()
    refuse_moved_keys(sys.argv[1:])


def help_text(entry: str) -> str:
    """The comment at the top of the entry point's config, its groups with their options, and where to read on."""
    lines = (CONF / f"{entry}.yaml").read_text(encoding="utf-8").splitlines()
    comment = [line[2:] for line in takewhile(lambda line: line.startswith("#"), lines)]
    groups = re.findall(r"^  - ([\w/]+): \S", "\n".join(lines), re.MULTILINE)
    listed = [textwrap.fill(line, 118, initial_indent="  ", subsequent_indent="    ") for line in options(groups)]
    parts = [comment, ["Groups, chosen by GROUP=OPTION:", *listed] if listed else [], [MORE.format(entry=entry)]]
    return "\n\n".join("\n".join(part) for part in parts if part)


def options(groups: Iterable[str]) -> Iterator[str]:
    """``group: option, option`` of each group and of the groups inside it."""
    for group in groups:
        for folder in [CONF / group, *sorted(path for path in (CONF / group).iterdir() if path.is_dir())]:
            names = ", ".join(sorted(file.stem for file in folder.glob("*.yaml")))
            yield f"{folder.relative_to(CONF).as_posix()}: {names}"
