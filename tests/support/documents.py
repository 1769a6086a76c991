"""Markdown as a reader meets it: fenced blocks with their marks and file names, commands, links, anchors."""

from __future__ import annotations

import itertools
import re
import shlex
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

SHELL = ("bash", "sh", "shell", "console")
BLOCK = re.compile(
    r"^(?:`(?P<file>[\w./-]+)`\n\n)?(?:<!-- *(?P<mark>run\b.*?) *-->\n)?(?P<indent> *)```(?P<language>\w+)\n"
    r"(?P<text>.*?)^ *```",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class Block:
    """A fenced block with a language, the mark right above it, and the file that the line above names."""

    mark: str
    language: str
    text: str
    file: str = ""


def blocks(text: str) -> list[Block]:
    """Fenced blocks with a language, in order."""
    return [
        Block(m["mark"] or "", m["language"], textwrap.dedent(m["indent"] + m["text"]), m["file"] or "")
        for m in BLOCK.finditer(text)
    ]


def write_files(text: str, folder: Path) -> list[Path]:
    """Writes the blocks that name a file to their places in a folder; returns the paths."""
    written = []
    for block in blocks(text):
        if block.file:
            written.append(folder / block.file)
            written[-1].parent.mkdir(parents=True, exist_ok=True)
            written[-1].write_text(block.text)
    return written


def commands(text: str) -> Iterator[list[str]]:
    """Words of each command of a shell text, without comments, a prompt sign and assignments before it."""
    for line in text.replace("\\\n", " ").splitlines():
        for command in re.split(r"&&|;", line.removeprefix("$ ")):
            words = shlex.split(command, comments=True)
            yield list(itertools.dropwhile(lambda word: re.match(r"[A-Z_]+=", word), words))


def module_of(words: list[str]) -> str | None:
    """The module that a command runs by ``python -m``."""
    return words[2] if len(words) > 2 and re.match(r"(.*/)?python[\d.]*$", words[0]) and words[1] == "-m" else None


def prose(text: str) -> str:
    """Without fenced blocks and code in the line: what looks like a link or a heading there is none."""
    return re.sub(r"`[^`\n]*`", "", re.sub(r"^ *```.*?^ *```", "", text, flags=re.MULTILINE | re.DOTALL))


def links(text: str) -> list[str]:
    """Targets of links and pictures, without titles."""
    return re.findall(r"\]\(([^)\s]+)[^)]*\)", prose(text))


def anchors(text: str) -> set[str]:
    """Names that GitHub gives to the headings: lower case, blanks to hyphens, punctuation left out."""
    outside = re.sub(r"^ *```.*?^ *```", "", text, flags=re.MULTILINE | re.DOTALL)
    found: set[str] = set()
    for title in re.findall(r"^#+ +(.*?) *$", outside, re.MULTILINE):
        words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", title)
        name = re.sub(r"[^\w\- ]", "", words.lower()).replace(" ", "-")
        same = itertools.count(1)
        found.add(name if name not in found else next(f"{name}-{n}" for n in same if f"{name}-{n}" not in found))
    return found


def broken_links(text: str, place: Path) -> Iterator[str]:
    """Links of a document in the folder ``place`` to files, or to headings of Markdown files, that are not there."""
    for link in links(text):
        path, _, anchor = link.partition("#")
        target = place / path
        if "://" in link:
            continue
        if not target.exists():
            yield f"link to {path}: no such file"
        elif anchor and anchor not in anchors(target.read_text(encoding="utf-8") if path else text):
            yield f"link to {link}: no such heading"
