"""Scene questions put to a policy, without any cue: greedy free decoding, answers judged by exact match or IoU."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from locus.boxes import box_iou, convert, frame_size
from locus.policy.prompts import QuestionCollator
from locus.policy.rollouts import sample_groups
from locus.policy.vlm import VLM
from locus.scenes.questions import Ask, SceneQuestion
from locus.scenes.render import render
from locus.scenes.scene import Scene
from locus.scenes.source import SceneSource
from locus.tasks.answers import answer_block, parse_answer
from locus.types import Box, Prompt, PromptRecord, QuestionPrompt, Sampling

GREEDY = Sampling(temperature=0.0, max_new_tokens=24)


@dataclass(frozen=True, eq=False)
class AskedScene:
    """A scene and one question about it."""

    scene: Scene
    question: SceneQuestion


@dataclass(frozen=True)
class QuestionResult:
    """What a policy made of a question."""

    kind: str
    question: str
    expected: str
    text: str
    """The completion."""
    score: float
    """1 for the right word, else 0; for grounding 1 from an IoU of 0.5 on."""
    iou: float | None
    """Of a grounding question's box."""


def draw_questions(source: SceneSource, ask: Ask, number: int, seed: int) -> list[AskedScene]:
    """The first ``number`` scenes that have such a question, with it; each scene once, each answer equally often."""
    asked: list[AskedScene] = []
    answers: Counter[str] = Counter()
    index = 0
    while len(asked) < number:
        scene = source.scene(index)
        question = ask(scene, np.random.default_rng([seed, index]))
        index += 1
        if question is None:
            continue
        most = math.ceil(number / len(question.choices)) if question.choices else number
        if answers[question.answer] < most:
            answers[question.answer] += 1
            asked.append(AskedScene(scene, question))
    return asked


@torch.no_grad()
def complete(
    policy: VLM, prompts: Sequence[Prompt], decode: Callable[[torch.Tensor], str], batch: int = 128
) -> list[str]:
    """The greedy completion of each prompt."""
    policy.eval()
    texts = []
    for start in range(0, len(prompts), batch):
        part = prompts[start : start + batch]
        groups = sample_groups(policy, part, policy.encode(part), 1, GREEDY, 0, 0)
        texts += [decode(completion.token_ids) for (completion,) in groups]
    return texts


def cue_search(policy: VLM, prompts: Sequence[PromptRecord], decode: Callable[[torch.Tensor], str]) -> dict[str, float]:
    """Mean IoU and share of well-formed answers of greedy cue search."""
    ious, formed = [], 0
    for prompt, text in zip(prompts, complete(policy, prompts, decode), strict=True):
        parsed, value, target = parse_answer(text, prompt.opened), 0.0, prompt.target
        if parsed.xyxy is not None:
            box = Box(*parsed.xyxy, prompt.answer_frame, *prompt.answer_size)
            value = box_iou(convert(box, target.frame, target.width, target.height), target)
        formed += parsed.well_formed
        ious.append(value)
    return {"cue_iou": sum(ious) / len(ious), "cue_format": formed / len(ious)}


def ask_policy(policy: VLM, asked: Sequence[AskedScene], collator: QuestionCollator) -> list[QuestionResult]:
    """Puts every question to the policy."""
    images = [render(entry.scene) for entry in asked]
    texts = [entry.question.text for entry in asked]
    prompts = collator.question_prompts([str(i) for i in range(len(asked))], images, texts)
    completions = complete(policy, prompts, collator.decode)
    return [judge(e.question, p, t, policy) for e, p, t in zip(asked, prompts, completions, strict=True)]


def judge(question: SceneQuestion, prompt: QuestionPrompt, text: str, policy: VLM) -> QuestionResult:
    """Compares the answer block with the truth."""
    if question.answer:
        said = (answer_block(prompt.opened + text) or "").strip().lower()
        return QuestionResult(question.kind, question.text, question.answer, text, float(said == question.answer), None)
    target, parsed = question.evidence[0], parse_answer(text, prompt.opened)
    value = 0.0
    if parsed.xyxy is not None:
        size = frame_size(policy.frame, (target.width, target.height), prompt.processed_size)
        box = Box(*parsed.xyxy, policy.frame, *size)
        value = box_iou(convert(box, target.frame, target.width, target.height), target)
    return QuestionResult(question.kind, question.text, "", text, float(value >= 0.5), value)
