"""Supervised fine-tuning: its loss worked out by the definition, and targets that earn what they should."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import pytest
import torch

from locus.errors import LocusError
from locus.tasks.answers import completion_text
from locus.tasks.cue_search.rationales import NoRationales
from locus.tasks.rollouts import graded
from locus.types import Completion, CueExample
from tests.support.miniature import FAMILY, LARGE_BUDGET, SMALL_BUDGET, first_batch, fit, sft
from tests.support.models import backbone, builder


def test_sft_lowers_its_loss():
    """From about ln 1,716 = 7.4 nats a token; tags and separators are soon certain, the numbers are not."""
    run = fit(*sft(steps=20))
    losses = [row["train/loss"] for row in run.rows]
    assert losses[0] == pytest.approx(7.45, abs=0.3)
    assert losses[-1] < 0.6 * losses[0]


def test_sft_targets_earn_the_full_format_and_the_most_that_integers_can():
    """Targets in another frame or format than the reward's: SFT would then train against GRPO."""
    module, data = sft(steps=1)
    samples = first_batch(data)
    for sample, text in zip(samples, data.task.target(samples), strict=True):
        ids = module.target_ids(sample.prompt, text)
        assert ids[-1] == module.policy.end_token_ids[0]
        completion = Completion(ids, torch.zeros(len(ids)), finished=True)
        grade = graded(data.task, sample, completion, module.decode(ids)).grade
        assert grade.parts["format"] == 1 and grade.parts["iou"] > 0.9


def thought(example: CueExample) -> str:
    """Of one to five words, by the place."""
    return "there " * (1 + int(example.box[0]) % 5) + example.example_id


class Thoughts(NoRationales):
    """Rationales of different lengths that name their examples."""

    def rationales(self, examples: Sequence[CueExample]) -> Iterator[str]:
        return map(thought, examples)


@pytest.mark.parametrize("budget", [LARGE_BUDGET, SMALL_BUDGET])
def test_sft_loss_is_that_of_the_definition(budget: int):
    """SFT's loss written out once more, with rationales of different lengths: the mean over the step's target tokens
    of -log-prob. A rationale left out, or another example's, a box in the file's frame, a mean of means."""
    module, data = sft(steps=1, budget=budget, rationales=Thoughts(), tokens=48)
    policy = backbone(FAMILY).load().train()
    total, lengths = 0.0, []
    for sample in first_batch(data):
        example, prompt = sample.example, sample.prompt
        box = ", ".join(str(round(1000 * side / 64)) for side in example.box)  # FAMILY speaks 0-1000
        text = f"<think>{thought(example)}</think><answer>[{box}]</answer><|im_end|>"
        ids = torch.tensor(builder(FAMILY).encode(text))
        with torch.no_grad():
            logits = policy.model(
                input_ids=torch.cat([prompt.input_ids, ids])[None],
                mm_token_type_ids=torch.cat([prompt.mm_token_type_ids, torch.zeros_like(ids)])[None],
                pixel_values=prompt.pixel_values,
                image_grid_thw=prompt.image_grid_thw,
            ).logits[0, prompt.length - 1 : -1]
        logits[:, policy.forbidden] = float("-inf")
        total -= logits.log_softmax(-1).gather(1, ids[:, None]).sum().item()
        lengths.append(len(ids))
    (row,) = fit(module, data).rows
    assert len(set(lengths)) > 1
    assert row["train/loss"] == pytest.approx(total / sum(lengths), rel=1e-5)
    assert row["train/completion_length"] == sum(lengths) / len(lengths)
    assert row["train/skipped_updates"] == 0 and row["train/lr"] == 3e-3 and row["train/entropy"] > 0


def test_sft_target_continues_what_the_template_opened():
    """A second <think> behind the one that Qwen3-VL-Thinking's template opens."""
    module, data = sft(steps=1, tokens=48)
    prompt = replace(first_batch(data)[0].prompt, opened="<think>\n")
    target = completion_text("[8, 12, 40, 44]", "It is there.")
    text = module.decode(module.target_ids(prompt, target))
    assert text.startswith("It is there.</think><answer>[") and text.endswith("]</answer>")
    with pytest.raises(LocusError, match="has 18 tokens, completions end at 16.*max_new_tokens"):
        sft(steps=1)[0].target_ids(prompt, target)


def test_sft_micro_batches_do_not_change_the_gradient():
    """The loss is a mean over all target tokens of the step."""
    one, other = (fit(*sft(steps=1, budget=budget)) for budget in (LARGE_BUDGET, SMALL_BUDGET))
    one, other = (torch.cat([g.flatten() for g in run.optimizer.gradients[0]]) for run in (one, other))
    assert float((one - other).norm() / one.norm()) < 1e-5
