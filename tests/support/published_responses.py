"""How well published responses of models are read: ``python -m tests.support.published_responses FOLDER``.

FOLDER holds clones of github.com/mathllm/MATH-V and github.com/Yijia-Xiao/LogicVista, fetched by hand; either may lack.
Their responses are read with the options of their own files and compared with the verdicts published beside them
(MATH-V's official rule). A box "equals an option" when exactly one option has its value; a letter read from a box
that equals none is false unless the response states one behind the box.
"""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

from locus.evaluation.benchmarks.logicvista import listed_options
from locus.evaluation.benchmarks.mathvision import TAG
from locus.evaluation.reading.extractors import LOCUS, VLMEVALKIT
from locus.evaluation.reading.option_values import DECIMALS, by_value, is_value
from locus.evaluation.reading.problems import letters_of
from locus.evaluation.reading.responses import boxed, final_span, half_width
from locus.types import Response

LETTERED = re.compile(r"\W*(?:\{?\\?(?:text|textbf|mathrm|mathbf|mbox|bf|rm)\W*)?(?:[A-J]\b|[a-j]\W*$)")
"""A box that begins with an option's letter, or is one."""
TURNS = ("ASSISTANT:", "[/INST]", "assistant\n")
"""Behind which a chat's last turn begins, in files that hold the prompt too."""


def math_v(folder: Path) -> Iterator[tuple[Mapping[str, str], dict, dict]]:
    """Options, problem and published line of each response of a model; the file of random answers is left out."""
    lines = (folder / "data" / "test.jsonl").read_text(encoding="utf-8").splitlines()
    problems = {row["id"]: row for row in map(json.loads, lines)}
    for file in sorted((folder / "outputs").rglob("*.jsonl")):
        for line in [] if "Random" in file.name else file.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            texts = [TAG.sub("", str(option)).strip() for option in problems[row["id"]]["options"]]
            yield {key: text or key for key, text in zip("ABCDEFGHIJ", texts, strict=False)}, problems[row["id"]], row


def box_kind(response: Response, options: Mapping[str, str]) -> tuple[str, str | None]:
    """``one`` and the option that a box's value equals, ``none``, or an empty text where there is no value in a box."""
    span = half_width(final_span(response))
    box = boxed(span, response.finished)
    if not options or box is None or not is_value(box[0]) or LETTERED.match(box[0]):
        return "", None
    equals = by_value(box[0], options)
    if len(equals) == 1:
        return "one", equals[0]
    return ("" if equals or re.search(r"\b[A-E]\b", span[box[1] :]) else "none"), None


def measure_math_v(folder: Path) -> str:
    """The table of MATH-V, and how its boxes of choices are read."""
    counts: Counter[tuple[str, str]] = Counter()
    for options, problem, row in math_v(folder):
        response, kind = Response(row["response"] or ""), "choices" if options else "free answers"
        read, right = LOCUS.solve(response, options, str(problem["answer"]), DECIMALS)
        right = right and read.answer is not None
        _, kit = VLMEVALKIT.solve(response, options, str(problem["answer"]), DECIMALS)
        box, letter = box_kind(response, options)
        facts = {"n": True, "official": row["correct"], "locus": right, "same": right == row["correct"], "kit": kit}
        facts |= {"unread": read.answer is None, "one": box == "one", "none": box == "none"}
        facts |= {"wrong": box == "one" and read.answer not in (None, letter), "false": box == "none" and read.answer}
        counts.update((kind, name) for name, fact in facts.items() if fact)
    names = ("official", "locus", "same", "unread", "kit")
    lines = ["| MATH-V | n | official rule | locus | same verdict | unread | vlmevalkit |", "|---" * 7 + "|"]
    for kind in ("choices", "free answers"):
        shares = (f"{100 * counts[kind, name] / counts[kind, 'n']:.1f}" for name in names)
        lines.append(f"| {kind} | {counts[kind, 'n']} | {' | '.join(shares)} |")
    wrong, false = (
        (counts["choices", name], counts["choices", of]) for name, of in (("wrong", "one"), ("false", "none"))
    )
    lines.append(f"\nBoxes that equal one option, another letter read: {wrong[0]} of {wrong[1]}")
    return "\n".join([*lines, f"Boxes that equal no option, a letter read: {false[0]} of {false[1]}"])


def measure_logicvista(folder: Path) -> str:
    """Right and unread responses over all models of LogicVista."""
    rows = json.loads((folder / "data" / "dataset.json").read_text(encoding="utf-8"))
    counts: Counter[str] = Counter()
    for file in sorted((folder / "eval" / "answers").glob("*.json")):
        for key, said in json.loads(file.read_text(encoding="utf-8")).items():
            gold = letters_of(rows.get(key, {}).get("answer") or "")
            if gold:
                options, text = listed_options(rows[key]["question"]), said["answer"]
                for turn in TURNS:
                    text = text.rpartition(turn)[2]
                read = LOCUS.letters(Response(text), options if gold <= set(options) else {})
                counts.update(n=1, right=letters_of(read.answer or "") == gold, unread=read.answer is None)
    return f"LogicVista: {counts['n']} responses, {counts['right']} right, {counts['unread']} unread"


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    for name, measure in (("MATH-V", measure_math_v), ("LogicVista", measure_logicvista)):
        place = Path(sys.argv[1], name)
        print(measure(place) if place.is_dir() else f"{place} does not exist: clone it to measure it")
