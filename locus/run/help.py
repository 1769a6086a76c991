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
    included = [line[4:] for line in lines if re.fullmatch(r"  - [a-z]\w*", line)]  # plan.yaml is of train.yaml
    texts = ["\n".join(lines), *((CONF / f"{name}.yaml").read_text(encoding="utf-8") for name in included)]
    groups = [group for text in texts for group in re.findall(r"^  - ([\w/]+): \S", text, re.MULTILINE)]
    listed = [textwrap.fill(line, 118, initial_indent="  ", subsequent_indent="    ") for line in options(groups)]
    parts = [comment, ["Groups, chosen by GROUP=OPTION:", *listed] if listed else [], [MORE.format(entry=entry)]]
    return "\n\n".join("\n".join(part) for part in parts if part)


def options(groups: Iterable[str]) -> Iterator[str]:
    """``group: option, option`` of each group and of the groups inside it."""
    for group in groups:
        for folder in [CONF / group, *sorted(path for path in (CONF / group).iterdir() if path.is_dir())]:
            names = ", ".join(sorted(file.stem for file in folder.glob("*.yaml")))
            yield f"{folder.relative_to(CONF).as_posix()}: {names}"


GROUPS = {
    "method": "algorithm",
    "mix=none": "task=cue_search",
    "mix=questions": "task=mixture",
    "mix=questions_file": "task=mixture task@task.parts.other=questions_file",
    "task/other=questions": "task@task.parts.other=questions_training",
    "task/other": "task@task.parts.other",
    "order": "trainer/order",
    "targets": "rationales",
    "expressions=endpoint": "cue=text_endpoint",
    "expressions=none": "no override: cue=text_endpoint is what asks for expressions",
    "evaluation": "diagnoses",
    "watch": "callbacks",
    "kl=preset": "no override: the algorithm's own",
    "kl=off": "algorithm.loss.kl_coefficient=0",
    "kl": "algorithm.loss.kl_estimator",
    "logprobs": "trainer.logprobs",
    "rollout": "a section of the configuration: set rollout.sampling.max_new_tokens and the like",
    "optimizer": "a section whose rate follows backbone.recipe: set optimizer.make.lr",
    "pixels": "a section of the configuration: set pixels.min_pixels and pixels.max_pixels",
    "pixels=native": "pixels.min_pixels=null pixels.max_pixels=null",
    "pixels=easyr1": "pixels.min_pixels=262144 pixels.max_pixels=4194304",
    "training": "scale",
    "analysis=context_rot": "analysis=crowding",
    "scale=corpus": "scale=paper",
    "scale=diagnosis": "scale=paper",
    "scale=table2": "scale=paper",
    "scale=table3": "scale=paper",
    "scale=table11": "scale=paper",
}
"""Group, or group=option -> what to write in its place; where only the group is named, its options keep their names."""
SHARES = "a weight: task.shares.main=3 task.shares.other=1 is a share of 0.25"
KEYS = {
    "method.thought": "rationales",
    "mix.share": SHARES,
    "mix.think": "task.parts.other.think",
    "mix.path": "task.parts.other.source.path",
    "mix.images": "task.parts.other.source.images",
    "mix.questions": "task.parts.other.source",
    "task.share": SHARES,
    "task.main": "task.parts.main",
    "task.other": "task.parts.other",
    "mix": "task",
    "order": "trainer.order",
    "targets": "rationales",
    "evaluation": "diagnoses",
    "evaluation.context_rot": "diagnoses.crowding",
    "diagnoses.context_rot": "diagnoses.crowding",
    "watch": "callbacks",
    "expressions": "cue",
    "logprobs.chunk": "trainer.logprobs_chunk",
    "trainer.stop_at_iou": "trainer.stop_at",
    "method": "algorithm",
}
"""Dotted key, or how it begins -> its successor."""
BY_NAME = {
    "algorithm.loss.average.path": "algorithm.loss.average",
    "algorithm.loss.kl_estimator.path": "algorithm.loss.kl_estimator",
    "reward.localisation.path": "reward.localisation",
}
"""Keys that took the path of a function, and take its name now."""


def refuse_moved_keys(arguments: list[str]) -> None:
    """Ends the process with status 2 and one line where an override names what has moved."""
    for text in arguments:
        if (successor := successor_of(text)) is not None:
            print(
                f"locus: {text}: {text.partition('=')[0].lstrip('+~')} has moved; it is now {successor}",
                file=sys.stderr,
            )
            sys.exit(2)


def successor_of(override: str) -> str | None:
    """What to write in the place of an override of the last release; None where it holds as it is."""
    if override.startswith("-"):
        return None
    name, _, value = override.lstrip("+~").partition("=")
    group, _, package = name.partition("@")
    for option in value.split(",") if "." not in group else ():
        if f"{group}={option}" in GROUPS:
            return GROUPS[f"{group}={option}"]
    if group in GROUPS:
        moved = GROUPS[group]
        return moved if " " in moved else "=".join(filter(None, [moved, value]))
    if group in BY_NAME:
        return f"{BY_NAME[group]}={value.rpartition('.')[2].removesuffix('_reward').removeprefix('box_')}"
    parts = group.split(".")
    for length in range(len(parts), 0, -1):
        known = KEYS.get(".".join(parts[:length]))
        if known is not None and len(parts) > 1:
            if " " in known:
                return known
            rest = parts[length:]
            return "=".join(filter(None, [".".join([known, *rest]), value]))
    return None
