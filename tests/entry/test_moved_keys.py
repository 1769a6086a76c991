"""Keys and groups of the last release: each is refused, before anything is composed, with one line on what to write."""

from __future__ import annotations

import pytest

from locus.run.help import SHARES, successor_of
from tests.support.paths import CONF
from tests.support.runs import finish, refused, spawn

LAST_RELEASE = {
    "analysis": ("context_rot",),
    "evaluation": ("none", "scenes", "questions"),
    "expressions": ("none", "endpoint"),
    "kl": ("preset", "off", "k1", "k2", "k3"),
    "logprobs": ("packed", "separate"),
    "method": ("grpo", "sft"),
    "mix": ("none", "questions", "questions_file"),
    "optimizer": ("paper", "tiny"),
    "order": ("uniform", "balanced", "curriculum"),
    "pixels": ("native", "easyr1"),
    "rollout": ("default",),
    "scale": ("corpus", "diagnosis", "table2", "table3", "table11"),
    "targets": ("none", "templates", "file", "endpoint"),
    "training": ("paper", "tiny"),
    "watch": ("none", "attention"),
}
"""Groups with their options that are gone."""


@pytest.mark.parametrize("group", LAST_RELEASE)
def test_every_group_that_is_gone_names_its_successor(group):
    """A command of the last release must not end in Hydra's words about an unknown group, nor change its meaning."""
    for option in LAST_RELEASE[group]:
        assert successor_of(f"{group}={option}"), f"{group}={option} is not refused"
        assert not (CONF / group / f"{option}.yaml").exists()


@pytest.mark.parametrize(
    ("override", "successor"),
    [
        ("order=balanced", "trainer/order=balanced"),
        ("order=uniform,balanced", "trainer/order=uniform,balanced"),
        ("order.steps=30", "trainer.order.steps=30"),
        ("targets=templates", "rationales=templates"),
        ("targets.path=a=b.jsonl", "rationales.path=a=b.jsonl"),
        ("method=sft,grpo", "algorithm=sft,grpo"),
        ("mix=questions_file", "task=mixture task@task.parts.other=questions_file"),
        ("mix.path=q.jsonl", "task.parts.other.source.path=q.jsonl"),
        ("mix.share=0.25", SHARES),
        ("task/other=questions", "task@task.parts.other=questions_training"),
        ("task.other.think=true", "task.parts.other.think=true"),
        ("~evaluation.questions", "diagnoses.questions"),
        ("evaluation.attention.limit=4", "diagnoses.attention.limit=4"),
        ("diagnoses.context_rot.questions=4", "diagnoses.crowding.questions=4"),
        ("evaluation.context_rot.questions=4", "diagnoses.crowding.questions=4"),
        ("~diagnoses.context_rot", "diagnoses.crowding"),
        ("kl=off", "algorithm.loss.kl_coefficient=0"),
        ("kl=k1,k2", "algorithm.loss.kl_estimator=k1,k2"),
        ("algorithm.loss.average.path=locus.training.loss.token_mean", "algorithm.loss.average=token_mean"),
        ("reward.localisation.path=locus.tasks.cue_search.reward.giou_reward", "reward.localisation=giou"),
        ("+trainer.stop_at_iou=0.4", "trainer.stop_at=0.4"),
    ],
)
def test_successors(override, successor):
    """The line can be copied: values, dotted keys and sweeps are kept."""
    assert successor_of(override) == successor


@pytest.mark.parametrize(
    "override",
    ["seed=1", "trainer.order.steps=3", "task.shares.other=2", "scale=tiny", "rollout.sampling.max_new_tokens=8", "-m",
     "optimizer.make.lr=1e-4", "pixels.max_pixels=400", "hydra.run.dir=order", "algorithm=sft", "mixture=1",
     "hydra.sweep.dir=outputs/kl=off"],
)  # fmt: skip
def test_what_holds_is_left_alone(override):
    """A guard that refuses what is right would be switched off."""
    assert successor_of(override) is None


@pytest.mark.parametrize(
    ("app", "arguments", "says"),
    [
        ("train", ("mix=questions", "trainer.steps=1"), "task=mixture"),
        ("train", ("-m", "order=uniform,balanced"), "trainer/order=uniform,balanced"),
        ("evaluate", ("pixels=easyr1",), "pixels.min_pixels=262144 pixels.max_pixels=4194304"),
        ("prepare", ("targets=templates",), "rationales=templates"),
        ("analyze", ("analysis=context_rot",), "analysis=crowding"),
    ],
)
def test_the_command_refuses_it_in_one_line(app, arguments, says):
    """In a process of its own, sweeps too: status 2, one line, nothing written."""
    refused(finish(spawn("-m", f"locus.{app}", *arguments)), "has moved", says)
