"""What a tiny backbone is pretrained on: generated scenes with labels of every patch, then with answered questions.

Patches are told in scenes of every kind, questions are asked about ``question_sources`` alone: a base that has met
questions about sparse scenes only sees a crowded one well and answers questions about it badly.

Lesson s depends on (seed, s) alone, so a resumed run continues with the very next one.
Shapes: B images, G questions an image, T tokens of question and completion, N merged patches of all images.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from locus.boxes import to_view
from locus.errors import by_name
from locus.policy.prompts import PromptBuilder
from locus.scenes.questions import Ask, SceneQuestion, grounding
from locus.scenes.render import render
from locus.scenes.scene import Scene
from locus.scenes.source import ATTRIBUTES, SceneSource
from locus.tasks.answers import box_text, completion_text
from locus.tasks.datamodule import Samples
from locus.tasks.loader import BatchLoader
from locus.types import Box, Frame, Prompt, View

NOTHING = 0
"""The label of a patch without an object; words count from 1."""
LEAST_OVERLAP = 0.15
"""Share of a patch, or of an object, that must overlap for the patch to be labelled with the object."""
TRIES = 8
"""How often a kind is asked for before a scene counts as having no such question."""


class Thoughts(StrEnum):
    """Whose answers begin with the words for the object in question."""

    NAMED = "named"
    """Questions' and cues'."""
    CUES = "cues"
    SILENT = "silent"
    """Nobody's."""

    @property
    def of_questions(self) -> bool:
        """Whether an answer to a question names what is asked about."""
        return self is Thoughts.NAMED

    @property
    def of_cues(self) -> bool:
        """Whether an answer to a cue names what is cropped."""
        return self is not Thoughts.SILENT

    @classmethod
    def parse(cls, value: str) -> Thoughts:
        """Raises LocusError for an unknown value."""
        return by_name("lessons.think", value, {kind.value: kind for kind in cls})


@dataclass(frozen=True, eq=False)
class Questions:
    """Isolated questions about the images of a lesson, and a few cue-search prompts."""

    token_ids: torch.Tensor
    """[B, G, T] question, then completion."""
    learned: torch.Tensor
    """[B, G, T] bool: the tokens of the completion."""
    looking: torch.Tensor
    """[B, G, T] bool: from the end of the question on."""
    evidence: torch.Tensor
    """[B, G, P] bool: the prompt tokens of the patches that show the answer."""
    cues: list[Prompt]
    cue_targets: list[torch.Tensor]
    """One [T] completion a cue."""


@dataclass(frozen=True, eq=False)
class Lesson:
    """Images with the object at each merged patch, and perhaps questions."""

    prompts: list[Prompt]
    """Images, without questions; the first B of them are asked about, where there are questions."""
    words: torch.Tensor
    """[3, N] int64: shape, colour, pattern; NOTHING or 1 + the word's index."""
    boxes: torch.Tensor
    """[N, 4] int64: the object's corners, whole pixels of the processed image; 0 without an object."""
    questions: Questions | None


class SceneLessons:
    """Lesson s of the run; the first ``patch_lessons`` only label patches, the others ask questions, too.

    Args:
        sources: of scenes whose patches are labelled, drawn from in turn, image by image.
        question_sources: of scenes with questions, likewise; their patches are labelled, too.
        builder: makes prompts.
        end_token_id: ends a completion.
        frame: that boxes are written in.
        kinds: questions an image, by kind.
        images: of a patch lesson; of a question lesson with questions, and without.
        thoughts: what is thought before an answer.
        patch_lessons: how many there are, before the others.
        cues: samples of cue search, used again and again.
        cues_per_lesson: prompts of them in a lesson, from lesson ``first_cue_lesson`` on.
        seed: of scenes and questions.
    """

    def __init__(
        self,
        sources: Sequence[SceneSource],
        question_sources: Sequence[SceneSource],
        builder: PromptBuilder,
        end_token_id: int,
        frame: Frame,
        kinds: Sequence[tuple[Ask, int]],
        images: tuple[int, int, int],
        thoughts: Thoughts,
        patch_lessons: int,
        cues: Samples,
        cues_per_lesson: int,
        first_cue_lesson: int,
        seed: int,
    ):
        self.thoughts = thoughts
        self.sources, self.question_sources = sources, question_sources
        self.builder, self.end_token_id, self.frame = builder, end_token_id, frame
        self.kinds, self.images, self.patch_lessons = kinds, images, patch_lessons
        self.cues, self.seed = cues, seed
        self.cues_per_lesson, self.first_cue_lesson = cues_per_lesson, first_cue_lesson

    def __getitem__(self, step: int) -> Lesson:
        rng = np.random.default_rng([self.seed, step])
        asks = step >= self.patch_lessons
        patch_images, asked_images, seen_images = self.images
        scenes = _drawn(self.question_sources, asked_images, rng) if asks else []
        scenes += _drawn(self.sources, seen_images if asks else patch_images, rng)
        prompts = self.builder.image_prompts([render(scene) for scene in scenes])
        cells = [cells_of(prompt, self.builder) for prompt in prompts]
        sizes = [prompt.processed_size for prompt in prompts]
        words, boxes = zip(*map(patch_labels, scenes, cells, sizes), strict=True)
        cues = self.cues_per_lesson if step >= self.first_cue_lesson else 0
        asked = slice(asked_images)
        questions = self.questions(scenes[asked], prompts[asked], cells[asked], rng, cues) if asks else None
        return Lesson(prompts, torch.cat(words, dim=1), torch.cat(boxes), questions)

    def questions(
        self,
        scenes: list[Scene],
        prompts: list[Prompt],
        cells: list[tuple[int, int]],
        rng: np.random.Generator,
        cues: int,
    ) -> Questions:
        """As many a scene as ``kinds`` says, and so many cues."""
        rows = [row for group in zip(scenes, prompts, cells, strict=True) for row in self.rows(*group, rng)]
        ids, learned, looking, evidence = (
            pad_sequence(list(part), True, 0).unflatten(0, (len(scenes), -1)) for part in zip(*rows, strict=True)
        )
        chosen = rng.integers(len(self.cues), size=cues).tolist() if cues else []
        samples = [self.cues[index] for index in chosen]
        targets = [self.completion(text) for text in self.cues.make.task.target(samples)]
        return Questions(ids, learned, looking, evidence, [sample.prompt for sample in samples], targets)

    def rows(
        self, scene: Scene, prompt: Prompt, cells: tuple[int, int], rng: np.random.Generator
    ) -> list[tuple[torch.Tensor, ...]]:
        """For each question of an image: [T] token ids, [T] completion, [T] after the question, [P] evidence."""
        rows: list[tuple[torch.Tensor, ...]] = []
        view = View(self.frame, prompt.processed_size)
        for question in questions_of(scene, self.kinds, rng):
            asked = torch.tensor(self.builder.encode(self.builder.turn(question.text)))
            answer = question.answer
            if not answer:
                answer = box_text(to_view(question.evidence[0], view))
            completion = self.completion(
                completion_text(answer, question.subject if self.thoughts.of_questions else "")
            )
            ids = torch.cat([asked, completion])
            place = torch.arange(len(ids))
            looking = place >= len(self.builder.encode(question.text)) - 1
            evidence = prompt.mm_token_type_ids.bool()
            evidence[evidence.clone()] = torch.from_numpy(shown_by(scene, cells, question.evidence).any(1))
            rows.append((ids, place >= len(asked), looking, evidence))
        return rows

    def completion(self, text: str) -> torch.Tensor:
        """[T] tokens, the end token last."""
        return torch.tensor([*self.builder.encode(text), self.end_token_id])


class LessonLoader:
    """The lessons of a run, one at a time; each worker draws one ahead.

    Args:
        lessons: by their number.
        steps: of the whole run; the length that is reported.
        start: the first lesson to give.
        workers: processes that draw lessons; 0 draws them in this one.
        timeout: seconds that the trainer waits for a worker.
    """

    def __init__(self, lessons: SceneLessons, steps: int, start: int, workers: int, timeout: float) -> None:
        self.lessons, self.steps, self.start, self.workers, self.timeout = lessons, steps, start, workers, timeout

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[Lesson]:
        left, size = range(self.start, self.steps), max(self.workers, 1)
        batches = [left[first : first + size] for first in range(0, len(left), size)]
        for batch in BatchLoader(self.lessons, batches, self.workers, self.timeout):
            yield from batch


def _drawn(sources: Sequence[SceneSource], count: int, rng: np.random.Generator) -> list[Scene]:
    return [sources[i % len(sources)].scene(int(rng.integers(2**40))) for i in range(count)]


def questions_of(scene: Scene, kinds: Sequence[tuple[Ask, int]], rng: np.random.Generator) -> list[SceneQuestion]:
    """As many questions of each kind as asked for; what a scene cannot give is made up for by grounding.

    Answers are as common as they are in the scenes, see `locus.scenes.questions`: most counts of few objects are 0.
    """
    found = []
    for ask, number in kinds:
        for _ in range(number):
            tried = (ask(scene, rng) for _ in range(TRIES))
            found.append(next((question for question in tried if question), None) or grounding(scene, rng))
    return found


def cells_of(prompt: Prompt, builder: PromptBuilder) -> tuple[int, int]:
    """Columns and rows of merged patches."""
    merge = builder.processor.image_processor.merge_size
    _, rows, columns = prompt.image_grid_thw[0].tolist()
    return columns // merge, rows // merge


def shown_by(scene: Scene, cells: tuple[int, int], boxes: Sequence[Box]) -> np.ndarray:
    """[N, boxes] bool: whether each merged patch shows enough of each box; see `LEAST_OVERLAP`."""
    if not boxes:
        return np.zeros((cells[0] * cells[1], 0), dtype=bool)
    shared, least = _overlaps(scene, cells, boxes)
    return shared >= least


def patch_labels(scene: Scene, cells: tuple[int, int], size: tuple[float, float]) -> tuple[torch.Tensor, torch.Tensor]:
    """The object that overlaps each merged patch most -> words [3, N] and corners [N, 4], see `Lesson`."""
    shared, least = _overlaps(scene, cells, [item.box for item in scene.objects])
    best = shared.argmax(1)
    enough = shared.max(1) >= least[best]
    indices = [[words.index(item.attributes[kind]) for item in scene.objects] for kind, words in enumerate(ATTRIBUTES)]
    words = np.where(enough, np.array(indices)[:, best] + 1, NOTHING)
    scale = np.tile(np.array(size) / (scene.width, scene.height), 2)
    boxes = np.array([item.box.xyxy for item in scene.objects])
    corners = np.where(enough[:, None], (boxes[best] * scale).round(), 0)
    return torch.from_numpy(words), torch.from_numpy(corners).long()


def _overlaps(scene: Scene, cells: tuple[int, int], boxes: Sequence[Box]) -> tuple[np.ndarray, np.ndarray]:
    """[N, boxes] area shared by each merged patch and each box, and [boxes] the least that counts, file pixels."""
    columns, rows = cells
    side = np.array([scene.width / columns, scene.height / rows])
    corner = np.stack(np.meshgrid(np.arange(columns), np.arange(rows)), axis=-1).reshape(-1, 1, 2) * side
    corners = np.array([box.xyxy for box in boxes])
    shared = np.minimum(corner + side, corners[:, 2:]) - np.maximum(corner, corners[:, :2])
    areas = (corners[:, 2:] - corners[:, :2]).prod(-1)
    return shared.clip(0).prod(-1), LEAST_OVERLAP * np.minimum(side.prod(), areas)
