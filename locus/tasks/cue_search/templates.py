"""Rationales without a teacher: a few sentences from what the corpus knows of an example. Layer 2.

All their words, and those of the scenes' labels, are single tokens of the tiny tokenizer (tested): with the box they
fit into 48 of its tokens.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

from locus.tasks.cue_search.rationales import Targets
from locus.types import Box, CueExample

TEMPLATES = (
    "The cue is cropped from a {size} region with one {label}. The {label} that matches it is {place} of the image.",
    "There is one {label} in the cue. The image has the same {label} {place}, and it is {size}.",
    "First look at the cue, it is one {label}. The same {label} is {place}. There the {size} region matches.",
    "To find the cue, look for a {size} {label}. There is one {place} of the image, and the pixels match.",
)
UNNAMED = "part of the scene"
"""Stands for a label that is empty, as a random crop's."""
PLACES = (
    ("at the top left", "at the top", "at the top right"),
    ("on the left", "in the middle", "on the right"),
    ("at the bottom left", "at the bottom", "at the bottom right"),
)
"""Of a box whose centre lies in this row and column of thirds of the image."""
SIZES = ((0.01, "tiny"), (0.05, "small"))
"""(Share of the image below which a box is so called, word); from the last share on it is large."""


class TemplateTargets(Targets):
    """Two or three sentences that say the label, the part of the image that the target box lies in, and its size.

    An example has the same rationale in every run; which template it gets goes by its id.
    """

    def rationales(self, examples: Sequence[CueExample]) -> Iterator[str]:
        """As in `Targets`; every example has one."""
        return map(rationale, examples)


def rationale(example: CueExample) -> str:
    """Example -> its sentences. Example: ``The cue is cropped from a tiny region with one dotted red star. ...``."""
    number = int.from_bytes(hashlib.sha256(example.example_id.encode()).digest()[:8])
    words = {"label": example.label or UNNAMED, "place": place(example.target), "size": size(example.target)}
    return TEMPLATES[number % len(TEMPLATES)].format(**words)


def place(box: Box) -> str:
    """The part of the image that the box's centre lies in, such as ``at the top left``."""
    column = int(3 * (box.x1 + box.x2) / 2 / box.width)
    row = int(3 * (box.y1 + box.y2) / 2 / box.height)
    return PLACES[min(row, 2)][min(column, 2)]


def size(box: Box) -> str:
    """The box's size relative to the image, in a word."""
    return next((word for share, word in SIZES if box.area_ratio < share), "large")
