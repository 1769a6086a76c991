"""VSR: is a sentence about where things are true of a COCO photo."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from locus.evaluation.benchmark import Item
from locus.evaluation.benchmarks.file_benchmark import YesNoBenchmark
from locus.evaluation.benchmarks.pope import measures
from locus.evaluation.benchmarks.readers import Row
from locus.evaluation.statistics import Statistic, accuracy

ANSWERS = {"1": "yes", "0": "no", "yes": "yes", "no": "no"}
QUESTION = "Is this sentence true of the picture? Answer yes or no."
KINDS = {
    "adjacency": "adjacent to, alongside, at the side of, at the right side of, at the left side of, attached to, "
    "at the back of, ahead of, against, at the edge of",
    "directional": "off, past, toward, down, deep down, up, away from, along, around, from, into, to, across, "
    "across from, through, down from",
    "orientation": "facing, facing away from, parallel to, perpendicular to",
    "projective": "on top of, beneath, beside, behind, left of, right of, under, in front of, below, above, over, "
    "in the middle of",
    "proximity": "by, close to, near, far from, far away from",
    "topological": "connected to, detached from, has as a part, part of, contains, within, at, on, in, with, "
    "surrounding, consists of, out of, between, inside, outside, touching",
    "unallocated": "beyond, next to, opposite to, after, among, enclosed by",
}
"""Relations by kind, as the authors' script groups them (it lists "among" twice, the last place counts)."""
KIND = {relation: kind for kind, relations in KINDS.items() for relation in relations.split(", ")}


@dataclass(frozen=True)
class VSR(YesNoBenchmark):
    """The zero-shot test set of VSR (Liu et al. 2023): 1,222 sentences about 715 photos.

    ``path`` is the authors' test.jsonl (or its folder) with ``images``, the folder of COCO train2017 and val2017, or
    VLMEvalKit's TSV. Prompt: the sentence and a question of ours; of a TSV its question.
    """

    name: str = "vsr"
    rows: int | None = 1222

    headline: ClassVar[str] = "accuracy"
    columns: ClassVar = ("image", "caption", "label", "relation")
    tsv_columns: ClassVar = (("image", "image_path"), "question", "answer")

    def statistics(self) -> Mapping[str, Statistic]:
        """Accuracy (the published score), the kit's precision, recall and F1 of "yes", and accuracy by relation."""
        return {**measures(), **{kind: accuracy(kind=kind) for kind in KINDS}}

    def unit(self) -> Sequence[str]:
        """The sentences about one photo."""
        return ("picture",)

    def _file(self) -> Path:
        official = Path(self.path, "test.jsonl")  # the other splits lie beside it
        return official if official.is_file() else Path(self.path)

    def _item(self, row: Row) -> Item:
        label = row.known("the answer", row.text("label", "answer").strip().lower(), ANSWERS)
        asked = row.text("question") if row.optional("question") else f"{row.text('caption')}\n{QUESTION}"
        pictures = row.pictures("image", "image_path")
        groups = {"picture": pictures[0].key, "kind": KIND.get(row.optional("relation"), "unknown")}
        return Item(row.item_id("index"), asked + self.suffix, ANSWERS[label], pictures, groups=groups)
