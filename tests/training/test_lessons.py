"""Lessons of pretraining say what is in the scene, and follow from their number alone."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
import pytest
import torch

from locus.errors import LocusError
from locus.policy.prompts import PixelLimits, PromptBuilder
from locus.policy.tiny import TinyQwen3VL
from locus.scenes.questions import colour, count, grounding
from locus.scenes.render import render
from locus.scenes.scene import Scene, SceneObject
from locus.scenes.source import ATTRIBUTES, SceneSource
from locus.tasks.answers import parse_answer
from locus.tasks.cue_search.audits import audited_corpus
from locus.tasks.cue_search.crops import CropStrategy
from locus.tasks.cue_search.rationales import NO_RATIONALES, LabelRationales
from locus.tasks.cue_search.task import CueSearch
from locus.tasks.datamodule import SampleMaker, Samples
from locus.training.lessons import (
    NOTHING,
    LessonLoader,
    Questions,
    SceneLessons,
    Thoughts,
    patch_labels,
    questions_of,
    shown_by,
)
from locus.training.pretraining import start_matching
from locus.types import Box, Frame
from tests.support.models import tiny_vlm


def source(seed: int = 1) -> SceneSource:
    return SceneSource(16, 128, 128, (4, 7), (10, 26), seed=seed)


def lessons_that(thoughts: Thoughts) -> SceneLessons:
    """Two patch lessons, then questions about two sparse images, with a crowded one beside them."""
    processor, scenes = TinyQwen3VL(position_grid=16).processor(), source(2)
    everywhere = CropStrategy({"any": (0.0, 1.0)}, {"any": 1.0}, 4, padding={}, scale={})
    builder = PromptBuilder(processor, PixelLimits())
    rationales = LabelRationales() if thoughts.of_cues else NO_RATIONALES
    task = CueSearch(audited_corpus(scenes, everywhere, 4, 2, 0), scenes, rationales=rationales)
    cues = Samples(SampleMaker(task, builder, Frame.PROCESSED), "train")
    kinds = [(grounding, 2), (colour, 1)]
    end = processor.tokenizer.eos_token_id
    sparse = SceneSource(16, 128, 128, (1, 3), (10, 26), seed=3)
    parts = Frame.PROCESSED, kinds, (3, 2, 1), thoughts, 2, cues, 1, 3
    return SceneLessons([source()], [sparse], builder, end, *parts, seed=0)


@pytest.fixture(scope="module")
def lessons() -> SceneLessons:
    """Lessons that name what is asked about."""
    return lessons_that(Thoughts.NAMED)


def test_patch_labels_by_hand():
    """Labels of another patch: rows for columns, or the corners of the wrong object."""
    items = [
        SceneObject(Box(2, 2, 14, 14, Frame.FILE, 64, 32), "star", "red", "plain"),
        SceneObject(Box(40, 10, 60, 30, Frame.FILE, 64, 32), "ring", "blue", "dotted"),
    ]
    words, boxes = patch_labels(Scene(64, 32, tuple(items), 0.0, 0), (4, 2), (128, 64))
    shapes = [["star", None, None, "ring"], [None, None, "ring", "ring"]]
    # The ring covers 8 x 6 of the third patch of the first row, 19 % of it.
    shapes[0][2] = "ring"
    expected = [[NOTHING if word is None else 1 + ATTRIBUTES[0].index(word) for word in row] for row in shapes]
    assert words[0].view(2, 4).tolist() == expected
    assert words[1, 0] == 1 + ATTRIBUTES[1].index("red") and words[2, 7] == 1 + ATTRIBUTES[2].index("dotted")
    assert boxes[0].tolist() == [4, 4, 28, 28]  # processed at twice the size
    assert boxes[1].tolist() == [0, 0, 0, 0] and boxes[7].tolist() == [80, 20, 120, 60]


def test_rows_are_question_then_completion(lessons):
    """A mask that is off by one: the model learns to ask."""
    assert lessons[1].questions is None
    asked = lessons[2].questions
    decode = lessons.builder.processor.tokenizer.decode
    rows = (part.flatten(0, 1) for part in (asked.token_ids, asked.learned, asked.looking))
    for ids, learned, looking in zip(*rows, strict=True):
        first = int(learned.nonzero()[0])
        assert decode(ids[:first]).endswith("?<|im_end|>\n<|im_start|>assistant\n")
        assert decode(ids[: int(looking.nonzero()[0]) + 1]).endswith("?")
        text = decode(ids[learned])
        thought = text.removeprefix("<think>").partition("</think><answer>")[0]
        assert thought and thought in decode(ids[:first]) and text.endswith("</answer><|im_end|>")
        assert not learned[first:][int(learned.sum()) :].any()
        if "Where" in decode(ids[:first]):
            assert parse_answer(text.removesuffix("<|im_end|>")).well_formed


@pytest.mark.parametrize(("thoughts", "of_questions", "of_cues"), [("silent", False, False), ("cues", False, True)])
def test_thoughts(thoughts, of_questions, of_cues):
    """A control that differs in more than its thoughts, or not even in them."""
    lessons = lessons_that(Thoughts.parse(thoughts))
    decode, asked = lessons.builder.processor.tokenizer.decode, lessons[3].questions
    texts = [decode(ids[learned]) for ids, learned in zip(*map(torch.Tensor.unbind, flat(asked)), strict=True)]
    assert all(text.startswith("<think></think>") != of_questions for text in texts)
    assert all(decode(target).startswith("<think></think>") != of_cues for target in asked.cue_targets)


def flat(asked: Questions) -> tuple[torch.Tensor, torch.Tensor]:
    """[B·G, T] tokens and what is learned of them."""
    return asked.token_ids.flatten(0, 1), asked.learned.flatten(0, 1)


def test_an_unknown_thought_is_refused():
    """A mistyped setting that trains the default."""
    with pytest.raises(LocusError, match=r"lessons\.think"):
        Thoughts.parse("aloud")


def test_crowded_images_are_seen_and_not_asked_about(lessons):
    """Questions about crowds: the base would not be one that has met sparse scenes only."""
    lesson = lessons[2]
    assert len(lesson.prompts) == 3 and len(lesson.questions.token_ids) == 2
    assert len(lesson.boxes) == 3 * 64  # of every image's patches


def test_evidence_is_where_the_object_is(lessons):
    """Heads that are told to look at another object, or at another image's."""
    rng = np.random.default_rng(0)
    scene = lessons.sources[0].scene(0)
    prompt = lessons.builder.image_prompts([render(scene)])[0]
    for question, (_, _, _, evidence) in zip(
        questions_of(scene, lessons.kinds, np.random.default_rng(0)),
        lessons.rows(scene, prompt, (8, 8), rng),
        strict=True,
    ):
        box, here = question.evidence[0], evidence[prompt.mm_token_type_ids.bool()].view(8, 8)
        assert not evidence[~prompt.mm_token_type_ids.bool()].any()
        assert here[int((box.y1 + box.y2) // 32), int((box.x1 + box.x2) // 32)]
        rows, columns = here.nonzero(as_tuple=True)
        assert 16 * int(columns.min()) >= box.x1 - 16 and 16 * int(columns.max()) < box.x2
        assert 16 * int(rows.min()) >= box.y1 - 16 and 16 * int(rows.max()) < box.y2
    assert shown_by(scene, (8, 8), ()).shape == (64, 0)


def test_cues_come_late(lessons):
    """A base that has met the task for long: nothing is left for post-training to show."""
    assert [len(lessons[step].questions.cues) for step in (2, 3, 4)] == [0, 1, 1]


def test_like_looks_at_like():
    """Query and key weights that differ: a word would not find the patches that show it."""
    policy = tiny_vlm("qwen3_vl", text_kv_heads=2)
    start_matching(policy, 1)
    for layer in policy.model.model.language_model.layers:
        query, key = layer.self_attn.q_proj.weight, layer.self_attn.k_proj.weight
        assert torch.equal(query[:32], key[:32]) and not torch.equal(query[32:64], key[32:64])


def test_a_lesson_depends_on_its_number_alone(lessons):
    """A resumed run that sees other lessons than an unbroken one; a lesson that comes twice."""
    for step in (0, 2):
        one, two, other = lessons[step], lessons[step], lessons[step + 1]
        assert torch.equal(one.prompts[0].pixel_values, two.prompts[0].pixel_values)
        assert not torch.equal(one.prompts[0].pixel_values, other.prompts[0].pixel_values)
    assert torch.equal(lessons[2].questions.token_ids, lessons[2].questions.token_ids)


def tensors(value: Any) -> list[torch.Tensor]:
    """All that a lesson holds, in order."""
    if isinstance(value, torch.Tensor):
        return [value]
    if is_dataclass(value):
        value = [getattr(value, field.name) for field in fields(value)]
    return [tensor for part in value for tensor in tensors(part)] if isinstance(value, list | tuple) else []


@pytest.mark.parametrize("workers", [0, 1, 2, 3])
def test_workers_draw_the_same_lessons(lessons, workers):
    """Lessons that are left out, come in another order or are changed on their way, at the end or after a resume."""
    loader = LessonLoader(lessons, 6, 1, workers, timeout=60)
    drawn = list(loader)
    assert len(loader) == 6 and len(drawn) == 5
    for number, lesson in enumerate(drawn, start=1):
        expected = tensors(lessons[number])
        assert len(expected) > 10 and len(tensors(lesson)) == len(expected)
        for one, two in zip(tensors(lesson), expected, strict=True):
            assert one.dtype == two.dtype and torch.equal(one, two)


def test_what_a_scene_cannot_give_is_made_up_for():
    """Rows of different number: a group forward takes the same number of every image."""
    scene = Scene(64, 64, (SceneObject(Box(0, 0, 9, 9, Frame.FILE, 64, 64), "star", "red", "plain"),), 0.0, 0)
    for seed in range(20):
        assert len(questions_of(scene, [(count, 3), (colour, 2)], np.random.default_rng(seed))) == 5
