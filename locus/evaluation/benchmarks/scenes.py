"""Generated scenes as benchmarks: questions with exact answers, and cue search itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

from locus.boxes import parse_frame
from locus.evaluation.benchmark import READINGS, Item, Picture, TaskBenchmark, Verdict, check_rows, picture_of
from locus.evaluation.reading.extractors import Extractor
from locus.evaluation.reading.responses import Extracted, Reading
from locus.evaluation.statistics import Statistic, accuracy, by_column
from locus.images.sources import ImageSource
from locus.scenes.questions import Ask, AskedScene, SceneQuestion, draw_questions, kinds_of
from locus.scenes.render import render
from locus.scenes.scene import Scene
from locus.scenes.source import SceneSource
from locus.tasks.cue_search.audits import corpus_of
from locus.tasks.cue_search.crops import CropStrategy
from locus.tasks.cue_search.reward import BoxReward
from locus.tasks.cue_search.task import CueSearch as CueSearchTask
from locus.types import Box, Frame, Grade, Response, View


@dataclass(frozen=True)
class SceneBenchmark:
    """Questions of some kinds about one family of scenes.

    Example: ``SceneBenchmark(source, ("colour", "shape", "pattern"), 400)``.
    """

    source: SceneSource
    kinds: Sequence[str | Ask]
    questions: int
    """Of each kind; each about a scene of its own."""

    def __post_init__(self) -> None:
        kinds_of(self.kinds)

    @property
    def asks(self) -> tuple[Ask, ...]:
        """The kinds."""
        return kinds_of(self.kinds)

    def draw(self, seed: int) -> list[AskedScene]:
        """The questions, the same for a seed."""
        return [entry for ask in self.asks for entry in draw_questions(self.source, ask, self.questions, seed)]


@dataclass(frozen=True)
class SceneQuestions:
    """Questions of a `SceneBenchmark`, asked as they are; answered by a word, or by a box in the policy's frame."""

    name: str
    scenes: SceneBenchmark
    frame: str = Frame.FILE
    """The one in which the policy writes boxes (``backbone.frame``), where boxes are asked for."""
    seed: int = 1
    rows: int | None = None
    max_new_tokens: int = 24
    """Enough for an answer; an evaluation's default."""

    headline: ClassVar[str] = "accuracy"

    def __post_init__(self) -> None:
        parse_frame(self.frame)

    def items(self) -> Iterator[Item]:
        """Drawn alike for a seed. Raises LocusError when they are not ``rows``."""
        drawn = self.scenes.draw(self.seed)
        check_rows(self.name, self.rows, len(drawn))
        for number, entry in enumerate(drawn):
            scene = str(entry.scene.background_seed)  # no two scenes have the same
            picture = scene_picture(self.scenes.source, entry.index)
            key = f"{self.name}-{self.seed}-{number}"
            yield item_of(entry.scene, entry.question, key, picture, scene=scene)

    def judge(self, item: Item, response: Response, view: View, extractor: Extractor) -> Verdict:
        """See `scene_verdict`."""
        return scene_verdict(item, response, view, extractor)

    def statistics(self) -> Mapping[str, Statistic]:
        """Over all questions, and of each kind."""
        kinds = [ask.__name__ for ask in self.scenes.asks]
        each = {kind: accuracy(kind=kind) for kind in kinds} if len(kinds) > 1 else {}
        return {"accuracy": accuracy(), **each, **(_box_statistics() if kinds == ["grounding"] else {})}

    def unit(self) -> Sequence[str]:
        """A scene: the kinds of question are drawn from the same ones."""
        return ("scene",)


@dataclass(frozen=True)
class CueSearch(TaskBenchmark):
    """Where in the image is this crop? Held-out examples of a corpus, by the paper's prompt (its Table 10)."""

    task: CueSearchTask

    def verdict(self, item: Item, grade: Grade, said: str | None) -> Verdict:
        """Right from an IoU of 0.5 on."""
        return box_verdict(item, grade)

    def statistics(self) -> Mapping[str, Statistic]:
        """Mean IoU, accuracies at IoU 0.5 and 0.75, share of well-formed answers."""
        return {**_box_statistics(), "format": by_column("format", accuracy())}


def cue_search_benchmark(
    source: ImageSource, crop: CropStrategy, frame: str, rows: int | None, seed: int, corpus: str, max_new_tokens: int
) -> CueSearch:
    """On the corpus that ``python -m locus.prepare`` made; empty draws ``rows`` examples of the source now."""
    # The one training example is never used: a corpus has some.
    examples = corpus_of(source, crop, 1, rows or 500, seed, corpus or None)
    return CueSearch(CueSearchTask(examples, source), frame, rows, max_new_tokens)


def item_of(shown: Scene, question: SceneQuestion, item_id: str, picture: Picture, /, **groups: str) -> Item:
    """A scene's question as an item of a benchmark."""
    labels = {each.box: each.label for each in shown.objects}
    names = tuple(labels[box] for box in question.evidence)
    answer, groups = question.answer or question.evidence[0], {"kind": question.kind, **groups}
    return Item(item_id, question.text, answer, (picture,), groups=groups, evidence=question.evidence, names=names)


@lru_cache(maxsize=1024)
def scene_picture(source: SceneSource, index: int) -> Picture:
    """The picture of one scene, whose key is the scene's path: drawn and encoded once for all questions about it."""
    return picture_of(source.path(index), render(source.scene(index)))


def scene_verdict(item: Item, response: Response, view: View, extractor: Extractor) -> Verdict:
    """A word must be the answer, once both are normalised; a box needs an IoU of 0.5. Both extractors read boxes by
    the answer block, since neither kit knows these; ``vlmevalkit`` takes the whole response for a word."""
    if isinstance(item.answer, Box):
        return box_verdict(item, BoxReward().grade(response, view, item.answer))
    return word_verdict(item, response, extractor)


def word_verdict(item: Item, response: Response, extractor: Extractor) -> Verdict:
    """Whether the response's answer is the item's word."""
    read, truth = extractor.short(response), extractor.short(Response(str(item.answer)))
    return Verdict(item.item_id, read, float(read.answer == truth.answer), dict(item.groups))


def box_verdict(item: Item, grade: Grade) -> Verdict:
    """What the reward gives for the box of the answer block."""
    iou, written = grade.parts["iou"], grade.columns["written"]
    read = Extracted(None if written is None else str(written), READINGS.get(grade.status, Reading.NONE))
    columns: dict[str, str | float] = {**item.groups, "iou": iou, "at_75": float(iou >= 0.75)}
    columns["format"] = grade.parts["format"]
    return Verdict(item.item_id, read, float(iou >= 0.5), columns)


def _box_statistics() -> dict[str, Statistic]:
    return {"mean_iou": by_column("iou", accuracy()), "acc@0.5": accuracy(), "acc@0.75": by_column("at_75", accuracy())}
